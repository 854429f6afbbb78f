#include "chanas/supernet/functions_generic.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "chanas/supernet/collective.h"

namespace chanas::generic {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// [n, h, w, c] without gaps is what LibTorch calls channels-last, seen from the other side.
Tensor to_nchw(const Tensor& x) { return x.permute({0, 3, 1, 2}); }
Tensor to_nhwc(const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous(); }

Tensor summed(const Tensor& part, Collective& ranks) {
  const Tensor sums = part.detach().to(at::kCPU, at::kDouble).contiguous();
  ranks.sum(std::span(sums.mutable_data_ptr<double>(), static_cast<size_t>(sums.numel())));
  return sums.to(part.options());
}

// Sum over the ranks of values that every rank goes on to use: what it gives each of them flows
// back to all parts.
class SharedSum : public torch::autograd::Function<SharedSum> {
 public:
  static Variable forward(AutogradContext* context, const Variable& part, int64_t ranks) {
    context->saved_data["ranks"] = ranks;
    return summed(part, *reinterpret_cast<Collective*>(ranks));
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto* ranks = reinterpret_cast<Collective*>(context->saved_data["ranks"].toInt());
    return {summed(gradients[0], *ranks), Tensor()};
  }
};

Tensor shared_sum(const Tensor& part, Collective& ranks) {
  return SharedSum::apply(part, reinterpret_cast<int64_t>(&ranks));
}

}  // namespace

Tensor depthwise(const Tensor& x, const Tensor& weight, int stride) {
  const int64_t k = weight.size(3);
  return to_nhwc(at::conv2d(to_nchw(x), weight, {}, at::IntArrayRef{stride, stride},
                            at::IntArrayRef{k / 2, k / 2}, at::IntArrayRef{1, 1}, x.size(3)));
}

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                  Activation act, const Tensor& residual, Tensor* mean, Tensor* variance,
                  Collective* ranks) {
  Tensor y;
  if (ranks == nullptr) {
    const auto [normed, batch_mean, inverse] =
        at::native_batch_norm(to_nchw(x), weight, bias, {}, {}, true, 0, epsilon);
    y = to_nhwc(normed);
    if (mean != nullptr) *mean = batch_mean.detach();
    if (variance != nullptr) *variance = inverse.detach().pow(-2) - epsilon;
  } else {
    const Tensor wide = x.to(weight.scalar_type());
    const std::array<int64_t, 3> pixels = {0, 1, 2};
    const double rows =
        summed(at::full({1}, x.numel() / x.size(3), at::kDouble), *ranks).item<double>();
    // Twice over the ranks, and no difference of large numbers.
    const Tensor whole_mean = shared_sum(wide.sum(pixels), *ranks) / rows;
    const Tensor centred = wide - whole_mean;
    const Tensor whole_variance = shared_sum((centred * centred).sum(pixels), *ranks) / rows;
    y = (centred * ((whole_variance + epsilon).rsqrt() * weight) + bias).to(x.scalar_type());
    if (mean != nullptr) *mean = whole_mean.detach();
    if (variance != nullptr) *variance = whole_variance.detach();
  }
  y = activate(y, act);
  return residual.defined() ? y + residual : y;
}

Tensor fixed_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                  const Tensor& variance, double epsilon, Activation act, const Tensor& residual) {
  const Tensor scale = weight * (variance + epsilon).rsqrt();
  const Tensor y = activate((x * scale + (bias - mean * scale)).to(x.scalar_type()), act);
  return residual.defined() ? y + residual : y;
}

Tensor squeeze_excite(const Tensor& x, const Tensor& reduce_weight, const Tensor& reduce_bias,
                      const Tensor& expand_weight, const Tensor& expand_bias, Activation gate) {
  const Tensor pooled = x.mean(at::IntArrayRef{1, 2});
  const Tensor hidden = at::relu(at::linear(pooled, reduce_weight, reduce_bias));
  const Tensor g = activate(at::linear(hidden, expand_weight, expand_bias), gate);
  return x * g.view({x.size(0), 1, 1, x.size(3)}).to(x.scalar_type());
}

Tensor image_patches(const Tensor& x, int kernel, int stride) {
  const int64_t c = x.size(3), area = int64_t{kernel} * kernel, margin = kernel / 2;
  // Not im2col, which starts a kernel per image on a GPU.
  return at::constant_pad_nd(x, {0, 0, margin, margin, margin, margin})
      .unfold(1, kernel, stride)
      .unfold(2, kernel, stride)  // [n, h, w, c, kernel, kernel]
      .permute({0, 1, 2, 4, 5, 3})
      .reshape({-1, area * c});
}

}  // namespace chanas::generic
