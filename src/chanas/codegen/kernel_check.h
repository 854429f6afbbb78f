#pragma once
// For tests: a compiled kernel against the reference interpreter.

#include <string>
#include <vector>

#include "chanas/codegen/codegen.h"

namespace chanas {

struct KernelCheck {
  std::string failure;        // "" when right; "compile: ...", "run: ...", "wrong: ..."
  double relative_error = 0;  // max_relative_error
  double compile_s = 0;
};

// Whether any op does (OpTile::keeps_rows).
bool keeps_rows(const ScheduleSpace& space, const Schedule& schedule);

// Random inputs and parameters of a workload with the reference output, and buffers for a kernel.
class KernelCase {
 public:
  KernelCase(Workload workload, uint64_t seed);
  const Workload& workload() const { return workload_; }
  // Compiles, runs once and compares.
  KernelCheck check(const ScheduleSpace& space, const Schedule& schedule,
                    const CompileOptions& options, void* runtime) const;
  std::vector<float> packed(const ScheduleSpace& space, const Schedule& schedule) const;
  const std::vector<std::vector<float>>& inputs() const { return inputs_; }
  const std::vector<float>& reference() const { return reference_; }

 private:
  Workload workload_;
  Parameters parameters_;
  std::vector<std::vector<float>> inputs_;
  std::vector<float> reference_;
};

// Floats at a 64-byte boundary with the page behind them unreadable where they end, so that reading
// over the end of a buffer is a crash and not luck.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t floats);
  explicit GuardedBuffer(const std::vector<float>& values);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  float* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  size_t size_, bytes_;
  void* pages_;
  float* data_;
};

// Workloads of every kind over the shapes that a test should cover: strides, windows, odd sizes,
// channels that no vector divides. `seed` draws the details; the kinds take turns with `index`.
inline constexpr int kExampleKinds = 15;
Workload example_workload(uint64_t seed, int index);

}  // namespace chanas
