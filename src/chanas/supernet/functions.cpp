#include "chanas/supernet/functions.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "chanas/supernet/collective.h"
#include "chanas/supernet/functions_generic.h"
#include "chanas/supernet/gpu_kernels.h"
#include "chanas/supernet/kernels.h"

namespace chanas {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

thread_local bool t_generic = false;

bool on_our_cpu_kernels(const Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

bool has_kernels(const Tensor& x) { return !t_generic && (gpu::runs(x) || on_our_cpu_kernels(x)); }
bool has_depthwise(const Tensor& x, const Tensor& window, int64_t stride) {
  return !t_generic &&
         (gpu::runs(x) ? gpu::runs_depthwise(x, window, stride) : on_our_cpu_kernels(x));
}

int to_int(int64_t value) { return static_cast<int>(value); }

// --- The kernels, for tensors: those of kernels.h or those of gpu_kernels.h ----------------------

const float* read(const Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }
float* data(const Tensor& x) { return x.defined() ? x.mutable_data_ptr<float>() : nullptr; }

int64_t rows_of(const Tensor& x) { return x.numel() / x.size(-1); }
int columns_of(const Tensor& x) { return to_int(x.size(-1)); }

DepthwiseShape depthwise_shape(const Tensor& x, const Tensor& window, int64_t stride) {
  return {to_int(x.size(0)), to_int(x.size(1)),      to_int(x.size(2)),
          to_int(x.size(3)), to_int(window.size(3)), to_int(stride)};
}

// What normalisation and its weights come to: x * scale + shift, then `act`. Undefined: x.
struct Scaling {
  Tensor inverse, scale, shift;
  Activation act = Activation::kNone;
};

Scaling scaling_of(const Tensor& weight, const Tensor& bias, const Tensor& mean,
                   const Tensor& inverse, Activation act) {
  const Tensor scale = weight * inverse;
  return {inverse, scale, at::addcmul(bias, mean, scale, -1), act};
}

void statistics(const Tensor& x, const Tensor& mean, const Tensor& variance) {
  if (gpu::runs(x)) return gpu::column_statistics(x, mean, variance);
  column_statistics(rows_of(x), columns_of(x), read(x), data(mean), data(variance));
}

void scale_activate(const Tensor& x, const Scaling& s, const Tensor& residual, const Tensor& y) {
  if (gpu::runs(x)) return gpu::scale_activate(x, s.scale, s.shift, s.act, residual, y);
  scale_activate(rows_of(x), columns_of(x), read(x), read(s.scale), read(s.shift), s.act,
                 read(residual), data(y));
}

InputMap input_map(const Scaling& s) { return {read(s.scale), read(s.shift), s.act}; }

Tensor convolve(const Tensor& x, const Scaling& s, const Tensor& window, int64_t stride) {
  const DepthwiseShape shape = depthwise_shape(x, window, stride);
  Tensor y = at::empty({shape.n, shape.h_out(), shape.w_out(), shape.c}, x.options());
  if (gpu::runs(x)) {
    gpu::depthwise_forward(x, s.scale, s.shift, s.act, window, stride, y);
  } else {
    depthwise_forward(shape, read(x), input_map(s), read(window), data(y));
  }
  return y;
}

void convolve_backward(const Tensor& x, const Scaling& s, const Tensor& window, int64_t stride,
                       const Tensor& dy, const Tensor& dx, const Tensor& dwindow) {
  if (gpu::runs(x)) {
    return gpu::depthwise_backward(x, s.scale, s.shift, s.act, window, stride, dy, dx, dwindow);
  }
  depthwise_backward(depthwise_shape(x, window, stride), read(x), input_map(s), read(window),
                     read(dy), data(dx), data(dwindow));
}

// [n, c]: sums over the pixels of a * b, b undefined: of a.
Tensor image_dot(const Tensor& a, const Tensor& b) {
  const int n = to_int(a.size(0)), area = to_int(a.size(1) * a.size(2)), c = columns_of(a);
  Tensor sum = at::empty({n, c}, a.options());
  if (gpu::runs(a)) {
    gpu::image_dot(a, b, sum);
  } else {
    chanas::image_dot(n, area, c, read(a), read(b), data(sum));
  }
  return sum;
}

Tensor image_scale(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const int n = to_int(x.size(0)), area = to_int(x.size(1) * x.size(2)), c = columns_of(x);
  Tensor y = at::empty_like(x);
  if (gpu::runs(x)) {
    gpu::image_scale(x, scale, shift, y);
  } else {
    chanas::image_scale(n, area, c, read(x), read(scale), read(shift), data(y));
  }
  return y;
}

// --- Differentiable ------------------------------------------------------------------------------

class Depthwise : public torch::autograd::Function<Depthwise> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight,
                          int64_t stride) {
    const Tensor w = weight.contiguous();
    context->save_for_backward({x, w});
    context->saved_data["stride"] = stride;
    return convolve(x, {}, w, stride);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], dy = gradients[0].contiguous();
    Tensor dx, dw = at::empty_like(w);
    if (context->needs_input_grad(0)) dx = at::empty_like(x);
    convolve_backward(x, {}, w, context->saved_data["stride"].toInt(), dy, dx, dw);
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

// Of this batch, which mean and variance receive.
Scaling scaling_of_batch(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                         int64_t act, const Tensor& mean, const Tensor& variance, int64_t ranks) {
  const auto activation = static_cast<Activation>(act);
  if (gpu::runs(x) && ranks == 0) {  // in one go
    Scaling s{at::empty_like(mean), at::empty_like(mean), at::empty_like(mean), activation};
    gpu::column_scaling(x, weight, bias, epsilon, mean, variance, s.inverse, s.scale, s.shift);
    return s;
  }
  statistics(x, mean, variance);
  if (ranks != 0) over_ranks(*reinterpret_cast<Collective*>(ranks), rows_of(x), mean, variance);
  return scaling_of(weight, bias, mean, (variance + epsilon).rsqrt(), activation);
}

// dx may be dy.
void norm_backward(const Tensor& x, const Tensor& mean, const Scaling& s, const Tensor& weight,
                   const Tensor& bias, const Tensor& dy, const Tensor& dx, Tensor& dweight,
                   Tensor& dbias, int64_t ranks) {
  std::function<void(std::span<double>)> over_parts;
  if (ranks != 0) {
    over_parts = [ranks](std::span<double> sums) {
      reinterpret_cast<Collective*>(ranks)->sum(sums);
    };
  }
  if (!gpu::runs(x)) {
    dweight = at::empty_like(mean);
    dbias = at::empty_like(mean);
    batch_norm_backward(rows_of(x), columns_of(x), read(x), read(mean), read(s.inverse),
                        read(weight), read(bias), s.act, read(dy), data(dx), data(dweight),
                        data(dbias), over_parts);
    return;
  }
  const gpu::Norm norm{s.scale, s.shift, mean, s.inverse};
  const Tensor sums = gpu::norm_backward_sums(x, norm, s.act, dy);
  dbias = sums[0];
  dweight = sums[1];
  Tensor whole = sums;
  auto rows = static_cast<double>(rows_of(x));
  if (over_parts) {
    const Tensor home =
        at::cat({sums.flatten().to(at::kCPU, at::kDouble), at::full({1}, rows, at::kDouble)});
    over_parts(std::span(home.mutable_data_ptr<double>(), static_cast<size_t>(home.numel())));
    rows = home[-1].item<double>();
    whole = home.narrow(0, 0, sums.numel()).view(sums.sizes()).to(sums.options());
  }
  gpu::norm_backward(x, norm, s.act, dy, whole, rows, dx);
}

class BatchNorm : public torch::autograd::Function<BatchNorm> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight,
                          const Variable& bias, const std::optional<Variable>& residual,
                          double epsilon, int64_t act, const Tensor& mean, const Tensor& variance,
                          int64_t ranks) {
    const Scaling s = scaling_of_batch(x, weight, bias, epsilon, act, mean, variance, ranks);
    Tensor y = at::empty_like(x);
    scale_activate(x, s, residual ? *residual : Tensor(), y);
    context->save_for_backward({x, weight, bias, mean, s.inverse, s.scale, s.shift});
    context->saved_data["act"] = act;
    context->saved_data["ranks"] = ranks;
    context->saved_data["residual"] = residual.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &mean = saved[3],
                 dy = gradients[0].contiguous();
    const Scaling s{saved[4], saved[5], saved[6],
                    static_cast<Activation>(context->saved_data["act"].toInt())};
    Tensor dx = at::empty_like(x), dweight, dbias, dresidual;
    norm_backward(x, mean, s, weight, bias, dy, dx, dweight, dbias,
                  context->saved_data["ranks"].toInt());
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
    const Scaling s = scaling_of_batch(x, weight, bias, epsilon, act, mean, variance, ranks);
    const Tensor w = window.contiguous();
    context->save_for_backward({x, weight, bias, mean, s.inverse, s.scale, s.shift, w});
    context->saved_data["act"] = act;
    context->saved_data["ranks"] = ranks;
    context->saved_data["stride"] = stride;
    return convolve(x, s, w, stride);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &mean = saved[3],
                 &w = saved[7], dy = gradients[0].contiguous();
    const Scaling s{saved[4], saved[5], saved[6],
                    static_cast<Activation>(context->saved_data["act"].toInt())};
    Tensor dx = at::empty_like(x), dw = at::empty_like(w), dweight, dbias;
    convolve_backward(x, s, w, context->saved_data["stride"].toInt(), dy, dx, dw);
    norm_backward(x, mean, s, weight, bias, dx, dx, dweight, dbias,
                  context->saved_data["ranks"].toInt());
    return {dx, dweight, dbias, dw, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
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
    const Tensor pooled = image_dot(x, {}).div_(x.size(1) * x.size(2));
    const Tensor hidden = at::linear(pooled, w1, b1).relu_();
    const Tensor s = at::linear(hidden, w2, b2);
    const Tensor g = gate_of(s, static_cast<Activation>(gate)).contiguous();
    Tensor y = image_scale(x, g, {});
    context->save_for_backward({x, w1, w2, pooled, hidden, s, g});
    context->saved_data["gate"] = gate;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w1 = saved[1], &w2 = saved[2], &pooled = saved[3],
                 &hidden = saved[4], &s = saved[5], &g = saved[6], dy = gradients[0].contiguous();
    const Tensor dg = image_dot(x, dy);
    const bool sigmoid =
        static_cast<Activation>(context->saved_data["gate"].toInt()) == Activation::kSigmoid;
    const Tensor ds = sigmoid ? at::sigmoid_backward(dg, g) : at::hardsigmoid_backward(dg, s);
    const Tensor dh = at::threshold_backward(ds.mm(w2), hidden, 0);
    const Tensor dpooled = dh.mm(w1).div_(x.size(1) * x.size(2)).contiguous();
    return {image_scale(dy, g, dpooled), dh.t().mm(pooled), dh.sum(0),
            ds.t().mm(hidden),           ds.sum(0),         Tensor()};
  }
};

}  // namespace

