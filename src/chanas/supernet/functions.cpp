#include "chanas/supernet/functions.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "chanas/supernet/collective.h"
#include "chanas/supernet/functions_generic.h"
#include "chanas/supernet/kernels.h"

namespace chanas {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

thread_local bool t_generic = false;

bool has_kernels(const Tensor& x) {
  return !t_generic && x.is_cpu() && x.scalar_type() == at::kFloat;
}

int to_int(int64_t value) { return static_cast<int>(value); }

DepthwiseShape depthwise_shape(const Tensor& x, const Tensor& weight, int64_t stride) {
  return {to_int(x.size(0)), to_int(x.size(1)),      to_int(x.size(2)),
          to_int(x.size(3)), to_int(weight.size(3)), to_int(stride)};
}

class Depthwise : public torch::autograd::Function<Depthwise> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight,
                          int64_t stride) {
    const Tensor w = weight.contiguous();
    const DepthwiseShape s = depthwise_shape(x, w, stride);
    Tensor y = at::empty({s.n, s.h_out(), s.w_out(), s.c}, x.options());
    depthwise_forward(s, x.const_data_ptr<float>(), {}, w.const_data_ptr<float>(),
                      y.mutable_data_ptr<float>());
    context->save_for_backward({x, w});
    context->saved_data["stride"] = stride;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], dy = gradients[0].contiguous();
    const DepthwiseShape s = depthwise_shape(x, w, context->saved_data["stride"].toInt());
    Tensor dx, dw = at::empty_like(w);
    if (context->needs_input_grad(0)) dx = at::empty_like(x);
    depthwise_backward(
        s, x.const_data_ptr<float>(), {}, w.const_data_ptr<float>(), dy.const_data_ptr<float>(),
        dx.defined() ? dx.mutable_data_ptr<float>() : nullptr, dw.mutable_data_ptr<float>());
    return {dx, dw, Tensor()};
  }
};

// Statistics of this rank's rows become those of all ranks' rows.
void over_ranks(Collective& ranks, int64_t rows, const Tensor& mean, const Tensor& variance) {
  const int64_t c = mean.size(0);
  // In double, the sum of squares loses nothing that matters to the variance.
  Tensor sums = at::empty({2 * c + 1}, at::kDouble);
  const Tensor m = mean.to(at::kDouble);
  sums.narrow(0, 0, c).copy_(m * rows);
  sums.narrow(0, c, c).copy_((variance.to(at::kDouble) + m * m) * rows);
  sums[2 * c] = rows;
  ranks.sum(std::span(sums.mutable_data_ptr<double>(), static_cast<size_t>(2 * c + 1)));
  sums /= sums[2 * c].item<double>();
  const Tensor whole = sums.narrow(0, 0, c);
  mean.copy_(whole);
  variance.copy_((sums.narrow(0, c, c) - whole * whole).clamp_min(0));
}

class SumOverRanks : public torch::autograd::Function<SumOverRanks> {
 public:
  static Variable forward(AutogradContext*, const Variable& part, int64_t ranks) {
    double value = part.item<double>();
    reinterpret_cast<Collective*>(ranks)->sum(std::span(&value, 1));
    return at::full_like(part, value);
  }
  static variable_list backward(AutogradContext*, const variable_list& gradients) {
    return {gradients[0], Tensor()};
  }
};

// What normalisation and its weights come to: x * scale + shift.
struct Scaling {
  Tensor inverse, scale, shift;
};

Scaling scaling_of(const Tensor& weight, const Tensor& bias, const Tensor& mean,
                   const Tensor& inverse) {
  const Tensor scale = weight * inverse;
  return {inverse, scale, bias - mean * scale};
}

// Of this batch, which mean and variance receive.
Scaling scaling_of_batch(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                         const Tensor& mean, const Tensor& variance, int64_t ranks) {
  const int64_t c = x.size(-1), rows = x.numel() / c;
  column_statistics(rows, to_int(c), x.const_data_ptr<float>(), mean.mutable_data_ptr<float>(),
                    variance.mutable_data_ptr<float>());
  if (ranks != 0) over_ranks(*reinterpret_cast<Collective*>(ranks), rows, mean, variance);
  return scaling_of(weight, bias, mean, (variance + epsilon).rsqrt());
}

