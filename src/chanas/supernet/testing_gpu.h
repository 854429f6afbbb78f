#pragma once
// gpu_kernels.cu without a GPU: compiled as C++, its threads one after another on the CPU.

#include <memory>

#include "chanas/supernet/gpu_kernels.h"

namespace chanas::testing_supernet {

// Takes tensors on the CPU. Threads of a block change at __syncthreads() only, shared memory starts
// as no numbers; a write beyond it, or more than a GPU has, is a CHECK. Thread safe.
std::unique_ptr<gpu::Launcher> emulated_gpu();

}  // namespace chanas::testing_supernet
