#include "chanas/measure/worker/network.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "chanas/base/parallel.h"
#include "chanas/base/stats.h"
#include "chanas/measure/worker/timing.h"

namespace chanas {
namespace {

// A compiled kernel takes about this much; kept ones take at most this share of the machine's
// memory.
constexpr int64_t kKernelBytes = 640 << 10;
constexpr int64_t kMemoryShare = 8;
constexpr double kWarmUpUs = 30'000;
constexpr uint64_t kSeed = 1;

size_t kept_kernels() {
  const int64_t memory = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  return static_cast<size_t>(std::clamp<int64_t>(memory / kMemoryShare / kKernelBytes, 256, 4096));
}

double now_us() { return static_cast<double>(chanas_now_ns()) * 1e-3; }

// The plan with memory behind its buffers.
struct LoadedPlan {
  struct StageCall {
    JitKernel* kernel;
    std::vector<const float*> inputs;
    const float* weights;
    float* output;
  };
  std::vector<StageCall> stages;
  FloatBuffer activations, weights, image, logits;
  std::vector<double> stamps;  // one more than stages
  std::string error;

  int run() {
    for (size_t i = 0; i < stages.size(); ++i) {
      stamps[i] = now_us();
      StageCall& s = stages[i];
      if (int code = s.kernel->run(s.inputs, s.weights, s.output, &error)) return code;
    }
    stamps.back() = now_us();
    return 0;
  }
};

void fill_normal(FloatBuffer& buffer, std::string_view name) {
  Rng rng(kSeed, name);
  for (size_t i = 0; i < buffer.size(); ++i) buffer.data()[i] = static_cast<float>(rng.normal());
}

const Buffer& buffer_of(const ExecutionPlan& plan, int index) {
  return plan.buffers[static_cast<size_t>(index)];
}

}  // namespace

NetworkRunner::Key NetworkRunner::key_of(const ExecutionPlan& plan, const Stage& stage) {
  return {stage.workload.fingerprint(), stage.schedule.values, plan.threads, stage.prefetch};
}

Status NetworkRunner::compile(const ExecutionPlan& plan, chanas_runtime* runtime) {
  if (kernels_.size() > kept_kernels()) kernels_.clear();
  std::vector<const Stage*> missing;
  for (const Stage& stage : plan.stages) {
    if (kernels_.try_emplace(key_of(plan, stage)).second) missing.push_back(&stage);
  }
  std::vector<StatusOr<std::unique_ptr<JitKernel>>> compiled(missing.size());
  // An error is kept, not returned: what compiles is worth having.
  Status failed = for_each(
      missing.size(), std::thread::hardware_concurrency(), [&](size_t i, size_t) -> Status {
        ScheduleSpace space = schedule_space(missing[i]->workload, plan.target, plan.threads);
        compiled[i] =
            compile_jit(space, missing[i]->schedule, {.prefetch = missing[i]->prefetch}, runtime);
        return absl::OkStatus();
      });
  for (size_t i = 0; i < missing.size(); ++i) {
    Key key = key_of(plan, *missing[i]);
    if (compiled[i].ok()) {
      kernels_[key] = *std::move(compiled[i]);
    } else {
      kernels_.erase(key);
      if (failed.ok()) failed = annotate(compiled[i].status(), missing[i]->name);
    }
  }
  return failed;
}

StatusOr<NetworkMeasurement> NetworkRunner::measure(const ExecutionPlan& plan, int samples) {
  CHANAS_ASSIGN_OR_RETURN(chanas_runtime * runtime, runtimes_.get(plan.threads));
  for (const Stage& stage : plan.stages) {
    ScheduleSpace space = schedule_space(stage.workload, plan.target, plan.threads);
    CHANAS_RETURN_IF_ERROR(annotate(check_legal(space, stage.schedule), stage.name));
  }
  CHANAS_RETURN_IF_ERROR(compile(plan, runtime));

  LoadedPlan network;
  network.activations = FloatBuffer(static_cast<size_t>(plan.activation_bytes) / sizeof(float));
  network.weights = FloatBuffer(static_cast<size_t>(plan.weight_floats));
  network.image = FloatBuffer(static_cast<size_t>(buffer_of(plan, plan.input).shape.elements()));
  network.logits = FloatBuffer(static_cast<size_t>(buffer_of(plan, plan.output).shape.elements()));
  fill_normal(network.image, "image");
  auto pointer = [&](int index) {
    if (index == plan.input) return network.image.data();
    if (index == plan.output) return network.logits.data();
    return network.activations.data() + buffer_of(plan, index).offset_bytes / sizeof(float);
  };
  for (const Stage& stage : plan.stages) {
    ScheduleSpace space = schedule_space(stage.workload, plan.target, plan.threads);
    float* weights = network.weights.data() + stage.weight_offset;
    std::vector<float> packed =
        packed_weights(space, stage.schedule, random_parameters(stage.workload.graph, kSeed));
    std::copy(packed.begin(), packed.end(), weights);
    LoadedPlan::StageCall stage_call{
        kernels_.at(key_of(plan, stage)).get(), {}, weights, pointer(stage.output)};
    for (int input : stage.inputs) stage_call.inputs.push_back(pointer(input));
    network.stages.push_back(std::move(stage_call));
  }
  network.stamps.resize(network.stages.size() + 1);

  const Pinned pinned(runtime);  // as the rows are that it is compared with
  auto run_network = [](void* self) { return static_cast<LoadedPlan*>(self)->run(); };
  int code = chanas_runtime_warm_up(runtime, run_network, &network);
  NetworkMeasurement result;
  result.scratch_bytes = static_cast<int64_t>(chanas_runtime_scratch_used(runtime));
  auto call = [&] {
    chanas_runtime_begin(runtime);
    code = network.run();
    chanas_runtime_end(runtime);
    return code == 0;
  };
  for (double start = now_us(); code == 0 && now_us() - start < kWarmUpUs;) call();
  std::vector<std::vector<double>> stage_us(plan.stages.size());
  for (int i = 0; i < std::max(1, samples) && code == 0; ++i) {
    // From outside, as a user's clock sees it.
    double start = now_us();
    if (!call()) break;
    result.samples_us.push_back(now_us() - start);
    for (size_t s = 0; s < stage_us.size(); ++s) {
      stage_us[s].push_back(network.stamps[s + 1] - network.stamps[s]);
    }
  }
  if (code != 0) {
    return absl::InternalError(
        fmt::format("a kernel stopped with error {}: {}", code, network.error));
  }
  result.median_us = median(result.samples_us);
  result.p10_us = percentile(result.samples_us, 0.1);
  result.p90_us = percentile(result.samples_us, 0.9);
  result.min_us = percentile(result.samples_us, 0);
  for (std::vector<double>& us : stage_us) result.stage_us.push_back(median(std::move(us)));
  return result;
}

}  // namespace chanas
