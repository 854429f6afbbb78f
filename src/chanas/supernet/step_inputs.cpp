#include "chanas/supernet/step_inputs.h"

#include "chanas/base/rng.h"
#include "chanas/supernet/evaluate.h"

namespace chanas {

StepInputs::StepInputs(const Dataset& dataset, const TrainConfig& config, Augment augment,
                       const Collective& ranks, int threads)
    : dataset_(dataset),
      config_(config),
      augment_(augment),
      share_(share_of(config.batch_size, ranks.rank(), ranks.world())),
      prefetch_([this](const Key& key) { return make(key); }, threads) {
  streams_[0] = {.name = "epoch", .images = dataset.part(Part::kTrain)};
  streams_[1] = {.name = "gap epoch", .images = dataset.part(Part::kGap)};
  if (config.loss == "data_matched") {
    streams_[0].images.insert(streams_[0].images.end(), streams_[1].images.begin(),
                              streams_[1].images.end());
  }
}

std::vector<int> StepInputs::images_of_step(Stream& stream, int64_t step) const {
  const auto size = static_cast<int64_t>(stream.images.size());
  std::vector<int> images;
  for (int64_t i = step * config_.batch_size; i < (step + 1) * config_.batch_size; ++i) {
    if (stream.epoch != i / size) {
      stream.epoch = i / size;
      stream.order = stream.images;
      Rng(config_.seed, stream.name, static_cast<uint64_t>(stream.epoch)).shuffle(stream.order);
    }
    images.push_back(stream.order[static_cast<size_t>(i % size)]);
  }
  return images;
}

Batch StepInputs::batch_of(Stream& stream, const Key& key, uint64_t seed) const {
  const std::vector<int> images = images_of_step(stream, key.step);
  Batch batch =
      make_training_batch(dataset_,
                          std::span(images).subspan(static_cast<size_t>(share_.begin),
                                                    static_cast<size_t>(share_.end - share_.begin)),
                          key.resolutions, augment_, seed,
                          static_cast<uint64_t>(key.step * config_.batch_size + share_.begin));
  batch.first = share_.begin;
  batch.whole = config_.batch_size;
  return batch;
}

// On the worker thread: nothing here may touch what a step changes.
Inputs StepInputs::make(const Key& key) {
  Inputs inputs{batch_of(streams_[0], key, config_.seed), {}};
  if (config_.loss.starts_with("gap")) {
    inputs.gap_batch = batch_of(streams_[1], key, config_.seed + 1);
  }
  return inputs;
}

}  // namespace chanas
