#pragma once
// A compiled candidate with all that a call of it needs.

#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chanas/codegen/codegen.h"
#include "chanas/measure/measure.h"
#include "chanas/runtime/runtime.h"

namespace chanas {

// 64-byte aligned floats.
class FloatBuffer {
 public:
  FloatBuffer() = default;
  explicit FloatBuffer(size_t size);
  float* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::vector<float> copy() const { return {data(), data() + size_}; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  size_t size_ = 0;
};

// One runtime per thread count, kept: its threads sleep between measurements.
class Runtimes {
 public:
  // kResourceExhausted when its threads cannot be started.
  StatusOr<chanas_runtime*> get(int threads);

 private:
  struct Destroy {
    void operator()(chanas_runtime* runtime) const { chanas_runtime_destroy(runtime); }
  };
  std::map<int, std::unique_ptr<chanas_runtime, Destroy>> runtimes_;
};

// Random inputs and parameters of a workload (a function of its graph alone) and what the reference
// interpreter makes of them.
struct Reference {
  Parameters parameters;
  std::vector<std::vector<float>> inputs;
  std::vector<float> output;
};
// The last few workloads' references: candidates of one workload come in a row.
class References {
 public:
  const Reference& get(const Workload& workload);

 private:
  std::vector<std::pair<std::string, std::unique_ptr<Reference>>> recent_;  // newest last
};

struct Kernel {
  ScheduleSpace space;
  chanas_runtime* runtime = nullptr;
  std::unique_ptr<JitKernel> jit;
  std::vector<FloatBuffer> inputs;
  std::vector<const float*> input_pointers;
  // Behind the weights as much as the kernel prefetches there: those of the stage after it.
  FloatBuffer weights, output;
  Fetching fetching;
  size_t scratch_bytes = 0;  // that one thread needs

  int run(std::string* error) {
    return jit->run(input_pointers, weights.data(), output.data(), error);
  }
};

// Compiles with assertions and with what it would prefetch in a network, runs and compares with the
// reference; where the compiler left any assertion in the code, compiles without and compares
// again: what is timed is what was compared. `result` gets compile_s, relative_error and the error;
// the kernel is null after an error.
std::unique_ptr<Kernel> build_kernel(const ScheduleSpace& space, const Schedule& schedule,
                                     chanas_runtime* runtime, const Reference& reference,
                                     MeasureResult& result);

// Weights of random_parameters(workload), as this schedule packs them.
std::vector<float> packed_weights(const ScheduleSpace& space, const Schedule& schedule,
                                  const Parameters& parameters);

}  // namespace chanas
