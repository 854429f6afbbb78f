// For tests: the functions of codegen.h by the reference interpreter, so that everything around the
// code generator is tested without it. Its weights are unpacked again from what the kernel is
// given.

#include <algorithm>
#include <utility>

#include "chanas/base/file.h"
#include "chanas/codegen/codegen.h"
#include "chanas/graph/interpreter.h"
#include "chanas/runtime/runtime.h"
#include "chanas/schedule/packing.h"
#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

// The layout that packing.h describes, read back.
Parameters unpack(const Workload& workload, const Packing& packing, const float* weights) {
  Parameters parameters;
  for (const PackedOp& packed : packing.ops) {
    const Op& op = workload.graph.ops[static_cast<size_t>(packed.op)];
    const bool depthwise = op.kind == OpKind::kDepthwise;
    const int c_out = op.shape.c, k = op.kernel;
    const int c_in = depthwise ? 1 : workload.graph.ops[static_cast<size_t>(op.inputs[0])].shape.c;
    Tensor weight{{c_out, c_in, k, k}, std::vector<float>(int64_t{c_out} * c_in * k * k)};
    Tensor bias{{c_out}, std::vector<float>(static_cast<size_t>(c_out))};
    const float* b = weights + packed.bias_offset;
    for (int lane = 0; lane < packed.lanes; ++lane) {
      int64_t channel = lane_channel(c_out, packed.vector, lane);
      if (packed.bias_size > 0) bias.data[channel] = b[lane];
      for (int64_t tap = 0; tap < k * k; ++tap) {
        for (int64_t i = 0; i < c_in; ++i) {
          weight.data[(channel * c_in + i) * k * k + tap] =
              weights[packed.weight_at(lane, tap * c_in + i)];
        }
      }
    }
    parameters.set(op.name + ".weight", std::move(weight));
    if (packed.bias_size > 0) parameters.set(op.name + ".bias", std::move(bias));
  }
  return parameters;
}

class InterpretedKernel : public JitKernel {
 public:
  InterpretedKernel(const ScheduleSpace& space, const Schedule& schedule, void* runtime)
      : space_(space), schedule_(schedule), runtime_(static_cast<chanas_runtime*>(runtime)) {}

  int run(const std::vector<const float*>& inputs, const float* weights, float* output,
          std::string*) override {
    const Graph& graph = space_.workload.graph;
    std::vector<std::vector<float>> values;
    std::vector<int> ops = graph.input_ops();
    for (size_t i = 0; i < ops.size(); ++i) {
      int64_t size = graph.ops[static_cast<size_t>(ops[i])].shape.elements();
      values.emplace_back(inputs[i], inputs[i] + size);
    }
    Parameters parameters = unpack(space_.workload, packing(space_, schedule_), weights);
    std::vector<float> result = interpret(graph, parameters, values).back();
    // Through scratch memory and a parallel loop, as compiled kernels do.
    auto* scratch =
        static_cast<float*>(chanas_scratch_alloc(runtime_, result.size() * sizeof(float)));
    if (!scratch) return CHANAS_RUNTIME_ERROR_MEMORY;
    std::copy(result.begin(), result.end(), scratch);
    struct Copy {
      const float* from;
      float* to;
    } copy{scratch, output};
    int code = chanas_par_for(
        runtime_,
        [](void* context, int i, uint8_t*) {
          auto* c = static_cast<Copy*>(context);
          c->to[i] = c->from[i];
          return 0;
        },
        &copy, 0, static_cast<int>(result.size()), nullptr);
    chanas_scratch_free(runtime_, scratch);
    return code;
  }

  int assertions() const override { return 0; }

 private:
  ScheduleSpace space_;
  Schedule schedule_;
  chanas_runtime* runtime_;
};

}  // namespace

// Of the last compile_jit, for tests that link this file (build_kernel_test.cpp).
CompileOptions& compiled_with() {
  static CompileOptions options;
  return options;
}

StatusOr<std::unique_ptr<JitKernel>> compile_jit(const ScheduleSpace& space,
                                                 const Schedule& schedule,
                                                 const CompileOptions& options, void* runtime) {
  compiled_with() = options;
  CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  return std::make_unique<InterpretedKernel>(space, schedule, runtime);
}

Status compile_object(const ScheduleSpace& space, const Schedule& schedule, const CompileOptions&,
                      const std::string& symbol, const std::string& object_path) {
  return write_file_atomic(object_path, symbol + " " + to_text(space, schedule));
}

StatusOr<std::string> dump_loop_nest(const ScheduleSpace& space, const Schedule& schedule) {
  return "loop nest of " + to_text(space, schedule);
}

StatusOr<std::string> dump_lowered(const ScheduleSpace& space, const Schedule& schedule) {
  return "program of " + to_text(space, schedule);
}

std::string host_triple() { return "fake"; }

}  // namespace chanas
