#pragma once
// Accuracy of subnets: batch normalisation renewed on training images, then a held-out part.

#include <map>
#include <vector>

#include "chanas/data/augment.h"
#include "chanas/data/dataset.h"
#include "chanas/supernet/supernet.h"

namespace chanas {

// Whole images as they are, at a resolution.
Batch make_batch(const Dataset& dataset, std::span<const int> images, int resolution);
// Augmented, the same way at all resolutions; the stream of images[i] is
// Rng(seed, "augment", first + i).
Batch make_training_batch(const Dataset& dataset, std::span<const int> images,
                          std::span<const int> resolutions, Augment augment, uint64_t seed,
                          uint64_t first);

// Not thread safe; `dataset` must outlive it. Keeps resampled images between networks while they
// fit into about a gigabyte.
class Evaluator {
 public:
  // `images` of the part (0: all) and `recalibration_images` of the train part, the first ones of
  // each; as many as there are when there are fewer.
  Evaluator(const Dataset& dataset, Part part, int64_t images, int64_t recalibration_images);
  int64_t images() const { return static_cast<int64_t>(images_.size()); }
  int64_t recalibration_images() const { return static_cast<int64_t>(recalibration_.size()); }

  void recalibrate(Subnet& subnet);
  // With the statistics that the subnet has.
  double accuracy(const Subnet& subnet);
  // Both.
  double accuracy(const Supernet& supernet, const Arch& arch);

 private:
  const Batch& batch(bool recalibration, int resolution, int index);

  const Dataset& dataset_;
  std::vector<int> images_, recalibration_;
  std::map<std::tuple<bool, int, int>, Batch> cache_;
  int64_t cached_bytes_ = 0;
  Batch last_;
};

}  // namespace chanas