// dx may be dy.
void norm_backward(const Tensor& x, const Tensor& mean, const Tensor& inverse, const Tensor& weight,
                   const Tensor& bias, Activation act, const Tensor& dy, const Tensor& dx,
                   const Tensor& dweight, const Tensor& dbias, int64_t ranks) {
  const int64_t c = x.size(-1);
  std::function<void(std::span<double>)> over_parts;
  if (ranks != 0) {
    over_parts = [ranks](std::span<double> sums) {
      reinterpret_cast<Collective*>(ranks)->sum(sums);
    };
  }
  batch_norm_backward(
      x.numel() / c, to_int(c), x.const_data_ptr<float>(), mean.const_data_ptr<float>(),
      inverse.const_data_ptr<float>(), weight.const_data_ptr<float>(), bias.const_data_ptr<float>(),
      act, dy.const_data_ptr<float>(), dx.mutable_data_ptr<float>(),
      dweight.mutable_data_ptr<float>(), dbias.mutable_data_ptr<float>(), over_parts);
}

class BatchNorm : public torch::autograd::Function<BatchNorm> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight,
                          const Variable& bias, const std::optional<Variable>& residual,
                          double epsilon, int64_t act, const Tensor& mean, const Tensor& variance,
                          int64_t ranks) {
    const int64_t c = x.size(-1), rows = x.numel() / c;
    const Scaling s = scaling_of_batch(x, weight, bias, epsilon, mean, variance, ranks);
    Tensor y = at::empty_like(x);
    scale_activate(rows, to_int(c), x.const_data_ptr<float>(), s.scale.const_data_ptr<float>(),
                   s.shift.const_data_ptr<float>(), static_cast<Activation>(act),
                   residual ? residual->const_data_ptr<float>() : nullptr,
                   y.mutable_data_ptr<float>());
    context->save_for_backward({x, weight, bias, mean, s.inverse});
    context->saved_data["act"] = act;
    context->saved_data["ranks"] = ranks;
    context->saved_data["residual"] = residual.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &mean = saved[3],
                 &inverse = saved[4], dy = gradients[0].contiguous();
    Tensor dx = at::empty_like(x), dweight = at::empty_like(mean), dbias = at::empty_like(mean);
    norm_backward(x, mean, inverse, weight, bias,
                  static_cast<Activation>(context->saved_data["act"].toInt()), dy, dx, dweight,
                  dbias, context->saved_data["ranks"].toInt());
    Tensor dresidual;
    if (context->saved_data["residual"].toBool()) dresidual = dy;
    return {dx, dweight, dbias, dresidual, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

class NormDepthwise : public torch::autograd::Function<NormDepthwise> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight,
                          const Variable& bias, const Variable& window, double epsilon, int64_t act,
                          int64_t stride, const Tensor& mean, const Tensor& variance,
                          int64_t ranks) {
    const Scaling scaling = scaling_of_batch(x, weight, bias, epsilon, mean, variance, ranks);
    const Tensor w = window.contiguous();
    const DepthwiseShape s = depthwise_shape(x, w, stride);
    Tensor y = at::empty({s.n, s.h_out(), s.w_out(), s.c}, x.options());
    depthwise_forward(s, x.const_data_ptr<float>(), input_map(scaling, act),
                      w.const_data_ptr<float>(), y.mutable_data_ptr<float>());
    context->save_for_backward({x, weight, bias, mean, scaling.inverse, w});
    context->saved_data["act"] = act;
    context->saved_data["ranks"] = ranks;
    context->saved_data["stride"] = stride;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &mean = saved[3],
                 &inverse = saved[4], &w = saved[5], dy = gradients[0].contiguous();
    const int64_t act = context->saved_data["act"].toInt();
    const DepthwiseShape s = depthwise_shape(x, w, context->saved_data["stride"].toInt());
    const Scaling scaling = scaling_of(weight, bias, mean, inverse);
    Tensor dx = at::empty_like(x), dw = at::empty_like(w);
    depthwise_backward(s, x.const_data_ptr<float>(), input_map(scaling, act),
                       w.const_data_ptr<float>(), dy.const_data_ptr<float>(),
                       dx.mutable_data_ptr<float>(), dw.mutable_data_ptr<float>());
    Tensor dweight = at::empty_like(mean), dbias = at::empty_like(mean);
    norm_backward(x, mean, inverse, weight, bias, static_cast<Activation>(act), dx, dx, dweight,
                  dbias, context->saved_data["ranks"].toInt());
    return {dx, dweight, dbias, dw, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }

 private:
  static InputMap input_map(const Scaling& s, int64_t act) {
    return {s.scale.const_data_ptr<float>(), s.shift.const_data_ptr<float>(),
            static_cast<Activation>(act)};
  }
};

Tensor gate_of(const Tensor& s, Activation gate) {
  return gate == Activation::kSigmoid ? at::sigmoid(s) : at::hardsigmoid(s);
}

class SqueezeExcite : public torch::autograd::Function<SqueezeExcite> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& w1,
                          const Variable& b1, const Variable& w2, const Variable& b2,
                          int64_t gate) {
    const int n = to_int(x.size(0)), area = to_int(x.size(1) * x.size(2)), c = to_int(x.size(3));
    Tensor pooled = at::empty({n, c}, x.options());
    image_dot(n, area, c, x.const_data_ptr<float>(), nullptr, pooled.mutable_data_ptr<float>());
    pooled.div_(area);
    const Tensor hidden = at::linear(pooled, w1, b1).relu_();
    const Tensor s = at::linear(hidden, w2, b2);
    const Tensor g = gate_of(s, static_cast<Activation>(gate)).contiguous();
    Tensor y = at::empty_like(x);
    image_scale(n, area, c, x.const_data_ptr<float>(), g.const_data_ptr<float>(), nullptr,
                y.mutable_data_ptr<float>());
    context->save_for_backward({x, w1, w2, pooled, hidden, s, g});
    context->saved_data["gate"] = gate;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w1 = saved[1], &w2 = saved[2], &pooled = saved[3],
                 &hidden = saved[4], &s = saved[5], &g = saved[6], dy = gradients[0].contiguous();
    const int n = to_int(x.size(0)), area = to_int(x.size(1) * x.size(2)), c = to_int(x.size(3));
    Tensor dg = at::empty_like(g);
    image_dot(n, area, c, x.const_data_ptr<float>(), dy.const_data_ptr<float>(),
              dg.mutable_data_ptr<float>());
    const bool sigmoid =
        static_cast<Activation>(context->saved_data["gate"].toInt()) == Activation::kSigmoid;
    const Tensor ds = sigmoid ? at::sigmoid_backward(dg, g) : at::hardsigmoid_backward(dg, s);
    const Tensor dh = at::threshold_backward(ds.mm(w2), hidden, 0);
    const Tensor dpooled = dh.mm(w1).div_(area).contiguous();
    Tensor dx = at::empty_like(x);
    image_scale(n, area, c, dy.const_data_ptr<float>(), g.const_data_ptr<float>(),
                dpooled.const_data_ptr<float>(), dx.mutable_data_ptr<float>());
    return {dx, dh.t().mm(pooled), dh.sum(0), ds.t().mm(hidden), ds.sum(0), Tensor()};
  }
};

}  // namespace

