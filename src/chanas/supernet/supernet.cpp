#include "chanas/supernet/supernet.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sched.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <optional>

#include "chanas/base/rng.h"
#include "chanas/supernet/elastic_weights.h"
#include "chanas/supernet/forward.h"
#include "chanas/supernet/losses.h"

namespace chanas {
namespace {

using Variable = at::Tensor;

// A mean over the batch's images becomes the mean over the images of all ranks' batches.
Variable of_whole(const Variable& mean, const Batch& batch, Collective* ranks) {
  if (ranks == nullptr) return mean;
  return sum_over_ranks(mean * (static_cast<double>(batch.n) / batch.whole), *ranks);
}

}  // namespace

int set_threads(int threads) {
  if (threads <= 0) {
    cpu_set_t set;
    threads = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }
  at::set_num_threads(threads);
  return threads;
}

// --- Supernet -----------------------------------------------------------------------------------

struct Supernet::Impl {
  ArchSpace space;
  Network largest;
  bool kernel_transform = true;
  bool alone = false;  // `largest` is the only network
  std::vector<Parameter> parameters;
  std::vector<float> values, gradients;
  Device device;
  // All values and gradients on the device; on the CPU the vectors themselves.
  Variable device_values, device_gradients;
  Tensors leaves;  // views of device_values, each with its view of device_gradients

  // The vectors' numbers to the device, and the gradient that arose there to the vector.
  void upload() const;
  void download();

