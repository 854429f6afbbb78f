#pragma once
// The passes over activations that training spends its time in, without LibTorch: depthwise
// convolution (LibTorch's gradient of it is five to ten times slower on CPUs) and batch
// normalisation fused with activation and residual.
//
// Activations are float32 NHWC without gaps, rows = n * h * w. All functions use OpenMP's current
// number of threads, and their results do not depend on it. The instruction set is chosen when the
// program runs. Thread safe.

#include <cstdint>
#include <functional>
#include <span>

#include "chanas/arch/network.h"

namespace chanas {

struct DepthwiseShape {
  int n = 0, h = 0, w = 0, c = 0;  // input
  int kernel = 3, stride = 1;      // odd kernel up to kMaxKernel; padding kernel / 2
  int h_out() const { return strided(h, stride); }
  int w_out() const { return strided(w, stride); }
};

// act(x * scale + shift) per column [c], taken on the fly instead of x. scale null: x as it is.
struct InputMap {
  const float* scale = nullptr;
  const float* shift = nullptr;
  Activation act = Activation::kNone;
};

// weight [c, kernel, kernel], y [n, h_out, w_out, c].
void depthwise_forward(const DepthwiseShape& shape, const float* x, const InputMap& map,
                       const float* weight, float* y);
// dx [n, h, w, c] (null: not wanted), the gradient of the mapped input; dweight [c, kernel,
// kernel]; both are overwritten.
void depthwise_backward(const DepthwiseShape& shape, const float* x, const InputMap& map,
                        const float* weight, const float* dy, float* dx, float* dweight);

// Mean and biased variance of each column of x [rows, c].
void column_statistics(int64_t rows, int c, const float* x, float* mean, float* variance);
// y = act(x * scale + shift) + residual (null: none), per column. act: none, relu, relu6, hswish.
void scale_activate(int64_t rows, int c, const float* x, const float* scale, const float* shift,
                    Activation act, const float* residual, float* y);
// Gradient of scale_activate where mean and variance of x give scale and shift:
//   scale = weight * inverse_std, shift = bias - mean * scale.
// dx [rows, c] (may be dy), dweight [c], dbias [c] are overwritten. Where these rows are a part of
// the batch, `over_parts` adds up over all parts what it is given; dweight and dbias are those of
// this part.
void batch_norm_backward(int64_t rows, int c, const float* x, const float* mean,
                         const float* inverse_std, const float* weight, const float* bias,
                         Activation act, const float* dy, float* dx, float* dweight, float* dbias,
                         const std::function<void(std::span<double>)>& over_parts = {});

// Per image and channel, over `area` pixels i. scale, shift, sum: [n, c].
//   y[n, i, c] = x[n, i, c] * scale[n, c] + shift[n, c]   (shift null: 0)
void image_scale(int n, int area, int c, const float* x, const float* scale, const float* shift,
                 float* y);
//   sum[n, c] = sum over i of a[n, i, c] * b[n, i, c]     (b null: 1)
void image_dot(int n, int area, int c, const float* a, const float* b, float* sum);

// Patches of a square k x k window: x [n, h, h, c] -> [n * h_out * h_out, k * k * c], zero padded.
void patches(int n, int h, int c, int kernel, int stride, const float* x, float* out);

}  // namespace chanas
