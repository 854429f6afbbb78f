#include "chanas/supernet/plain.h"

#include <ATen/ATen.h>

#include <cmath>

#include "chanas/supernet/elastic_weights.h"

namespace chanas {
namespace {

class PlainNetwork {
 public:
  PlainNetwork(const ArchSpace& space, const PlainWeights& weights, int resolution)
      : space_(space), weights_(weights), resolution_(resolution) {}

  at::Tensor logits(const Arch& arch, const at::Tensor& images) const {
    const auto scaled = [&](int channels) { return make_divisible(channels * arch.cell.width, 8); };
    at::Tensor x = at::conv2d(
        images, weights_.at("stem.conv.weight").slice(0, 0, scaled(space_.stem_channels)), {},
        space_.stem_stride, 1);
    x = activation(norm(x, "stem.bn"), space_.stem_act);
    const int first = space_.first_channels > 0 ? 1 : 0;
    if (first == 1) {
      x = unit(x, 0, 1, 3, space_.first_stride, scaled(space_.first_channels), false,
               space_.first_act, false);
    }
    for (size_t b = 0; b < space_.blocks.size(); ++b) {
      const BlockSpec& block = space_.blocks[b];
      for (int u = 0; u < arch.depth[b]; ++u) {
        const size_t gene = b * static_cast<size_t>(space_.max_depth()) + static_cast<size_t>(u);
        x = unit(x, first + static_cast<int>(gene), arch.units[gene].expand,
                 arch.units[gene].kernel, u == 0 ? block.stride : 1, scaled(block.channels),
                 block.se, block.act, true);
      }
    }
    if (space_.head_channels > 0) {
      x = norm(conv1(x, "head.conv", scaled(space_.head_channels)), "head.bn");
      x = activation(x, space_.head_act);
    }
    x = at::adaptive_avg_pool2d(x, {1, 1});
    if (space_.mix_channels > 0) {
      x = activation(conv1(x, "mix", scaled(space_.mix_channels)), space_.head_act);
    }
    return conv1(x, "classifier", space_.classes).flatten(1);
  }

 private:
  static at::Tensor activation(const at::Tensor& x, Activation act) {
    CHANAS_CHECK(act == Activation::kRelu || act == Activation::kHSwish);
    return act == Activation::kRelu ? at::relu(x) : at::hardswish(x);
  }

  at::Tensor norm(const at::Tensor& x, const std::string& name) const {
    const auto own = [&](const char* part) {
      return weights_.at(elastic_name(space_, name + part, resolution_)).slice(0, 0, x.size(1));
    };
    return at::batch_norm(x, own(".weight"), own(".bias"), {}, {}, true, 0.1, 1e-5, false);
  }

  at::Tensor conv1(const at::Tensor& x, const std::string& name, int64_t out) const {
    const auto bias = weights_.find(name + ".bias");
    return at::conv2d(x, weights_.at(name + ".weight").slice(0, 0, out).slice(1, 0, x.size(1)),
                      bias == weights_.end() ? at::Tensor() : bias->second.slice(0, 0, out));
  }

  // 7 -> 5 -> 3: crop, flatten, y_j = sum_i M[j][i] x_i.
  at::Tensor window(const std::string& prefix, int64_t channels, int kernel) const {
    at::Tensor w = weights_.at(prefix + ".conv.weight").slice(0, 0, channels);
    if (kernel <= 5 && w.size(3) == 7) {
      w = w.slice(2, 1, 6).slice(3, 1, 6).reshape({channels, 25});
      w = at::matmul(w, weights_.at(prefix + ".transform.7to5").t()).view({channels, 1, 5, 5});
    }
    if (kernel == 3 && w.size(3) == 5) {
      w = w.slice(2, 1, 4).slice(3, 1, 4).reshape({channels, 9});
      w = at::matmul(w, weights_.at(prefix + ".transform.5to3").t()).view({channels, 1, 3, 3});
    }
    return w;
  }

  at::Tensor unit(const at::Tensor& input, int slot, int expand, int kernel, int stride,
                  int64_t out, bool se, Activation act, bool has_expand) const {
    const std::string prefix = "units." + std::to_string(slot);
    const int64_t mid =
        has_expand ? make_divisible(std::round(static_cast<double>(input.size(1)) * expand))
                   : input.size(1);
    at::Tensor x = input;
    if (has_expand) {
      x = activation(norm(conv1(x, prefix + ".expand.conv", mid), prefix + ".expand.bn"), act);
    }
    x = at::conv2d(x, window(prefix + ".depthwise", mid, kernel), {}, stride, kernel / 2, 1, mid);
    x = activation(norm(x, prefix + ".depthwise.bn"), act);
    if (se) {
      const int64_t squeeze = make_divisible(static_cast<double>(mid) / 4);
      const at::Tensor pooled = at::adaptive_avg_pool2d(x, {1, 1});
      const at::Tensor hidden = at::relu(conv1(pooled, prefix + ".se.reduce", squeeze));
      x = x * at::hardsigmoid(conv1(hidden, prefix + ".se.expand", mid));
    }
    x = norm(conv1(x, prefix + ".project.conv", out), prefix + ".project.bn");
    return stride == 1 && input.size(1) == out ? x + input : x;
  }

  const ArchSpace& space_;
  const PlainWeights& weights_;
  const int resolution_;
};

}  // namespace

PlainWeights plain_weights(const Supernet& supernet) {
  PlainWeights weights;
  for (const Supernet::Parameter& p : supernet.parameters()) {
    at::Tensor leaf = at::empty(p.shape);
    const auto from = supernet.values().subspan(p.offset, p.size);
    std::copy(from.begin(), from.end(), leaf.mutable_data_ptr<float>());
    weights[p.name] = leaf.set_requires_grad(true);
  }
  return weights;
}

at::Tensor plain_images(const Batch& batch, int resolution, bool channels_last) {
  const std::vector<float>& images = batch.images.at(resolution);
  const at::Tensor nhwc = at::empty({batch.n, resolution, resolution, 3});
  std::copy(images.begin(), images.end(), nhwc.mutable_data_ptr<float>());
  return nhwc.permute({0, 3, 1, 2})
      .contiguous(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

at::Tensor plain_logits(const ArchSpace& space, const PlainWeights& weights, const Arch& arch,
                        const at::Tensor& images) {
  return PlainNetwork(space, weights, arch.cell.resolution).logits(arch, images);
}

}  // namespace chanas
