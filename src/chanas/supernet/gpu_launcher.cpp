// Kernels by NVRTC and the CUDA driver. Their functions are declared here, as of CUDA 11 to 13, so
// that no CUDA is needed to build.

#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "chanas/supernet/gpu_kernels.h"

namespace chanas {

std::vector<std::pair<std::string, std::string>> embedded_gpu_kernels();

namespace gpu {
namespace {

// Numbers of cuda.h.
constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76, kDynamicShared = 8;

struct Driver {
  int (*device_get)(int* device, int ordinal);
  int (*device_attribute)(int* value, int attribute, int device);
  int (*primary_context)(void** context, int device);
  int (*set_context)(void* context);
  int (*load_module)(void** module, const void* image);
  int (*get_function)(void** function, void* module, const char* name);
  int (*set_attribute)(void* function, int attribute, int value);
  int (*launch)(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                unsigned bz, unsigned shared, void* stream, void** arguments, void** extra);
  int (*error_string)(int error, const char** text);
};

struct Compiler {
  int (*create)(void** program, const char* source, const char* name, int headers, const char** a,
                const char** b);
  int (*compile)(void* program, int options, const char* const* option);
  int (*log_size)(void* program, size_t* size);
  int (*log)(void* program, char* text);
  int (*cubin_size)(void* program, size_t* size);
  int (*cubin)(void* program, char* image);
  int (*destroy)(void** program);
};

class NvrtcLauncher : public Launcher {
 public:
  Status open(const std::string& library, int gpu) {
    // By itself, LibTorch loads this late; its dependencies are NVRTC and the driver.
    void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return absl::UnavailableError(::dlerror());
    bool all = true;
    const auto find = [&](const char* name, auto& function) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
      all = all && function != nullptr;
    };
    find("cuDeviceGet", driver_.device_get);
    find("cuDeviceGetAttribute", driver_.device_attribute);
    find("cuDevicePrimaryCtxRetain", driver_.primary_context);
    find("cuCtxSetCurrent", driver_.set_context);
    find("cuModuleLoadData", driver_.load_module);
    find("cuModuleGetFunction", driver_.get_function);
    find("cuFuncSetAttribute", driver_.set_attribute);
    find("cuLaunchKernel", driver_.launch);
    find("cuGetErrorString", driver_.error_string);
    find("nvrtcCreateProgram", compiler_.create);
    find("nvrtcCompileProgram", compiler_.compile);
    find("nvrtcGetProgramLogSize", compiler_.log_size);
    find("nvrtcGetProgramLog", compiler_.log);
    find("nvrtcGetCUBINSize", compiler_.cubin_size);
    find("nvrtcGetCUBIN", compiler_.cubin);
    find("nvrtcDestroyProgram", compiler_.destroy);
    if (!all) {
      return absl::UnavailableError(
          fmt::format("{} does not bring all of NVRTC and the driver", library));
    }
    int device = 0, major = 0, minor = 0;
    for (const int error : {driver_.device_get(&device, gpu),
                            driver_.device_attribute(&processors_, kMultiprocessors, device),
                            driver_.device_attribute(&major, kMajor, device),
                            driver_.device_attribute(&minor, kMinor, device),
                            driver_.primary_context(&context_, device)}) {
      if (error != 0) return absl::UnavailableError(error_text(error));
    }
    architecture_ = fmt::format("--gpu-architecture=sm_{}{}", major, minor);
    // Tells early whether this NVRTC knows the GPU.
    try {
      const std::lock_guard lock(mutex_);
      module(Variant());
    } catch (const c10::Error& error) {
      return absl::UnavailableError(error.what_without_backtrace());
    }
    return absl::OkStatus();
  }

  bool on_cpu() const override { return false; }
  int processors() const override { return processors_; }

  void launch(const Variant& variant, const char* kernel, Extent grid, Extent block, size_t shared,
              void** arguments) override {
    const std::lock_guard lock(mutex_);
    check(driver_.set_context(context_));  // of this thread; autograd has its own
    void* function = find(variant, kernel);
    const auto u = [](int value) { return static_cast<unsigned>(value); };
    check(driver_.launch(function, u(grid.x), u(grid.y), u(grid.z), u(block.x), u(block.y),
                         u(block.z), static_cast<unsigned>(shared), nullptr, arguments, nullptr));
  }

 private:
  std::string error_text(int error) const {
    const char* text = nullptr;
    driver_.error_string(error, &text);
    return fmt::format("CUDA driver: {} ({})", text == nullptr ? "unknown" : text, error);
  }
  void check(int error) const { TORCH_CHECK(error == 0, error_text(error)); }

  void* find(const Variant& variant, const char* kernel) {
    void*& function = functions_[{variant, kernel}];
    if (function == nullptr) {
      check(driver_.get_function(&function, module(variant), kernel));
      if (variant.kernel != 0) check(driver_.set_attribute(function, kDynamicShared, kMaxShared));
    }
    return function;
  }

  void* module(const Variant& variant) {
    void*& module = modules_[variant];
    if (module != nullptr) return module;
    const auto source = embedded_gpu_kernels().front();
    const std::string wide = fmt::format("-DCHANAS_WIDE={}", variant.wide ? 1 : 0);
    const std::string kernel = fmt::format("-DCHANAS_KERNEL={}", variant.kernel);
    const std::string stride = fmt::format("-DCHANAS_STRIDE={}", variant.stride);
    const char* options[] = {architecture_.c_str(), "--std=c++17", wide.c_str(), kernel.c_str(),
                             stride.c_str()};
    void* program = nullptr;
    TORCH_CHECK(compiler_.create(&program, source.second.c_str(), source.first.c_str(), 0, nullptr,
                                 nullptr) == 0,
                "NVRTC makes no program");
    const int error = compiler_.compile(program, 5, options);
    if (error != 0) {
      size_t size = 0;
      compiler_.log_size(program, &size);
      std::string log(size, 0);
      compiler_.log(program, log.data());
      compiler_.destroy(&program);
      TORCH_CHECK(false, "NVRTC ends with ", error, " for ", architecture_, ": ", log);
    }
    size_t size = 0;
    compiler_.cubin_size(program, &size);
    std::vector<char> cubin(size);
    compiler_.cubin(program, cubin.data());
    compiler_.destroy(&program);
    check(driver_.set_context(context_));
    check(driver_.load_module(&module, cubin.data()));
    return module;
  }

  static constexpr int kMaxShared = 96 << 10;  // what every GPU with bfloat16 gives to a block

  Driver driver_ = {};
  Compiler compiler_ = {};
  int processors_ = 0;
  void* context_ = nullptr;
  std::string architecture_;
  std::mutex mutex_;
  std::map<Variant, void*> modules_;
  std::map<std::pair<Variant, std::string>, void*> functions_;
};

}  // namespace

Status use_nvrtc(const std::string& library, int gpu) {
  static int in_use = -1;
  if (in_use == gpu) return absl::OkStatus();
  auto launcher = std::make_unique<NvrtcLauncher>();
  CHANAS_RETURN_IF_ERROR(launcher->open(library, gpu));
  use(std::move(launcher));
  in_use = gpu;
  return absl::OkStatus();
}

}  // namespace gpu
}  // namespace chanas
