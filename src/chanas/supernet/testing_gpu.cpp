#include "chanas/supernet/testing_gpu.h"

#include <ucontext.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace chanas::testing_supernet {
namespace {

// --- What the kernels take from CUDA -------------------------------------------------------------

gpu::Extent threadIdx, blockIdx, blockDim, gridDim;  // NOLINT(readability-identifier-naming)
void* shared_memory = nullptr;

float as_float(unsigned bits) { return std::bit_cast<float>(bits); }
unsigned as_bits(float value) { return std::bit_cast<unsigned>(value); }

constexpr size_t kStack = 64 << 10;
constexpr unsigned char kUntouched = 0xff;  // no number, in both types

// Threads of a block as coroutines.
class Block {
 public:
  void run(gpu::Extent size, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    const auto count = static_cast<size_t>(size.x * size.y * size.z);
    threads_.resize(std::max(threads_.size(), count));
    for (size_t i = 0; i < count; ++i) {
      Thread& thread = threads_[i];
      if (thread.stack.empty()) thread.stack.resize(kStack);
      thread.done = false;
      thread.place = {static_cast<int>(i) % size.x, static_cast<int>(i) / size.x % size.y,
                      static_cast<int>(i) / size.x / size.y};
      ::getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.data();
      thread.context.uc_stack.ss_size = kStack;
      thread.context.uc_link = nullptr;
      ::makecontext(&thread.context, &Block::start, 0);
    }
    for (bool more = true; more;) {
      for (size_t i = 0; i < count; ++i) {
        if (threads_[i].done) continue;
        current_ = &threads_[i];
        threadIdx = current_->place;
        ::swapcontext(&home_, &current_->context);
      }
      more = false;
      for (size_t i = 0; i < count; ++i) more = more || !threads_[i].done;
    }
  }
  void wait() {
    Thread* self = current_;
    ::swapcontext(&self->context, &home_);
  }

 private:
  struct Thread {
    ucontext_t context = {};
    std::vector<char> stack;
    gpu::Extent place;
    bool done = true;
  };
  static void start();

