#include "chanas/supernet/supernet.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
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
#include "chanas/supernet/mirrored.h"
#include "chanas/supernet/optimiser.h"

namespace chanas {
namespace {

using Variable = at::Tensor;

// LibTorch warns that gradients of sliced weights have gaps, as the weights have.
class WithoutLayoutWarning : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    if (warning.msg().find("layout contract") == std::string::npos) {
      c10::WarningHandler::process(warning);
    }
  }
};

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
  const ArchSpace space;
  const Network largest;
  const bool kernel_transform;
  const bool alone;  // `largest` is the only network
  const std::vector<Parameter> parameters;
  Mirrored values, gradients, momentum;
  Device device;
  Tensors leaves;   // views of the values on the device, each with its view of the gradients there
  Variable decays;  // 1 where weights decay, on a GPU; else undefined
  // With bfloat16, for training: copies of all values and a gradient of one network, and the leaves
  // with those for what matrix products and convolutions read.
  Variable narrow_values, narrow_gradients;
  Tensors narrow_leaves;

  Impl(const ArchSpace& space, Network largest, bool kernel_transform, bool alone);

  // The network's tensors, cut from those of the supernet; differentiable where gradients are on.
  Tensors cut(const Tensors& whole, const Arch& arch, const Network& network) const {
    if (!alone) return cut_weights(space, kernel_transform, whole, arch, network);
    CHANAS_CHECK(network == largest) << network.name;
    return whole;
  }
};

Supernet::Supernet(const ArchSpace& space, uint64_t seed, bool kernel_transform)
    : Supernet(space, chanas::largest(space), seed, kernel_transform, false) {}

Supernet Supernet::alone(const ArchSpace& space, const Arch& arch, uint64_t seed) {
  ArchSpace own = space;
  own.resolutions = {arch.cell.resolution};
  return Supernet(own, arch, seed, false, true);
}

Supernet::Supernet(const ArchSpace& space, const Arch& whole, uint64_t seed, bool kernel_transform,
                   bool alone)
    : impl_(std::make_unique<Impl>(space, to_network(space, whole), kernel_transform, alone)) {
  initialise(impl_->parameters, impl_->largest, seed, impl_->values.host());
  use({});
}

Supernet::Impl::Impl(const ArchSpace& space_, Network largest_, bool kernel_transform_, bool alone_)
    : space(space_),
      largest(std::move(largest_)),
      kernel_transform(kernel_transform_),
      alone(alone_),
      parameters(elastic_parameters(space, largest, kernel_transform)),
      values(parameters.back().offset + parameters.back().size),
      gradients(parameters.back().offset + parameters.back().size),
      momentum(parameters.back().offset + parameters.back().size) {}

void Supernet::use(const Device& device) {
  Impl& s = *impl_;
  s.device = device;
  for (Mirrored* numbers : {&s.values, &s.gradients, &s.momentum}) numbers->use(device_of(device));
  const auto leaf_of = [](const Parameter& p, const Variable& values, const Variable& gradients) {
    const auto part = [&](const Variable& all) {
      return all.narrow(0, static_cast<int64_t>(p.offset), static_cast<int64_t>(p.size))
          .view(p.shape);
    };
    Variable leaf = part(values).detach();
    leaf.set_requires_grad(true);
    leaf.mutable_grad() = part(gradients);
    return leaf;
  };
  for (const Parameter& p : s.parameters) {
    s.leaves[p.name] = leaf_of(p, s.values.device(), s.gradients.device());
  }
  s.narrow_leaves = s.leaves;
  s.narrow_values = s.narrow_gradients = Variable();
  if (device.bfloat16) {
    s.narrow_values = s.values.device().to(at::kBFloat16);
    s.narrow_gradients = at::zeros_like(s.narrow_values);
    for (const Parameter& p : s.parameters) {
      if (p.shape.size() < 2) continue;  // normalisation and biases stay float32
      s.narrow_leaves[p.name] = leaf_of(p, s.narrow_values, s.narrow_gradients);
    }
  }
  s.decays = Variable();
  if (device.gpu < 0) return;
  std::vector<float> decays(s.values.host().size());
  for (const Parameter& p : s.parameters) {
    if (p.decays) std::fill_n(&decays[p.offset], p.size, 1.0f);
  }
  s.decays = at::tensor(decays).to(device_of(device));
}

Supernet::~Supernet() = default;
Supernet::Supernet(Supernet&&) noexcept = default;

const ArchSpace& Supernet::space() const { return impl_->space; }
const std::vector<Supernet::Parameter>& Supernet::parameters() const { return impl_->parameters; }
std::span<float> Supernet::values() { return impl_->values.host(); }
std::span<const float> Supernet::values() const { return std::as_const(impl_->values).host(); }
std::span<float> Supernet::gradients() { return impl_->gradients.host(); }
std::span<float> Supernet::momentum() { return impl_->momentum.host(); }

void Supernet::clear_gradients() {
  Variable gradients = impl_->gradients.device();
  gradients.zero_();
}

