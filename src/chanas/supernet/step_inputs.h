#pragma once
// The images of each step, made on a worker thread while the step before computes.

#include <array>
#include <string>
#include <vector>

#include "chanas/data/augment.h"
#include "chanas/data/dataset.h"
#include "chanas/supernet/client.h"
#include "chanas/supernet/collective.h"
#include "chanas/supernet/prefetch.h"
#include "chanas/supernet/supernet.h"

namespace chanas {

struct Inputs {
  Batch batch, gap_batch;  // the second one is empty (n == 0) without a gap loss
};

// Image i of a training is a function of (seed, i), with its augmentation, whatever the number of
// ranks; each gets its part of a step's images. `threads` make them. Not thread safe; the arguments
// must outlive it.
class StepInputs {
 public:
  StepInputs(const Dataset& dataset, const TrainConfig& config, Augment augment,
             const Collective& ranks, int threads);

  struct Key {
    int64_t step = 0;
    std::vector<int> resolutions;  // of the images
    bool operator==(const Key&) const = default;
  };
  // The inputs of a step; those of `next` are begun.
  Inputs take(const Key& key, const Key& next) { return prefetch_.take(key, next); }
  // That steps have waited for their images.
  double wait_seconds() const { return prefetch_.wait_seconds(); }

 private:
  // Images of a part in an order of its own for each pass.
  struct Stream {
    std::string name;
    std::vector<int> images;
    int64_t epoch = -1;  // of `order`
    std::vector<int> order = {};
  };
  std::vector<int> images_of_step(Stream& stream, int64_t step) const;
  Batch batch_of(Stream& stream, const Key& key, uint64_t seed) const;
  Inputs make(const Key& key);

  const Dataset& dataset_;
  const TrainConfig& config_;
  const Augment augment_;
  const Share share_;
  std::array<Stream, 2> streams_;  // train, gap; of the worker thread
  // Last: its thread uses members above.
  Prefetch<Key, Inputs> prefetch_;
};

}  // namespace chanas
