#pragma once
// (workload, schedule, target) -> machine code. The only module that sees Halide. Calls may run out
// of memory, hang or crash inside the compiler: only chanas-kernel, a child with limits, calls
// them.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "chanas/schedule/plan.h"

namespace chanas {

struct CompileOptions {
  // Everything that could go wrong with the schedule is proven by the compiler or asserted by the
  // generated code. JitKernel::assertions tells how much had to be asserted: with none, which is
  // the rule, the code is as fast as without and can be timed itself.
  bool assertions = false;
  // What is needed soon of the memory that holds the weights (Stage::prefetch): dense reductions
  // prefetch it, evenly spread over their steps.
  std::vector<PrefetchRange> prefetch = {};
};

// A kernel compiled in this process. All buffers are dense NHWC float32, 64-byte aligned; weights
// packed by pack_weights.
class JitKernel {
 public:
  virtual ~JitKernel() = default;
  // Returns 0, or the error code of a failed assertion (message in `error`). Parallel loops and
  // scratch memory go through the runtime (chanas/runtime/runtime.h) instance given at compile
  // time. Thread rule: one call at a time per kernel and runtime instance.
  virtual int run(const std::vector<const float*>& inputs, const float* weights, float* output,
                  std::string* error) = 0;
  // Assertions in its code, see CompileOptions.
  virtual int assertions() const = 0;
};

// kInvalidArgument: illegal schedule or the compiler refused it (message of the compiler, and a
// schedule that the compiler proves to fail an assertion).
StatusOr<std::unique_ptr<JitKernel>> compile_jit(const ScheduleSpace& space,
                                                 const Schedule& schedule,
                                                 const CompileOptions& options, void* runtime);

// An object file without Halide's runtime: needs halide_malloc, halide_free and halide_do_par_for,
// which chanas/runtime provides; the first argument of `symbol` is the user context (a
// chanas_runtime instance):
//   int symbol(void* context, halide_buffer_t* in0, ..., halide_buffer_t* weights, halide_buffer_t*
//   out)
Status compile_object(const ScheduleSpace& space, const Schedule& schedule,
                      const CompileOptions& options, const std::string& symbol,
                      const std::string& object_path);

// Loop nest, and source-like dump of the lowered program, for people.
StatusOr<std::string> dump_loop_nest(const ScheduleSpace& space, const Schedule& schedule);
StatusOr<std::string> dump_lowered(const ScheduleSpace& space, const Schedule& schedule);

// Halide's name of the host ("x86-64-linux-avx2-..."), the value of Target::triple.
std::string host_triple();

}  // namespace chanas
