#pragma once
// Where a supernet computes. LibTorch's CUDA library is looked for when a program asks, beside the
// CPU library that it was linked with: the same program runs with and without a GPU.

#include <string>

#include "chanas/base/status.h"

namespace chanas {

struct Device {
  int gpu = -1;          // index of a CUDA device; -1: the CPU
  bool generic = false;  // LibTorch's own operations instead of our kernels
  // Convolutions and matrix products in bfloat16; weights, sums and normalisation stay float32. On
  // the CPU by generic operations only.
  bool bfloat16 = false;
};

// kind: cpu; cuda; auto: cuda where it works, else the CPU. precision: float32 or bfloat16.
// `local_rank` chooses among the GPUs of this machine. kInvalidArgument: unknown, or bfloat16 on
// the CPU. kUnavailable: cuda is asked for, and the library or a device is missing; the message
// says which. Call before anything else that could ask LibTorch about CUDA.
StatusOr<Device> open_device(const std::string& kind, const std::string& precision,
                             int local_rank = 0);

// "CPU", or the GPU with its index.
std::string describe(const Device& device);

}  // namespace chanas