GenericOperations::GenericOperations(bool wanted) : before_(std::exchange(t_generic, wanted)) {}
GenericOperations::~GenericOperations() { t_generic = before_; }

Tensor depthwise(const Tensor& x, const Tensor& weight, int stride) {
  if (!has_depthwise(x, weight, stride)) return generic::depthwise(x, weight, stride);
  return Depthwise::apply(x.contiguous(), weight.to(x.scalar_type()), int64_t{stride});
}

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                  Activation act, const Tensor& residual, Tensor* mean, Tensor* variance,
                  Collective* ranks) {
  if (!has_kernels(x)) {
    return generic::batch_norm(x, weight, bias, epsilon, act, residual, mean, variance, ranks);
  }
  const Tensor batch_mean = at::empty_like(weight), batch_variance = at::empty_like(weight);
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
  if (!has_depthwise(x, window, stride)) {
    return depthwise(batch_norm(x, weight, bias, epsilon, act, {}, mean, variance, ranks), window,
                     stride);
  }
  const Tensor batch_mean = at::empty_like(weight), batch_variance = at::empty_like(weight);
  if (mean != nullptr) *mean = batch_mean;
  if (variance != nullptr) *variance = batch_variance;
  return NormDepthwise::apply(x.contiguous(), weight, bias, window.to(x.scalar_type()), epsilon,
                              static_cast<int64_t>(act), int64_t{stride}, batch_mean,
                              batch_variance, reinterpret_cast<int64_t>(ranks));
}

Tensor fixed_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                  const Tensor& variance, double epsilon, Activation act, const Tensor& residual) {
  if (!has_kernels(x)) {
    return generic::fixed_norm(x, weight, bias, mean, variance, epsilon, act, residual);
  }
  const Tensor in = x.contiguous();
  Tensor y = at::empty_like(in);
  scale_activate(in, scaling_of(weight, bias, mean, (variance + epsilon).rsqrt(), act),
                 residual.defined() ? residual.contiguous() : residual, y);
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
  if (t_generic || !on_our_cpu_kernels(x)) return generic::image_patches(x, kernel, stride);
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