GenericOperations::GenericOperations(bool wanted) : before_(std::exchange(t_generic, wanted)) {}
GenericOperations::~GenericOperations() { t_generic = before_; }

Tensor depthwise(const Tensor& x, const Tensor& weight, int stride) {
  if (!has_kernels(x)) return generic::depthwise(x, weight, stride);
  return Depthwise::apply(x.contiguous(), weight, int64_t{stride});
}

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                  Activation act, const Tensor& residual, Tensor* mean, Tensor* variance,
                  Collective* ranks) {
  if (!has_kernels(x)) {
    return generic::batch_norm(x, weight, bias, epsilon, act, residual, mean, variance, ranks);
  }
  const Tensor batch_mean = at::empty({x.size(-1)}, x.options());
  const Tensor batch_variance = at::empty({x.size(-1)}, x.options());
  if (mean != nullptr) *mean = batch_mean;
  if (variance != nullptr) *variance = batch_variance;
  std::optional<Tensor> other;
  if (residual.defined()) other = residual.contiguous();
  return BatchNorm::apply(x.contiguous(), weight, bias, other, epsilon, static_cast<int64_t>(act),
                          batch_mean, batch_variance, reinterpret_cast<int64_t>(ranks));
}

Tensor sum_over_ranks(const Tensor& part, Collective& ranks) {
  return SumOverRanks::apply(part, reinterpret_cast<int64_t>(&ranks));
}

