#pragma once
// The operations of functions.h in LibTorch's own ones: for devices that our kernels do not run on,
// and for what these are tested against. Same arguments, layouts and results (to rounding), any
// floating type; activations are seen by LibTorch as channels-last.

#include "chanas/supernet/functions.h"

namespace chanas::generic {

at::Tensor depthwise(const at::Tensor& x, const at::Tensor& weight, int stride);
at::Tensor batch_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon, Activation act, const at::Tensor& residual, at::Tensor& mean,
                      at::Tensor& variance, Collective* ranks);
at::Tensor fixed_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      const at::Tensor& mean, const at::Tensor& variance, double epsilon,
                      Activation act, const at::Tensor& residual);
at::Tensor squeeze_excite(const at::Tensor& x, const at::Tensor& reduce_weight,
                          const at::Tensor& reduce_bias, const at::Tensor& expand_weight,
                          const at::Tensor& expand_bias, Activation gate);
at::Tensor image_patches(const at::Tensor& x, int kernel, int stride);

}  // namespace chanas::generic
