#include "chanas/data/augment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "chanas/data/image.h"

namespace chanas {
namespace {

void write_box(const Dataset& dataset, int image, const Box& box, bool mirror, int resolution,
               float* out) {
  const int size = dataset.size();
  resample(dataset.store.image(image), size, size, box, mirror, resolution,
           1.0f / (255 * kInputStd), -kInputMean / kInputStd, out);
}

}  // namespace

StatusOr<Augment> parse_augment(std::string_view name) {
  if (name == "none") return Augment::kNone;
  if (name == "light") return Augment::kLight;
  if (name == "crop") return Augment::kCrop;
  return absl::InvalidArgumentError(
      fmt::format("augment is \"{}\", expected none, light or crop", name));
}

void write_input(const Dataset& dataset, int image, int resolution, float* out) {
  const double size = dataset.size();
  write_box(dataset, image, {0, 0, size, size}, false, resolution, out);
}

void write_augmented_input(const Dataset& dataset, int image, Augment augment, Rng& rng,
                           int resolution, float* out) {
  const double size = dataset.size();
  Box box{0, 0, size, size};
  bool mirror = false;
  switch (augment) {
    case Augment::kNone:
      break;
    case Augment::kLight: {
      const int64_t reach = dataset.size() / 8;
      box.x = static_cast<double>(rng.uniform_int(-reach, reach));
      box.y = static_cast<double>(rng.uniform_int(-reach, reach));
      mirror = rng.bernoulli(0.5);
      break;
    }
    case Augment::kCrop: {
      const double area = rng.uniform_real(0.35, 1) * size * size;
      // Aspects and their inverses are equally likely; no logarithm, for equal bits everywhere.
      double aspect = rng.uniform_real(1, 4.0 / 3);
      if (rng.bernoulli(0.5)) aspect = 1 / aspect;
      box.width = std::min(size, std::sqrt(area * aspect));
      box.height = std::min(size, std::sqrt(area / aspect));
      box.x = rng.uniform_real(0, size - box.width);
      box.y = rng.uniform_real(0, size - box.height);
      mirror = rng.bernoulli(0.5);
      break;
    }
  }
  write_box(dataset, image, box, mirror, resolution, out);
}

}  // namespace chanas