  const std::function<void()>* kernel_ = nullptr;
  std::vector<Thread> threads_;
  Thread* current_ = nullptr;
  ucontext_t home_ = {};
};

Block block;

void Block::start() {
  (*block.kernel_)();
  block.current_->done = true;
  ::swapcontext(&block.current_->context, &block.home_);
}

// --- The kernels ---------------------------------------------------------------------------------

using Call = std::function<void(void** arguments)>;

template <typename... Arguments>
Call call_of(void (*kernel)(Arguments...)) {
  return [kernel](void** arguments) {
    [&]<size_t... I>(std::index_sequence<I...>) {
      kernel(*static_cast<std::remove_reference_t<Arguments>*>(arguments[I])...);
    }
    (std::index_sequence_for<Arguments...>());
  };
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wold-style-cast"

#define CHANAS_GLOBAL static
#define __device__
#define __syncthreads() block.wait()
#define __uint_as_float as_float
#define __float_as_uint as_bits
#define memory (static_cast<Words*>(shared_memory))

#define CHANAS_KERNEL 0
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 1
namespace wide {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 3
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 1
namespace wide_3_1 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 3
#define CHANAS_STRIDE 2
#define CHANAS_WIDE 1
namespace wide_3_2 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 5
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 1
namespace wide_5_1 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 5
#define CHANAS_STRIDE 2
#define CHANAS_WIDE 1
namespace wide_5_2 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 7
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 1
namespace wide_7_1 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 7
#define CHANAS_STRIDE 2
#define CHANAS_WIDE 1
namespace wide_7_2 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 0
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 0
namespace narrow {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 3
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 0
namespace narrow_3_1 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 3
#define CHANAS_STRIDE 2
#define CHANAS_WIDE 0
namespace narrow_3_2 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 5
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 0
namespace narrow_5_1 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 5
#define CHANAS_STRIDE 2
#define CHANAS_WIDE 0
namespace narrow_5_2 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 7
#define CHANAS_STRIDE 1
#define CHANAS_WIDE 0
namespace narrow_7_1 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE

#define CHANAS_KERNEL 7
#define CHANAS_STRIDE 2
#define CHANAS_WIDE 0
namespace narrow_7_2 {
#include "chanas/supernet/gpu_kernels.cu"
}
#undef CHANAS_KERNEL
#undef CHANAS_STRIDE
#undef CHANAS_WIDE
#undef memory
#pragma GCC diagnostic pop

using Kernels = std::map<std::pair<gpu::Variant, std::string>, Call>;

Kernels all_kernels() {
  Kernels kernels;
#define CHANAS_ADD(space, variant, name) \
  kernels[{gpu::Variant variant, #name}] = call_of(space::name);
#define CHANAS_COLUMNS(space, is_wide)             \
  CHANAS_ADD(space, (is_wide), column_sums)        \
  CHANAS_ADD(space, (is_wide), norm_backward_sums) \
  CHANAS_ADD(space, (is_wide), norm_backward)      \
  CHANAS_ADD(space, (is_wide), scale_activate)     \
  CHANAS_ADD(space, (is_wide), finish_statistics)  \
  CHANAS_ADD(space, (is_wide), finish_sums)        \
  CHANAS_ADD(space, (is_wide), image_dot)          \
  CHANAS_ADD(space, (is_wide), image_scale)
#define CHANAS_WINDOWS(space, is_wide, k, s)                           \
  CHANAS_ADD(space##_##k##_##s, (is_wide, k, s), depthwise_forward_4)  \
  CHANAS_ADD(space##_##k##_##s, (is_wide, k, s), depthwise_forward_8)  \
  CHANAS_ADD(space##_##k##_##s, (is_wide, k, s), depthwise_backward_4) \
  CHANAS_ADD(space##_##k##_##s, (is_wide, k, s), depthwise_backward_8) \
  CHANAS_ADD(space##_##k##_##s, (is_wide, k, s), window_gradient_4)    \
  CHANAS_ADD(space##_##k##_##s, (is_wide, k, s), window_gradient_8)
#define CHANAS_ALL(space, is_wide)     \
  CHANAS_COLUMNS(space, is_wide)       \
  CHANAS_WINDOWS(space, is_wide, 3, 1) \
  CHANAS_WINDOWS(space, is_wide, 3, 2) \
  CHANAS_WINDOWS(space, is_wide, 5, 1) \
  CHANAS_WINDOWS(space, is_wide, 5, 2) \
  CHANAS_WINDOWS(space, is_wide, 7, 1) \
  CHANAS_WINDOWS(space, is_wide, 7, 2)
  CHANAS_ALL(wide, true)
  CHANAS_ALL(narrow, false)
  return kernels;
}

class Emulator : public gpu::Launcher {
 public:
  bool on_cpu() const override { return true; }
  int processors() const override { return 3; }

  void launch(const gpu::Variant& variant, const char* kernel, gpu::Extent grid,
              gpu::Extent block_size, size_t shared, void** arguments) override {
    const std::lock_guard lock(mutex_);  // ranks of a test are threads
    const auto found = kernels_.find({variant, kernel});
    CHANAS_CHECK(found != kernels_.end()) << kernel << " k " << variant.kernel;
    const int threads = block_size.x * block_size.y * block_size.z;
    CHANAS_CHECK(threads >= 1 && threads <= 1024) << kernel << ": " << threads << " threads";
    CHANAS_CHECK(shared <= (variant.kernel == 0 ? 48u << 10 : 96u << 10))
        << kernel << ": " << shared;
    // More than asked for, to see whether it is touched.
    constexpr size_t kMargin = 4096;
    std::vector<std::max_align_t> memory((shared + kMargin) / sizeof(std::max_align_t) + 1);
    auto* bytes = reinterpret_cast<unsigned char*>(memory.data());
    shared_memory = bytes;
    blockDim = block_size;
    gridDim = grid;
    const std::function<void()> thread = [&] { found->second(arguments); };
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
          std::memset(bytes, kUntouched, shared + kMargin);
          block.run(block_size, thread);
          for (size_t i = 0; i < kMargin; ++i) {
            CHANAS_CHECK(bytes[shared + i] == kUntouched) << kernel << " writes beyond its memory";
          }
        }
      }
    }
  }

 private:
  const Kernels kernels_ = all_kernels();
  std::mutex mutex_;
};

}  // namespace

std::unique_ptr<gpu::Launcher> emulated_gpu() { return std::make_unique<Emulator>(); }

}  // namespace chanas::testing_supernet
