#include "chanas/supernet/evaluate.h"

#include <algorithm>

namespace chanas {
namespace {

constexpr size_t kBatch = 200;
constexpr int64_t kCacheBytes = int64_t{1} << 30;

size_t image_size(int resolution) { return static_cast<size_t>(resolution * resolution * 3); }

Batch empty_batch(const Dataset& dataset, std::span<const int> images,
                  std::span<const int> resolutions) {
  Batch batch;
  batch.n = static_cast<int>(images.size());
  for (const int r : resolutions) batch.images[r].resize(images.size() * image_size(r));
  for (const int image : images) batch.labels.push_back(dataset.labels[static_cast<size_t>(image)]);
  return batch;
}

// Batches are as equal as can be: in BN statistics each counts alike.
size_t batch_count(size_t images) { return (images + kBatch - 1) / kBatch; }

std::span<const int> batch_of(const std::vector<int>& images, int index) {
  const size_t count = batch_count(images.size()), i = static_cast<size_t>(index);
  const size_t begin = i * images.size() / count, end = (i + 1) * images.size() / count;
  return std::span(images).subspan(begin, end - begin);
}

std::vector<int> first_of(const std::vector<int>& images, int64_t count) {
  const auto size = static_cast<int64_t>(images.size());
  return {images.begin(), images.begin() + (count <= 0 ? size : std::min(count, size))};
}

}  // namespace

Batch make_batch(const Dataset& dataset, std::span<const int> images, int resolution) {
  Batch batch = empty_batch(dataset, images, std::span(&resolution, 1));
  float* const to = batch.images.at(resolution).data();
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < images.size(); ++i) {
    write_input(dataset, images[i], {resolution, to + i * image_size(resolution)});
  }
  return batch;
}

Batch make_training_batch(const Dataset& dataset, std::span<const int> images,
                          std::span<const int> resolutions, Augment augment, uint64_t seed,
                          uint64_t first) {
  Batch batch = empty_batch(dataset, images, resolutions);
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < images.size(); ++i) {
    Rng rng(seed, "augment", first + i);
    std::vector<View> views;
    for (auto& [r, pixels] : batch.images) views.push_back({r, &pixels[i * image_size(r)]});
    write_augmented_input(dataset, images[i], augment, rng, views);
  }
  return batch;
}

Evaluator::Evaluator(const Dataset& dataset, Part part, int64_t images,
                     int64_t recalibration_images)
    : dataset_(dataset),
      images_(first_of(dataset.part(part), images)),
      recalibration_(first_of(dataset.part(Part::kTrain), recalibration_images)) {}

const Batch& Evaluator::batch(bool recalibration, int resolution, int index) {
  const auto key = std::tuple(recalibration, resolution, index);
  if (const auto found = cache_.find(key); found != cache_.end()) return found->second;
  last_ =
      make_batch(dataset_, batch_of(recalibration ? recalibration_ : images_, index), resolution);
  const auto bytes = static_cast<int64_t>(last_.images.at(resolution).size() * sizeof(float));
  if (cached_bytes_ + bytes > kCacheBytes) return last_;
  cached_bytes_ += bytes;
  return cache_[key] = std::move(last_);
}

void Evaluator::recalibrate(Subnet& subnet) {
  const int resolution = subnet.network().resolution;
  subnet.recalibrate(static_cast<int>(batch_count(recalibration_.size())),
                     [&](int index) -> const Batch& { return batch(true, resolution, index); });
}

double Evaluator::accuracy(const Subnet& subnet) {
  double right = 0;
  for (int i = 0; i < static_cast<int>(batch_count(images_.size())); ++i) {
    const Batch& images = batch(false, subnet.network().resolution, i);
    right += images.n * top1(subnet.logits(images), subnet.network().head.classes, images.labels);
  }
  return images_.empty() ? 0 : right / static_cast<double>(images_.size());
}

double Evaluator::accuracy(const Supernet& supernet, const Arch& arch) {
  Subnet subnet = supernet.subnet(arch);
  recalibrate(subnet);
  return accuracy(subnet);
}

}  // namespace chanas
