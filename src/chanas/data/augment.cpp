#include "chanas/data/augment.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "chanas/data/augment_policy.h"
#include "chanas/data/image.h"

namespace chanas {
namespace {

constexpr double kBrightness = 32.0 / 255, kSaturation = 0.5;

void write_box(const uint8_t* pixels, int size, const Box& box, bool mirror, const View& view) {
  resample(pixels, size, size, box, mirror, view.resolution, 1.0f / (255 * kInputStd),
           -kInputMean / kInputStd, view.out);
}

double signed_strength(Rng& rng) { return rng.uniform_real(-1, 1); }

// The stored image, changed in colour and form; in this thread's memory.
const uint8_t* change(const uint8_t* pixels, int size, const Augment& augment, Rng& rng) {
  thread_local std::vector<uint8_t> changed;
  changed.resize(static_cast<size_t>(size) * static_cast<size_t>(size) * 3);
  if (augment.policy) {
    const auto operation = static_cast<Operation>(rng.uniform(kOperations));
    apply(operation, signed_strength(rng), size, pixels, changed.data());
  } else {
    std::copy_n(pixels, changed.size(), changed.begin());
  }
  if (augment.colour) {
    const double brightness = 1 + kBrightness * signed_strength(rng);
    scale_colour(brightness, 1 + kSaturation * signed_strength(rng), size, changed.data());
  }
  return changed.data();
}

// A square around a centre in [0, 1).
void cut_out(double across, double down, const View& view) {
  const int resolution = view.resolution, side = resolution / 2;
  const auto begin_and_end = [&](double center) {
    const int begin = static_cast<int>(center * resolution) - side / 2;
    return std::pair(std::max(0, begin), std::min(resolution, begin + side));
  };
  const auto [top, bottom] = begin_and_end(down);
  const auto [left, right] = begin_and_end(across);
  for (int y = top; y < bottom; ++y) {
    std::fill(view.out + (y * resolution + left) * 3, view.out + (y * resolution + right) * 3,
              0.0f);
  }
}

}  // namespace

void write_input(const Dataset& dataset, int image, const View& view) {
  const double size = dataset.size();
  write_box(dataset.store.image(image), dataset.size(), {0, 0, size, size}, false, view);
}

void write_augmented_input(const Dataset& dataset, int image, const Augment& augment, Rng& rng,
                           std::span<const View> views) {
  const double size = dataset.size();
  Box box{0, 0, size, size};
  bool mirror = false;
  switch (augment.geometry) {
    case Geometry::kNone:
      break;
    case Geometry::kLight: {
      const int64_t reach = dataset.size() / 8;
      box.x = static_cast<double>(rng.uniform_int(-reach, reach));
      box.y = static_cast<double>(rng.uniform_int(-reach, reach));
      mirror = rng.bernoulli(0.5);
      break;
    }
    case Geometry::kCrop: {
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
  const uint8_t* pixels = dataset.store.image(image);
  if (augment.policy || augment.colour) pixels = change(pixels, dataset.size(), augment, rng);
  for (const View& view : views) write_box(pixels, dataset.size(), box, mirror, view);
  if (!augment.cutout) return;
  const double across = rng.uniform01(), down = rng.uniform01();
  for (const View& view : views) cut_out(across, down, view);
}

}  // namespace chanas
