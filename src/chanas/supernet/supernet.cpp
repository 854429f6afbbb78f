#include "chanas/supernet/supernet.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <sched.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "chanas/base/rng.h"
#include "chanas/supernet/functions.h"
#include "chanas/supernet/losses.h"

namespace chanas {
namespace {

// Not `Tensor`, which is the plain one of graph.h.
using Variable = at::Tensor;
using Tensors = std::map<std::string, Variable>;

bool is_statistic(const std::string& name) {
  return name.ends_with(".running_mean") || name.ends_with(".running_var");
}

std::string transform_name(const std::string& weight, int from, int to) {
  // "units.3.depthwise.conv.weight" -> "units.3.depthwise.transform.7to5"
  const std::string stem = weight.substr(0, weight.rfind(".conv.weight"));
  return fmt::format("{}.transform.{}to{}", stem, from, to);
}

bool is_depthwise(const std::string& name) { return name.ends_with(".depthwise.conv.weight"); }

// --- Forward ------------------------------------------------------------------------------------

// Where batch normalisation takes its statistics from.
enum class Statistics { kBatch, kGiven };

// Runs a network over tensors that are named as its graph's parameters.
class Forward {
 public:
  // `record` (may be null) receives the statistics of each batch normalisation.
  // Statistics of a batch are those of the parts of all `ranks` (may be null).
  Forward(const Network& network, const Tensors& tensors, Statistics statistics,
          Tensors* record = nullptr, Collective* ranks = nullptr)
      : network_(network),
        tensors_(tensors),
        statistics_(statistics),
        record_(record),
        ranks_(ranks) {}

  // stem_patches: image_patches of the input. Returns logits [n, classes]; keep (undefined: none)
  // multiplies the classifier's input.
  Variable operator()(const Variable& stem_patches, int64_t n, const Variable& keep) const {
    const int64_t h = strided(network_.resolution, network_.stem.stride);
    const Variable weight =
        at("stem.conv.weight").permute({0, 2, 3, 1}).reshape({at("stem.conv.weight").size(0), -1});
    Variable x = at::linear(stem_patches, weight).view({n, h, h, weight.size(0)});
    x = norm(x, "stem.bn", network_.stem.act, {});
    for (size_t i = 0; i < network_.units.size(); ++i) x = unit(x, i);
    const Head& head = network_.head;
    if (head.conv_channels > 0) x = norm(pointwise(x, "head.conv"), "head.bn", head.conv_act, {});
    x = x.mean(at::IntArrayRef{1, 2});
    if (head.mix_channels > 0) {
      x = activate(at::linear(x, matrix("mix.weight"), optional("mix.bias")), head.mix_act);
    }
    if (keep.defined()) x = x * keep.to(x.options());
    return at::linear(x, matrix("classifier.weight"), at("classifier.bias"));
  }

 private:
  const Variable& at(const std::string& name) const {
    const auto found = tensors_.find(name);
    CHANAS_CHECK(found != tensors_.end()) << name;
    return found->second;
  }
  Variable optional(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? Variable() : found->second;
  }
  // [out, in, 1, 1] -> [out, in]
  Variable matrix(const std::string& name) const { return at(name).flatten(1); }

  Variable pointwise(const Variable& x, const std::string& name) const {
    return at::linear(x, matrix(name + ".weight"));
  }

  Variable norm(const Variable& x, const std::string& name, Activation act,
                const Variable& residual) const {
    const Variable &weight = at(name + ".weight"), &bias = at(name + ".bias");
    if (statistics_ == Statistics::kGiven) {
      return fixed_norm(x, weight, bias, at(name + ".running_mean"), at(name + ".running_var"),
                        network_.bn_epsilon, act, residual);
    }
    Variable mean, variance;
    Variable y =
        batch_norm(x, weight, bias, network_.bn_epsilon, act, residual, mean, variance, ranks_);
    record(name, mean, variance);
    return y;
  }

  void record(const std::string& name, const Variable& mean, const Variable& variance) const {
    if (record_ == nullptr) return;
    (*record_)[name + ".running_mean"] = mean;
    (*record_)[name + ".running_var"] = variance;
  }

  // Expansion and depthwise convolution.
  Variable widened(const Unit& u, const Variable& input, const std::string& prefix) const {
    const Variable& window = at(prefix + "depthwise.conv.weight");
    if (!u.expand) return depthwise(input, window, u.stride);
    const std::string bn = prefix + "expand.bn";
    const Variable x = pointwise(input, prefix + "expand.conv");
    if (statistics_ == Statistics::kGiven) {
      return depthwise(norm(x, bn, u.act, {}), window, u.stride);
    }
    Variable mean, variance;
    Variable y = norm_depthwise(x, at(bn + ".weight"), at(bn + ".bias"), network_.bn_epsilon, u.act,
                                window, u.stride, mean, variance, ranks_);
    record(bn, mean, variance);
    return y;
  }

