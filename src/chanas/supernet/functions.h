#pragma once
// Differentiable operations of the supernet: on the kernels of kernels.h where tensors are float32
// on the CPU, on those of gpu_kernels.h where these are in use, elsewhere those of
// functions_generic.h. Activations are [n, h, w, c] contiguous
// (NHWC). Thread safe. They throw c10::Error as LibTorch.

#include "chanas/arch/network.h"

namespace at {
class Tensor;
}

namespace chanas {

class Collective;

// While it lives, this thread takes the generic operations everywhere.
class GenericOperations {
 public:
  explicit GenericOperations(bool wanted);
  ~GenericOperations();
  GenericOperations(const GenericOperations&) = delete;
  GenericOperations& operator=(const GenericOperations&) = delete;

 private:
  const bool before_;
};

// weight [c, 1, k, k], zero padding k / 2.
at::Tensor depthwise(const at::Tensor& x, const at::Tensor& weight, int stride);

// act(norm(x) * weight + bias) + residual (undefined: none) with the statistics of this batch,
// which are also given to mean and variance (biased; null: not wanted). With `ranks` (null: no
// others) the batch is that of all ranks, and only its gradients of weight and bias are this rank's
// part; throws PeerLost, backwards too.
at::Tensor batch_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon, Activation act, const at::Tensor& residual, at::Tensor* mean,
                      at::Tensor* variance, Collective* ranks = nullptr);
// depthwise(batch_norm(x, weight, bias, epsilon, act, none, mean, variance, ranks), window, stride)
// bit for bit, without keeping what is between them: it is made again where it is read.
at::Tensor norm_depthwise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          double epsilon, Activation act, const at::Tensor& window, int stride,
                          at::Tensor* mean, at::Tensor* variance, Collective* ranks = nullptr);
// batch_norm with given statistics; not differentiable.
at::Tensor fixed_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      const at::Tensor& mean, const at::Tensor& variance, double epsilon,
                      Activation act, const at::Tensor& residual);

// x * gate(expand(relu(reduce(mean(x))))). reduce [s, c] + [s], expand [c, s] + [c]; gate: sigmoid
// or hsigmoid.
at::Tensor squeeze_excite(const at::Tensor& x, const at::Tensor& reduce_weight,
                          const at::Tensor& reduce_bias, const at::Tensor& expand_weight,
                          const at::Tensor& expand_bias, Activation gate);

// [n, h, w, c] -> [n * h_out * w_out, k * k * c]; not differentiable.
at::Tensor image_patches(const at::Tensor& x, int kernel, int stride);

// Sum over the ranks of a scalar that each has computed from its part. Every rank differentiates
// the sum with respect to its own part. Throws PeerLost.
at::Tensor sum_over_ranks(const at::Tensor& part, Collective& ranks);

// none, relu, relu6, hswish, sigmoid, hsigmoid by LibTorch's own operations.
at::Tensor activate(const at::Tensor& x, Activation act);

}  // namespace chanas
