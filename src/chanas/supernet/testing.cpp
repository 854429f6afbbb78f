#include "chanas/supernet/testing.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "chanas/base/fingerprint.h"
#include "chanas/base/rng.h"

namespace chanas::testing_supernet {

ArchSpace space_of(const std::string& name, const std::string& text) {
  auto space = parse_space(text, name);
  CHANAS_CHECK(space.ok()) << space.status();
  return *space;
}

ArchSpace tiny_space() {
  return space_of("tiny", R"(
    classes = 3
    resolutions = [12, 16]
    widths = [1.0, 1.3]
    kernels = [3, 5]
    expands = [3, 4]
    depths = [1, 2]
    stem = { channels = 8, stride = 2, act = "hswish" }
    first = { channels = 8, act = "relu" }
    blocks = [
      { channels = 8, act = "relu" },
      { channels = 16, stride = 2, se = true, act = "hswish" },
    ]
    head = { channels = 24, mix = 32, act = "hswish", dropout = 0.1 }
  )");
}

Dataset colour_images(int classes, int images, uint64_t seed) {
  Dataset dataset;
  dataset.store = ImageStore(16);
  for (int c = 0; c < classes; ++c) dataset.classes.push_back("class " + std::to_string(c));
  for (int i = 0; i < images; ++i) {
    Rng rng(seed, "colour image", static_cast<uint64_t>(i));
    const int label = i % classes;
    dataset.labels.push_back(label);
    uint8_t* to = *dataset.store.add();
    for (int p = 0; p < 16 * 16; ++p) {
      for (int c = 0; c < 3; ++c) {
        const double mean = 110 + 12 * ((label >> c) & 1);
        *to++ = static_cast<uint8_t>(std::clamp(mean + 40 * rng.normal(), 0.0, 255.0));
      }
    }
  }
  std::vector<int> order(static_cast<size_t>(images));
  std::iota(order.begin(), order.end(), 0);
  DataConfig config;
  config.seed = seed;
  config.ranking_share = 0.25;
  CHANAS_CHECK(divide(config, order, {}, dataset).ok());
  dataset.info.fingerprint = fingerprint(std::to_string(classes) + " " + std::to_string(images) +
                                         " " + std::to_string(seed));
  return dataset;
}

std::vector<std::string> weight_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  std::sort(files.rbegin(), files.rend());
  return files;
}

Batch random_batch(int n, int resolution, int classes, uint64_t seed) {
  Batch batch{n, {}, {}};
  Rng rng(seed);
  for (int i = 0; i < n * resolution * resolution * 3; ++i) {
    batch.images[resolution].push_back(static_cast<float>(rng.normal()));
  }
  for (int i = 0; i < n; ++i) {
    batch.labels.push_back(static_cast<int>(rng.uniform(static_cast<uint64_t>(classes))));
  }
  return batch;
}

}  // namespace chanas::testing_supernet
