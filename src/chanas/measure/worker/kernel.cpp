#include "chanas/measure/worker/kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>

#include "chanas/graph/interpreter.h"
#include "chanas/measure/protocol.h"
#include "chanas/measure/worker/fault.h"
#include "chanas/schedule/packing.h"

namespace chanas {
namespace {

constexpr uint64_t kSeed = 1;
constexpr size_t kRecentReferences = 16;

double seconds() { return static_cast<double>(chanas_now_ns()) * 1e-9; }

// Of `least` floats at least, zeros behind the values.
FloatBuffer buffer_of(const std::vector<float>& values, size_t least = 0) {
  FloatBuffer buffer(std::max(values.size(), least));
  std::fill(std::copy(values.begin(), values.end(), buffer.data()), buffer.data() + buffer.size(),
            0.0f);
  return buffer;
}

// Floats from the beginning of a stage's weights to the end of what its threads prefetch.
size_t prefetched_floats(const Fetching& fetching, int threads) {
  int64_t end = 0;
  for (const PrefetchRange& range : fetching.prefetch)
    end = std::max(end, range.begin + range.bytes + range.stride * (threads - 1));
  return static_cast<size_t>(end) / sizeof(float);
}

// Runs once into an output of NaNs, so that what is not written does not pass; also gives every
// thread the scratch memory that the kernel needs.
void check_once(Kernel& kernel, const Reference& reference, MeasureResult& result) {
  std::fill_n(kernel.output.data(), kernel.output.size(), std::numeric_limits<float>::quiet_NaN());
  struct Call {
    Kernel& kernel;
    std::string error;
  } call{kernel, ""};
  chanas_runtime_begin(kernel.runtime);
  int code = chanas_runtime_warm_up(
      kernel.runtime,
      [](void* argument) {
        auto* c = static_cast<Call*>(argument);
        return c->kernel.run(&c->error);
      },
      &call);
  kernel.scratch_bytes = chanas_runtime_scratch_used(kernel.runtime);
  if (code == 0 && chanas_runtime_threads(kernel.runtime) > 1) code = kernel.run(&call.error);
  chanas_runtime_end(kernel.runtime);
  if (code == CHANAS_RUNTIME_ERROR_MEMORY) throw std::bad_alloc();
  if (code != 0) {
    result.error = TrialError::kIllegal;
    result.message = fmt::format("the kernel stopped with error {}: {}", code, call.error);
    return;
  }
  disturb_output(kernel.output.data());
  double error = max_relative_error(kernel.output.copy(), reference.output);
  result.relative_error = std::max(result.relative_error, error);
  if (!(error <= kResultTolerance)) {
    // Infinity has no place in JSON.
    result.relative_error = std::min(result.relative_error, 1e30);
    result.error = TrialError::kWrongResult;
    result.message =
        fmt::format("differs from the reference interpreter by {:.2g}, allowed is {:.0e}", error,
                    kResultTolerance);
  }
}

}  // namespace

FloatBuffer::FloatBuffer(size_t size) : size_(size) {
  size_t bytes = (std::max<size_t>(size, 1) * sizeof(float) + 63) / 64 * 64;
  data_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
  if (!data_) throw std::bad_alloc();
}

StatusOr<chanas_runtime*> Runtimes::get(int threads) {
  auto& runtime = runtimes_[threads];
  if (!runtime) runtime.reset(chanas_runtime_create(threads));
  if (runtime) return runtime.get();
  return absl::ResourceExhaustedError(fmt::format("{} threads cannot be started", threads));
}

const Reference& References::get(const Workload& workload) {
  std::string name = workload.fingerprint();
  auto it = std::find_if(recent_.begin(), recent_.end(), [&](auto& r) { return r.first == name; });
  if (it != recent_.end()) {
    std::rotate(it, it + 1, recent_.end());
    return *recent_.back().second;
  }
  auto reference = std::make_unique<Reference>();
  reference->parameters = random_parameters(workload.graph, kSeed);
  for (int input : workload.graph.input_ops()) {
    const Op& op = workload.graph.ops[static_cast<size_t>(input)];
    Rng rng(kSeed, op.name);
    std::vector<float>& values = reference->inputs.emplace_back(op.shape.elements());
    for (float& value : values) value = static_cast<float>(rng.normal());
  }
  reference->output = interpret(workload.graph, reference->parameters, reference->inputs).back();
  if (recent_.size() >= kRecentReferences) recent_.erase(recent_.begin());
  recent_.emplace_back(std::move(name), std::move(reference));
  return *recent_.back().second;
}

std::vector<float> packed_weights(const ScheduleSpace& space, const Schedule& schedule,
                                  const Parameters& parameters) {
  std::vector<std::string> names;
  for (const Op& op : space.workload.graph.ops) names.push_back(op.name);
  std::vector<float> weights(static_cast<size_t>(packing(space, schedule).size));
  pack_weights(space, schedule, parameters, names, weights.data());
  return weights;
}

std::unique_ptr<Kernel> build_kernel(const ScheduleSpace& space, const Schedule& schedule,
                                     chanas_runtime* runtime, const Reference& reference,
                                     MeasureResult& result) {
  auto kernel = std::make_unique<Kernel>();
  kernel->space = space;
  kernel->runtime = runtime;
  kernel->fetching = usual_fetching(space, schedule);
  kernel->weights = buffer_of(packed_weights(space, schedule, reference.parameters),
                              prefetched_floats(kernel->fetching, space.threads));
  kernel->output = FloatBuffer(reference.output.size());
  for (const std::vector<float>& input : reference.inputs) {
    kernel->inputs.push_back(buffer_of(input));
    kernel->input_pointers.push_back(kernel->inputs.back().data());
  }
  for (bool assertions : {true, false}) {
    double start = seconds();
    StatusOr<std::unique_ptr<JitKernel>> jit =
        compile_jit(space, schedule,
                    {.assertions = assertions, .prefetch = kernel->fetching.prefetch}, runtime);
    result.compile_s += seconds() - start;
    if (!jit.ok()) {
      result.error = TrialError::kCompile;
      result.message = message(jit.status());
      return nullptr;
    }
    kernel->jit = *std::move(jit);
    check_once(*kernel, reference, result);
    if (!result.ok()) return nullptr;
    if (kernel->jit->assertions() == 0) break;  // the same code as without
  }
  return kernel;
}

}  // namespace chanas