  Variable unit(const Variable& input, size_t index) const {
    const Unit& u = network_.units[index];
    const std::string prefix = fmt::format("units.{}.", index);
    Variable x = norm(widened(u, input, prefix), prefix + "depthwise.bn", u.act, {});
    if (u.se_channels > 0) {
      x = squeeze_excite(x, matrix(prefix + "se.reduce.weight"), at(prefix + "se.reduce.bias"),
                         matrix(prefix + "se.expand.weight"), at(prefix + "se.expand.bias"),
                         u.se_gate);
    }
    x = pointwise(x, prefix + "project.conv");
    return norm(x, prefix + "project.bn", Activation::kNone, u.residual ? input : Variable());
  }

  const Network& network_;
  const Tensors& tensors_;
  const Statistics statistics_;
  Tensors* const record_;
  Collective* const ranks_;
};

at::Device device_of(const Device& device) {
  return device.gpu < 0 ? at::Device(at::kCPU)
                        : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device.gpu));
}

// While it lives, operations on this thread are those that the device asks for.
class Operations {
 public:
  explicit Operations(const Device& device)
      : generic_(device.generic || device.bfloat16),
        type_(device_of(device).type()),
        mixed_(device.bfloat16) {
    if (!mixed_) return;
    at::autocast::set_autocast_enabled(type_, true);
    at::autocast::set_autocast_dtype(type_, at::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Operations() {
    if (!mixed_) return;
    // The narrow copies of weights are of this step.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(type_, false);
  }
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

 private:
  const GenericOperations generic_;
  const at::DeviceType type_;
  const bool mixed_;
};

Variable to_tensor(const Batch& batch, const Device& device) {
  const auto size = static_cast<size_t>(batch.n) * static_cast<size_t>(batch.resolution) *
                    static_cast<size_t>(batch.resolution) * 3;
  CHANAS_CHECK(batch.images.size() == size) << batch.images.size() << " of " << size;
  // Read only: nothing below writes to its input.
  const Variable images =
      at::from_blob(const_cast<float*>(batch.images.data()),
                    {batch.n, batch.resolution, batch.resolution, 3}, at::kFloat);
  return images.to(device_of(device));
}

Variable stem_patches(const Network& network, const Batch& batch, const Device& device) {
  CHANAS_CHECK(batch.resolution == network.resolution);
  return image_patches(to_tensor(batch, device), network.stem.kernel, network.stem.stride);
}

std::vector<float> to_vector(const Variable& tensor) {
  const Variable flat = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const float* data = flat.const_data_ptr<float>();
  return {data, data + flat.numel()};
}

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
  Tensors cut(const Arch& arch, const Network& network) const;
  Variable cut_window(const std::string& name, const std::vector<int64_t>& shape) const;
  void add(const std::string& name, const std::vector<int64_t>& shape);
  void initialise(uint64_t seed);
};

void Supernet::Impl::add(const std::string& name, const std::vector<int64_t>& shape) {
  Parameter p;
  p.name = name;
  p.shape = shape;
  p.size = 1;
  for (const int64_t extent : shape) p.size *= static_cast<size_t>(extent);
  p.offset = parameters.empty() ? 0 : parameters.back().offset + parameters.back().size;
  // Matrices of the kernel transformation start at identity; decay would pull them off it.
  p.decays = shape.size() == 4;
  parameters.push_back(p);
}

void Supernet::Impl::initialise(uint64_t seed) {
  for (const Parameter& p : parameters) {
    float* to = &values[p.offset];
    if (p.shape.size() == 4) {
      Rng rng(seed, p.name);
      const bool classifier = p.name == "classifier.weight";
      const double fan_out =
          static_cast<double>((is_depthwise(p.name) ? 1 : p.shape[0]) * p.shape[2] * p.shape[3]);
      const double deviation = classifier ? 0.01 : std::sqrt(2 / fan_out);
      for (size_t i = 0; i < p.size; ++i) to[i] = static_cast<float>(deviation * rng.normal());
    } else if (p.shape.size() == 2) {
      for (int64_t i = 0; i < p.shape[0]; ++i) to[i * p.shape[0] + i] = 1;
    } else {
      std::fill_n(to, p.size, p.name.ends_with(".bn.weight") ? 1.0f : 0.0f);
    }
  }
  for (size_t i = 0; i < largest.units.size(); ++i) {
    if (!largest.units[i].residual) continue;
    for (const Parameter& p : parameters) {
      if (p.name == fmt::format("units.{}.project.bn.weight", i)) {
        std::fill_n(&values[p.offset], p.size, 0.0f);
      }
    }
  }
}

// Depthwise window [c, 1, k, k] by the chain of transformations.
Variable Supernet::Impl::cut_window(const std::string& name,
                                    const std::vector<int64_t>& shape) const {
  Variable w = leaves.at(name).narrow(0, 0, shape[0]);
  // The first unit has one window, the elastic ones those of the space.
  for (auto to = space.kernels.rbegin(); to != space.kernels.rend(); ++to) {
    const int64_t from = w.size(3);
    if (*to >= from || from == shape[3]) continue;
    const int64_t margin = (from - *to) / 2;
    w = w.narrow(2, margin, *to).narrow(3, margin, *to);
    if (!kernel_transform) continue;
    const auto matrix = leaves.find(transform_name(name, static_cast<int>(from), *to));
    CHANAS_CHECK(matrix != leaves.end()) << name << " from " << from << " to " << *to;
    w = at::linear(w.reshape({shape[0], -1}), matrix->second).view({shape[0], 1, *to, *to});
  }
  CHANAS_CHECK(w.size(3) == shape[3]) << name;
  return w;
}

Tensors Supernet::Impl::cut(const Arch& arch, const Network& network) const {
  if (alone) {
    CHANAS_CHECK(network == largest) << network.name;
    return leaves;
  }
  // Place of each of the network's units in the supernet.
  std::vector<size_t> slots;
  if (space.first_channels > 0) slots.push_back(0);
  const size_t first = slots.size(), depth = static_cast<size_t>(space.max_depth());
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    for (size_t u = 0; u < static_cast<size_t>(arch.depth[b]); ++u) {
      slots.push_back(first + b * depth + u);
    }
  }
  CHANAS_CHECK(slots.size() == network.units.size());
  Tensors tensors;
  for (const auto& [name, shape] : parameter_shapes(lower(network))) {
    if (is_statistic(name)) continue;
    std::string from = name;
    if (name.starts_with("units.")) {
      const size_t dot = name.find('.', 6);
      from =
          fmt::format("units.{}{}", slots[std::stoul(name.substr(6, dot - 6))], name.substr(dot));
    }
    if (is_depthwise(name)) {
      tensors[name] = cut_window(from, shape);
      continue;
    }
    Variable t = leaves.at(from);
    for (size_t d = 0; d < shape.size(); ++d) {
      const auto dim = static_cast<int64_t>(d);
      CHANAS_CHECK(shape[d] <= t.size(dim)) << name;
      if (shape[d] != t.size(dim)) t = t.narrow(dim, 0, shape[d]);
    }
    tensors[name] = t;
  }
  return tensors;
}

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
  for (const auto& [name, shape] : parameter_shapes(lower(impl_->largest))) {
    if (is_statistic(name)) continue;
    impl_->add(name, shape);
    const size_t first = space.first_channels > 0 ? 1 : 0;
    const bool elastic = is_depthwise(name) && !(first == 1 && name.starts_with("units.0."));
    if (!elastic || !kernel_transform) continue;
    for (size_t k = space.kernels.size(); k-- > 1;) {
      const int from = space.kernels[k], to = space.kernels[k - 1];
      impl_->add(transform_name(name, from, to), {int64_t{to} * to, int64_t{to} * to});
    }
  }
  const Parameter& last = impl_->parameters.back();
  impl_->values.resize(last.offset + last.size);
  impl_->gradients.resize(impl_->values.size());
  impl_->initialise(seed);
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
    const Forward forward(network, tensors, Statistics::kBatch, nullptr, options.ranks);
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
      const Variable logits = forward(on.patches, on.batch.n, keep).to(at::kDouble);
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
  return to_vector(Forward(network, tensors, Statistics::kBatch, nullptr, ranks)(
      stem_patches(network, batch, impl_->device), batch.n, {}));
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
    const Forward forward(impl_->network, impl_->tensors, Statistics::kBatch, &statistics);
    const Batch& images = batch(i);
    forward(stem_patches(impl_->network, images, impl_->device), images.n, {});
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
  return to_vector(Forward(impl_->network, impl_->tensors, Statistics::kGiven)(
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
