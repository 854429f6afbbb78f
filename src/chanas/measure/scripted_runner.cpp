#include <utility>

#include "chanas/base/cancellation.h"
#include "chanas/measure/measure.h"

namespace chanas {
namespace {

class ScriptedRunner : public Runner {
 public:
  ScriptedRunner(Target target, ScriptedAnswer answer, void* context)
      : target_(std::move(target)), answer_(answer), context_(context) {}

  const Target& target() const override { return target_; }
  int batch_size() const override { return 4; }

  StatusOr<std::vector<MeasureResult>> measure(std::span<const Candidate> candidates,
                                               const MeasurePlan&) override {
    std::vector<MeasureResult> results;
    for (const Candidate& candidate : candidates) {
      CHANAS_RETURN_IF_ERROR(check_cancelled());
      results.push_back(answer_(candidate, context_));
    }
    return results;
  }

  // The sum of what the script says of each stage.
  StatusOr<NetworkMeasurement> measure_network(const ExecutionPlan& plan, int samples) override {
    NetworkMeasurement m;
    for (const Stage& stage : plan.stages) {
      MeasureResult result = answer_({stage.workload, stage.schedule}, context_);
      if (!result.ok()) return absl::InvalidArgumentError(stage.name + ": " + result.message);
      m.stage_us.push_back(result.latency_us);
      m.median_us += result.latency_us;
    }
    m.p10_us = m.p90_us = m.min_us = m.median_us;
    m.samples_us.assign(static_cast<size_t>(samples), m.median_us);
    return m;
  }

 private:
  Target target_;
  ScriptedAnswer answer_;
  void* context_;
};

}  // namespace

std::unique_ptr<Runner> make_scripted_runner(Target target, ScriptedAnswer answer, void* context) {
  return std::make_unique<ScriptedRunner>(std::move(target), answer, context);
}

}  // namespace chanas
