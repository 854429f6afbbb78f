#include "chanas/supernet/forward.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <fmt/format.h>

namespace chanas {
namespace {

using Variable = at::Tensor;

// Runs a network over tensors that are named as its graph's parameters.
class Forward {
 public:
  Forward(const Network& network, const Tensors& tensors, Statistics statistics, Tensors* record,
          Collective* ranks)
      : network_(network),
        tensors_(tensors),
        statistics_(statistics),
        record_(record),
        ranks_(ranks) {}

  Variable operator()(const Variable& patches, int64_t n, const Variable& keep) const {
    const int64_t h = strided(network_.resolution, network_.stem.stride);
    const Variable weight =
        at("stem.conv.weight").permute({0, 2, 3, 1}).reshape({at("stem.conv.weight").size(0), -1});
    Variable x = at::linear(patches, weight).view({n, h, h, weight.size(0)});
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
    const Recorded to = recorded(name);
    return batch_norm(x, weight, bias, network_.bn_epsilon, act, residual, to.mean, to.variance,
                      ranks_);
  }

  // Where a normalisation's statistics are wanted; null: nowhere.
  struct Recorded {
    Variable *mean = nullptr, *variance = nullptr;
  };
  Recorded recorded(const std::string& name) const {
    if (record_ == nullptr) return {};
    return {&(*record_)[name + ".running_mean"], &(*record_)[name + ".running_var"]};
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
    const Recorded to = recorded(bn);
    return norm_depthwise(x, at(bn + ".weight"), at(bn + ".bias"), network_.bn_epsilon, u.act,
                          window, u.stride, to.mean, to.variance, ranks_);
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

Variable to_tensor(const Batch& batch, int64_t resolution, const Device& device) {
  const auto found = batch.images.find(static_cast<int>(resolution));
  CHANAS_CHECK(found != batch.images.end()) << "no images of resolution " << resolution;
  const std::vector<float>& pixels = found->second;
  const auto size = static_cast<size_t>(batch.n * resolution * resolution * 3);
  CHANAS_CHECK(pixels.size() == size) << pixels.size() << " of " << size;
  // Read only: nothing below writes to its input.
  const Variable images = at::from_blob(const_cast<float*>(pixels.data()),
                                        {batch.n, resolution, resolution, 3}, at::kFloat);
  return images.to(device_of(device));
}

}  // namespace

at::Device device_of(const Device& device) {
  return device.gpu < 0 ? at::Device(at::kCPU)
                        : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device.gpu));
}

Operations::Operations(const Device& device)
    : generic_(device.generic), type_(device_of(device).type()), mixed_(device.bfloat16) {
  if (!mixed_) return;
  at::autocast::set_autocast_enabled(type_, true);
  at::autocast::set_autocast_dtype(type_, at::kBFloat16);
  at::autocast::increment_nesting();
}

Operations::~Operations() {
  if (!mixed_) return;
  // The narrow copies of weights are of this step.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(type_, false);
}

Variable stem_patches(const Network& network, const Batch& batch, const Device& device) {
  return image_patches(to_tensor(batch, network.resolution, device), network.stem.kernel,
                       network.stem.stride);
}

std::vector<float> to_vector(const Variable& tensor) {
  const Variable flat = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const float* data = flat.const_data_ptr<float>();
  return {data, data + flat.numel()};
}

Variable forward(const Network& network, const Tensors& tensors, Statistics statistics,
                 const Variable& patches, int64_t n, const Variable& keep, Tensors* record,
                 Collective* ranks) {
  return Forward(network, tensors, statistics, record, ranks)(patches, n, keep);
}

}  // namespace chanas