  // The network's tensors, cut from `leaves`; differentiable where gradients are on.
  Tensors cut(const Arch& arch, const Network& network) const {
    if (!alone) return cut_weights(space, kernel_transform, leaves, arch, network);
    CHANAS_CHECK(network == largest) << network.name;
    return leaves;
  }
};

Supernet::Supernet(const ArchSpace& space, uint64_t seed, bool kernel_transform)
    : Supernet(space, chanas::largest(space), seed, kernel_transform, false) {}

Supernet Supernet::alone(const ArchSpace& space, const Arch& arch, uint64_t seed) {
  return Supernet(space, arch, seed, false, true);
}

Supernet::Supernet(const ArchSpace& space, const Arch& whole, uint64_t seed, bool kernel_transform,
                   bool alone)
    : impl_(std::make_unique<Impl>()) {
  impl_->space = space;
  impl_->largest = to_network(space, whole);
  impl_->kernel_transform = kernel_transform;
  impl_->alone = alone;
  impl_->parameters = elastic_parameters(space, impl_->largest, kernel_transform);
  const Parameter& last = impl_->parameters.back();
  impl_->values.resize(last.offset + last.size);
  impl_->gradients.resize(impl_->values.size());
  initialise(impl_->parameters, impl_->largest, seed, impl_->values);
  use({});
}

void Supernet::use(const Device& device) {
  Impl& s = *impl_;
  s.device = device;
  const auto size = static_cast<int64_t>(s.values.size());
  // On the CPU these copy nothing.
  s.device_values = at::from_blob(s.values.data(), {size}, at::kFloat).to(device_of(device));
  s.device_gradients = at::from_blob(s.gradients.data(), {size}, at::kFloat).to(device_of(device));
  for (const Parameter& p : s.parameters) {
    const auto part = [&](const Variable& all) {
      return all.narrow(0, static_cast<int64_t>(p.offset), static_cast<int64_t>(p.size))
          .view(p.shape);
    };
    Variable leaf = part(s.device_values).detach();
    leaf.set_requires_grad(true);
    leaf.mutable_grad() = part(s.device_gradients);
    s.leaves[p.name] = leaf;
  }
}

void Supernet::Impl::upload() const {
  if (device.gpu < 0) return;
  device_values.copy_(at::from_blob(const_cast<float*>(values.data()), device_values.sizes()));
  device_gradients.copy_(
      at::from_blob(const_cast<float*>(gradients.data()), device_gradients.sizes()));
}

void Supernet::Impl::download() {
  if (device.gpu < 0) return;
  at::from_blob(gradients.data(), device_gradients.sizes()).copy_(device_gradients);
}

Supernet::~Supernet() = default;
Supernet::Supernet(Supernet&&) noexcept = default;

const ArchSpace& Supernet::space() const { return impl_->space; }
const std::vector<Supernet::Parameter>& Supernet::parameters() const { return impl_->parameters; }
std::span<float> Supernet::values() { return impl_->values; }
std::span<const float> Supernet::values() const { return impl_->values; }
std::span<float> Supernet::gradients() { return impl_->gradients; }

StepLoss Supernet::accumulate(const std::vector<Arch>& archs, const Batch& batch,
                              const Batch* gap_batch, const LossOptions& options) {
  const Operations operations(impl_->device);
  impl_->upload();
  std::vector<Network> networks;
  for (const Arch& arch : archs) networks.push_back(to_network(impl_->space, arch));
  // All networks share the stem's patches: kernel and stride are those of the space.
  struct Images {
    const Batch& batch;
    std::string_view dropout_stream;
    Variable patches, labels, teacher;
    Images(const Batch& images, std::string_view stream, const Network& network, double smoothing,
           const Device& device)
        : batch(images),
          dropout_stream(stream),
          patches(stem_patches(network, images, device)),
          labels(smooth_targets(images.labels, network.head.classes, smoothing)
                     .to(device_of(device))) {
      if (images.teacher.empty()) return;
      teacher =
          at::tensor(images.teacher).view({images.n, network.head.classes}).to(device_of(device));
    }
  };
  Images images(batch, "dropout", networks[0], options.label_smoothing, impl_->device);
  std::optional<Images> gap_images;
  if (gap_batch != nullptr) {
    gap_images.emplace(*gap_batch, "gap", networks[0], options.label_smoothing, impl_->device);
  }
  StepLoss result;
  const auto share = 1 / static_cast<double>(archs.size());
  for (size_t i = 0; i < archs.size(); ++i) {
    const Network& network = networks[i];
    const Tensors tensors = impl_->cut(archs[i], network);
    // Returns the loss; label_loss receives the part of the labels, if there is one.
    const auto loss_on = [&](Images& on, double& label_loss) {
      const bool labels = i == 0 || !on.batch.teacher.empty();
      Variable keep;
      if (labels && network.dropout > 0) {
        keep = dropout_mask(std::max(on.batch.n, on.batch.whole),
                            tensors.at("classifier.weight").size(1), network.dropout,
                            Rng(options.dropout_seed, on.dropout_stream, i))
                   .narrow(0, on.batch.first, on.batch.n);
      }
      // Losses in double: early in a training a gap is as small as the last bit of a float loss,
      // and its sign, which decides the gradient, would be that of rounding.
      const Variable logits = forward(network, tensors, Statistics::kBatch, on.patches, on.batch.n,
                                      keep, nullptr, options.ranks)
                                  .to(at::kDouble);
      Variable loss;
      if (labels) {
        loss = of_whole(cross_entropy(logits, on.labels), on.batch, options.ranks);
        label_loss = loss.item<double>();
      }
      if (on.teacher.defined()) {
        const Variable taught = options.alpha_clip > 0
                                    ? alpha_divergence(logits, on.teacher, options.alpha_clip)
                                    : cross_entropy(logits, at::softmax(on.teacher, 1));
        const Variable whole = of_whole(taught, on.batch, options.ranks);
        loss = loss.defined() ? loss + whole : whole;
      } else {
        on.teacher = logits.detach();  // of the networks that follow
      }
      return loss;
    };
    double label_loss = 0, gap_label_loss = 0;
    Variable loss = loss_on(images, label_loss);
    if (i == 0) result.loss = label_loss;
    if (gap_images) {
      const Variable other = loss_on(*gap_images, gap_label_loss);
      const double gap = other.item<double>() - loss.item<double>();
      if (i == 0) result.gap_loss = gap_label_loss;
      result.gap += gap * share;
      if (gap < 0) result.negative_gaps += share;
      loss = with_gap(loss, other, options.gap, options.gap_lambda);
    }
    loss.backward();
  }
  impl_->download();
  return result;
}

std::vector<float> Supernet::batch_logits(const Arch& arch, const Batch& batch,
                                          Collective* ranks) const {
  const at::NoGradGuard no_gradients;
  const Operations operations(impl_->device);
  impl_->upload();
  const Network network = to_network(impl_->space, arch);
  const Tensors tensors = impl_->cut(arch, network);
  return to_vector(forward(network, tensors, Statistics::kBatch,
                           stem_patches(network, batch, impl_->device), batch.n, {}, nullptr,
                           ranks));
}

// --- Subnet -------------------------------------------------------------------------------------

struct Subnet::Impl {
  Network network;
  Device device;
  Tensors tensors;
  bool calibrated = false;
};

Subnet Supernet::subnet(const Arch& arch) const {
  const at::NoGradGuard no_gradients;
  impl_->upload();
  auto impl = std::make_unique<Subnet::Impl>();
  impl->device = impl_->device;
  impl->network = to_network(impl_->space, arch);
  for (const auto& [name, tensor] : impl_->cut(arch, impl->network)) {
    impl->tensors[name] = tensor.detach().clone(at::MemoryFormat::Contiguous);
  }
  return Subnet(std::move(impl));
}

Subnet::Subnet(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Subnet::~Subnet() = default;
Subnet::Subnet(Subnet&&) noexcept = default;

Subnet::Subnet(Network network, Parameters parameters) : impl_(std::make_unique<Impl>()) {
  impl_->network = std::move(network);
  impl_->calibrated = true;
  for (const auto& [name, shape] : parameter_shapes(lower(impl_->network))) {
    const Variable tensor = at::empty(shape);
    const chanas::Tensor* from = parameters.find(name);
    CHANAS_CHECK(from != nullptr && from->shape == shape) << name;
    std::copy(from->data.begin(), from->data.end(), tensor.mutable_data_ptr<float>());
    impl_->tensors[name] = tensor;
  }
}

const Network& Subnet::network() const { return impl_->network; }

void Subnet::recalibrate(int count, const std::function<const Batch&(int)>& batch) {
  CHANAS_CHECK(count > 0);
  const at::NoGradGuard no_gradients;
  const Operations operations(impl_->device);
  Tensors sums;
  for (int i = 0; i < count; ++i) {
    Tensors statistics;
    const Batch& images = batch(i);
    forward(impl_->network, impl_->tensors, Statistics::kBatch,
            stem_patches(impl_->network, images, impl_->device), images.n, {}, &statistics);
    for (const auto& [name, tensor] : statistics) {
      Variable& sum = sums[name];
      sum = sum.defined() ? sum + tensor : tensor;
    }
  }
  for (const auto& [name, sum] : sums) {
    impl_->tensors[name] = sum / count;
  }
  impl_->calibrated = true;
}

std::vector<float> Subnet::logits(const Batch& batch) const {
  CHANAS_CHECK(impl_->calibrated) << "batch normalisation has no statistics yet";
  const at::NoGradGuard no_gradients;
  const Operations operations(impl_->device);
  return to_vector(forward(impl_->network, impl_->tensors, Statistics::kGiven,
                           stem_patches(impl_->network, batch, impl_->device), batch.n, {}));
}

Parameters Subnet::parameters() const {
  Parameters parameters;
  for (const auto& [name, shape] : parameter_shapes(lower(impl_->network))) {
    const auto found = impl_->tensors.find(name);
    CHANAS_CHECK(found != impl_->tensors.end()) << name;
    parameters.set(name, {shape, to_vector(found->second)});
  }
  return parameters;
}

double top1(std::span<const float> logits, int classes, std::span<const int> labels) {
  size_t right = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    const float* row = &logits[i * static_cast<size_t>(classes)];
    if (std::max_element(row, row + classes) - row == labels[i]) ++right;
  }
  return labels.empty() ? 0 : static_cast<double>(right) / static_cast<double>(labels.size());
}

}  // namespace chanas
