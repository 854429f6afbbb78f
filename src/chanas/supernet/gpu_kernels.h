#pragma once
// The passes of kernels.h for activations on a GPU, float32 or bfloat16 (sums, statistics and what
// belongs to normalisation are float32): the same operations, arguments and shapes, as tensors.
// Their code is gpu_kernels.cu.
//
// They work on the device's default stream and wait for nothing. Not for tensors with gaps;
// channels are a multiple of 8 (runs()). They throw c10::Error where the driver refuses something.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "chanas/arch/network.h"
#include "chanas/base/status.h"

namespace at {
class Tensor;
}

namespace chanas::gpu {

// Which build of gpu_kernels.cu; kernel 0: the one without depthwise convolutions.
struct Variant {
  bool wide = true;  // float32
  int kernel = 0, stride = 1;
  auto operator<=>(const Variant&) const = default;
};

struct Extent {
  int x = 1, y = 1, z = 1;
};

// What compiles and starts kernels: a GPU, in tests an emulator.
class Launcher {
 public:
  virtual ~Launcher() = default;
  virtual bool on_cpu() const = 0;  // where its tensors are
  virtual int processors() const = 0;
  // `arguments` point to the kernel's arguments. `shared` bytes of memory for each block.
  virtual void launch(const Variant& variant, const char* kernel, Extent grid, Extent block,
                      size_t shared, void** arguments) = 0;
};

// All functions below use it; null, as at the start: nothing runs here. Not while one is at work.
void use(std::unique_ptr<Launcher> launcher);
// A launcher for GPU number `gpu`, by NVRTC and the driver that a LibTorch with CUDA brings
// (`library`: its libcaffe2_nvrtc.so); where it is in use already, it stays. kUnavailable: they are
// not there, or do not know the GPU.
Status use_nvrtc(const std::string& library, int gpu);

// Whether the functions below take this activation.
bool runs(const at::Tensor& x);
// Whether the depthwise ones do, with this window, of the same type, and stride.
bool runs_depthwise(const at::Tensor& x, const at::Tensor& window, int64_t stride);

void column_statistics(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& variance);
// The same, and in the same go what normalisation comes to: inverse = 1 / sqrt(variance + epsilon),
// scale = weight * inverse, shift = bias - mean * scale; all [c].
void column_scaling(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    double epsilon, const at::Tensor& mean, const at::Tensor& variance,
                    const at::Tensor& inverse, const at::Tensor& scale, const at::Tensor& shift);
void scale_activate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                    Activation act, const at::Tensor& residual, const at::Tensor& y);

// Normalisation's tensors, each [c].
struct Norm {
  const at::Tensor &scale, &shift, &mean, &inverse;
};
// [2, c]: gradients of bias and weight from these rows.
at::Tensor norm_backward_sums(const at::Tensor& x, const Norm& norm, Activation act,
                              const at::Tensor& dy);
// `sums` are those of all `rows` of the batch. dx may be dy.
void norm_backward(const at::Tensor& x, const Norm& norm, Activation act, const at::Tensor& dy,
                   const at::Tensor& sums, double rows, const at::Tensor& dx);

// scale and shift undefined: x as it is. dx undefined: not wanted.
void depthwise_forward(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                       Activation act, const at::Tensor& window, int64_t stride,
                       const at::Tensor& y);
void depthwise_backward(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                        Activation act, const at::Tensor& window, int64_t stride,
                        const at::Tensor& dy, const at::Tensor& dx, const at::Tensor& dwindow);

// shift undefined: 0; b undefined: 1. Sums have the type of the activation.
void image_scale(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                 const at::Tensor& y);
void image_dot(const at::Tensor& a, const at::Tensor& b, const at::Tensor& sum);

}  // namespace chanas::gpu
