#include "chanas/supernet/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/supernet/gpu_kernels.h"

namespace chanas {
namespace {

// Path of a library beside LibTorch's CPU library, or its name alone.
std::string beside_libtorch(const std::string& name) {
  Dl_info library = {};
  if (::dladdr(reinterpret_cast<const void*>(&at::get_num_threads), &library) == 0) return name;
  const std::string path = library.dli_fname;
  return join_path(path.substr(0, path.rfind('/')), name);
}

// Registers CUDA with LibTorch. Its answer to "is there CUDA?" is kept for good, so that this has
// to come before the first such question.
Status load_cuda() {
  const std::string path = beside_libtorch("libtorch_cuda.so");
  if (::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return absl::UnavailableError(fmt::format(
        "no CUDA here: {}; set CHANAS_TORCH_PREFIX to a PyTorch with CUDA and build again",
        ::dlerror()));
  }
  if (!at::hasCUDA() || at::accelerator::deviceCount() < 1) {
    return absl::UnavailableError(
        fmt::format("{} finds no CUDA device; nvidia-smi has to list one", path));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<Device> open_device(const std::string& kind, const std::string& precision,
                             int local_rank) {
  if (kind != "auto" && kind != "cpu" && kind != "cuda") {
    return absl::InvalidArgumentError(
        fmt::format("device is \"{}\", expected auto, cpu or cuda", kind));
  }
  if (precision != "float32" && precision != "bfloat16") {
    return absl::InvalidArgumentError(
        fmt::format("precision is \"{}\", expected float32 or bfloat16", precision));
  }
  Device device;
  device.bfloat16 = precision == "bfloat16";
  const Status loaded = kind == "cpu" ? absl::UnavailableError("cpu") : load_cuda();
  if (loaded.ok()) {
    device.gpu = local_rank % at::accelerator::deviceCount();
    at::accelerator::setDeviceIndex(static_cast<c10::DeviceIndex>(device.gpu));
    const Status kernels = gpu::use_nvrtc(beside_libtorch("libcaffe2_nvrtc.so"), device.gpu);
    if (!kernels.ok()) {
      log_warning("training on LibTorch's own operations, which are slower: {}", message(kernels));
    }
    // Matrix products of float32 in TF32, as cuDNN's convolutions are anyhow.
    at::globalContext().setAllowTF32CuBLAS(true);
    return device;
  }
  if (kind == "cuda") return loaded;
  if (device.bfloat16) {
    return absl::InvalidArgumentError(
        "precision bfloat16 is for GPUs, and this training runs on the CPU; take float32");
  }
  return device;
}

std::string describe(const Device& device) {
  if (device.gpu < 0) return "CPU";
  return fmt::format("GPU {}, {}", device.gpu, device.bfloat16 ? "bfloat16" : "float32");
}

}  // namespace chanas