Tensor norm_depthwise(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                      Activation act, const Tensor& window, int stride, Tensor* mean,
                      Tensor* variance, Collective* ranks) {
  if (!has_kernels(x)) {
    const Tensor none;
    return generic::depthwise(
        generic::batch_norm(x, weight, bias, epsilon, act, none, mean, variance, ranks), window,
        stride);
  }
  const Tensor batch_mean = at::empty({x.size(-1)}, x.options());
  const Tensor batch_variance = at::empty({x.size(-1)}, x.options());
  if (mean != nullptr) *mean = batch_mean;
  if (variance != nullptr) *variance = batch_variance;
  return NormDepthwise::apply(x.contiguous(), weight, bias, window, epsilon,
                              static_cast<int64_t>(act), int64_t{stride}, batch_mean,
                              batch_variance, reinterpret_cast<int64_t>(ranks));
}

Tensor fixed_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                  const Tensor& variance, double epsilon, Activation act, const Tensor& residual) {
  if (!has_kernels(x)) {
    return generic::fixed_norm(x, weight, bias, mean, variance, epsilon, act, residual);
  }
  const Tensor in = x.contiguous();
  const Scaling s = scaling_of(weight, bias, mean, (variance + epsilon).rsqrt());
  const Tensor other = residual.defined() ? residual.contiguous() : residual;
  Tensor y = at::empty_like(in);
  const int64_t c = in.size(-1);
  scale_activate(in.numel() / c, to_int(c), in.const_data_ptr<float>(),
                 s.scale.const_data_ptr<float>(), s.shift.const_data_ptr<float>(), act,
                 other.defined() ? other.const_data_ptr<float>() : nullptr,
                 y.mutable_data_ptr<float>());
  return y;
}

Tensor squeeze_excite(const Tensor& x, const Tensor& reduce_weight, const Tensor& reduce_bias,
                      const Tensor& expand_weight, const Tensor& expand_bias, Activation gate) {
  if (!has_kernels(x)) {
    return generic::squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias, gate);
  }
  return SqueezeExcite::apply(x.contiguous(), reduce_weight, reduce_bias, expand_weight,
                              expand_bias, static_cast<int64_t>(gate));
}

Tensor image_patches(const Tensor& x, int kernel, int stride) {
  if (!has_kernels(x)) return generic::image_patches(x, kernel, stride);
  const Tensor in = x.contiguous();
  const int n = to_int(in.size(0)), h = to_int(in.size(1)), c = to_int(in.size(3));
  const int64_t h_out = strided(h, stride);
  Tensor out = at::empty({n * h_out * h_out, int64_t{kernel} * kernel * c}, in.options());
  patches(n, h, c, kernel, stride, in.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  return out;
}

Tensor activate(const Tensor& x, Activation act) {
  switch (act) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kRelu6:
      return at::relu6(x);
    case Activation::kHSwish:
      return at::hardswish(x);
    case Activation::kSigmoid:
      return at::sigmoid(x);
    case Activation::kHSigmoid:
      return at::hardsigmoid(x);
  }
  return x;
}

}  // namespace chanas