double Supernet::gradient_norm() const {
  const Mirrored& gradients = impl_->gradients;
  if (impl_->device.gpu < 0) return norm_of(gradients.host());
  return at::linalg_vector_norm(gradients.device(), 2, {}, false, at::kDouble).item<double>();
}

void Supernet::update(const SgdStep& step) {
  Impl& s = *impl_;
  if (s.device.gpu < 0) {
    sgd_step(s.parameters, step, s.gradients.host(), s.momentum.host(), s.values.host());
    return;
  }
  const at::NoGradGuard no_gradients;
  Variable values = s.values.device(), velocity = s.momentum.device();
  const Variable gradient = std::as_const(s.gradients).device() * step.gradient_scale +
                            values * s.decays * step.weight_decay;
  velocity.mul_(step.momentum).add_(gradient);
  values.sub_(gradient.add_(velocity, step.momentum), step.rate);
}

StepLoss Supernet::accumulate(const std::vector<Arch>& archs, const Batch& batch,
                              const Batch* gap_batch, const LossOptions& options) {
  const Operations operations(impl_->device);
  // The leaves' memory is up to date from here on.
  std::as_const(impl_->values).device();
  Variable gradients = impl_->gradients.device();
  if (impl_->narrow_values.defined()) {
    const at::NoGradGuard no_gradients;
    impl_->narrow_values.copy_(std::as_const(impl_->values).device());
  }
  std::vector<Network> networks;
  for (const Arch& arch : archs) networks.push_back(to_network(impl_->space, arch));
  struct Images {
    const Batch& batch;
    std::string_view dropout_stream;
    const Device& device;
    Variable labels, teacher;
    // Networks of one resolution share the stem's patches: kernel and stride are those of the
    // space.
    std::map<int64_t, Variable> patches;
    Images(const Batch& images, std::string_view stream, int64_t classes, double smoothing,
           const Device& on)
        : batch(images),
          dropout_stream(stream),
          device(on),
          labels(smooth_targets(images.labels, static_cast<int>(classes), smoothing)
                     .to(device_of(on))) {
      if (images.teacher.empty()) return;
      teacher = at::tensor(images.teacher).view({images.n, classes}).to(device_of(on));
    }
    const Variable& patches_of(const Network& network) {
      Variable& all = patches[network.resolution];
      if (!all.defined()) all = stem_patches(network, batch, device);
      return all;
    }
  };
  const int64_t classes = impl_->space.classes;
  Images images(batch, "dropout", classes, options.label_smoothing, impl_->device);
  std::optional<Images> gap_images;
  if (gap_batch != nullptr) {
    gap_images.emplace(*gap_batch, "gap", classes, options.label_smoothing, impl_->device);
  }
  // Read at the end: a number that is asked for earlier would make a GPU wait for its next work.
  Variable label_loss, gap_label_loss;
  std::vector<Variable> gaps;
  for (size_t i = 0; i < archs.size(); ++i) {
    const Network& network = networks[i];
    const Tensors tensors = impl_->cut(impl_->narrow_leaves, archs[i], network);
    // Returns the loss; `of_labels` receives the part of the labels, if there is one.
    const auto loss_on = [&](Images& on, Variable& of_labels) {
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
      const Variable logits = forward(network, tensors, Statistics::kBatch, on.patches_of(network),
                                      on.batch.n, keep, nullptr, options.ranks)
                                  .to(at::kDouble);
      Variable loss;
      if (labels) {
        loss = of_whole(cross_entropy(logits, on.labels), on.batch, options.ranks);
        if (i == 0) of_labels = loss.detach();
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
    Variable loss = loss_on(images, label_loss);
    if (gap_images) {
      const Variable other = loss_on(*gap_images, gap_label_loss);
      gaps.push_back(other.detach() - loss.detach());
      loss = with_gap(loss, other, options.gap, options.gap_lambda);
    }
    {
      WithoutLayoutWarning handler;
      const c10::WarningUtils::WarningHandlerGuard guard(&handler);
      loss.backward();
    }
    if (impl_->narrow_gradients.defined()) {
      const at::NoGradGuard no_gradients;
      gradients.add_(impl_->narrow_gradients);
      impl_->narrow_gradients.zero_();
    }
  }
  StepLoss result;
  result.loss = label_loss.item<double>();
  const auto share = 1 / static_cast<double>(archs.size());
  for (const Variable& gap : gaps) {
    const auto value = gap.item<double>();
    result.gap += value * share;
    if (value < 0) result.negative_gaps += share;
  }
  return result;
}

std::vector<float> Supernet::batch_logits(const Arch& arch, const Batch& batch,
                                          Collective* ranks) const {
  const at::NoGradGuard no_gradients;
  const Operations operations(impl_->device);
  std::as_const(impl_->values).device();
  const Network network = to_network(impl_->space, arch);
  const Tensors tensors = impl_->cut(impl_->leaves, arch, network);
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
  std::as_const(impl_->values).device();
  auto impl = std::make_unique<Subnet::Impl>();
  impl->device = impl_->device;
  impl->network = to_network(impl_->space, arch);
  for (const auto& [name, tensor] : impl_->cut(impl_->leaves, arch, impl->network)) {
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
