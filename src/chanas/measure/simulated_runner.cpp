// Latencies from a formula: a roofline of the workload, times what the schedule loses. Every field
// has a preferred choice, drawn by the workload's fingerprint; distance from it costs, some fields
// more than others, and neighbouring fields interact a little, so that a search has a hill with
// ridges to climb. No clock, no randomness.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "chanas/base/cancellation.h"
#include "chanas/base/fingerprint.h"
#include "chanas/measure/measure.h"

namespace chanas {
namespace {

constexpr double kMacsPerUs = 25'000;   // one core
constexpr double kBytesPerUs = 20'000;  // cold weights and activations
constexpr double kOverheadUs = 0.3;     // of one call

// In [0, 1), a function of the text alone.
double hash01(const std::string& text) {
  std::string hex = fingerprint(text).substr(0, 8);
  uint32_t value = 0;
  std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
  return value * 0x1p-32;
}

// The factor by which a schedule is slower than the best one; >= 1.
double loss(const ScheduleSpace& space, const Schedule& schedule, const std::string& seed) {
  double factor = 1;
  double previous = 0;
  for (size_t i = 0; i < space.fields.size(); ++i) {
    const Field& field = space.fields[i];
    auto at = std::find(field.choices.begin(), field.choices.end(), schedule.values[i]);
    double last = std::max<double>(1, static_cast<double>(field.choices.size()) - 1);
    double position = static_cast<double>(at - field.choices.begin()) / last;
    double preferred = std::round(hash01(seed + field.name) * last) / last;
    double weight = 0.1 + 0.5 * std::pow(hash01(field.name + seed), 3);
    double distance = std::abs(position - preferred);
    factor *= 1 + weight * distance + 0.04 * distance * previous;
    previous = distance;
  }
  return factor;
}

double latency_us(const ScheduleSpace& space, const Schedule& schedule, const MeasurePlan& plan) {
  const Graph& graph = space.workload.graph;
  double speedup = std::pow(space.threads, 0.8);
  double bytes = static_cast<double>(weight_bytes(graph));
  if (plan.cold_bytes == 0) bytes *= 0.5;
  for (int input : graph.input_ops()) {
    bytes += 4.0 * static_cast<double>(graph.ops[static_cast<size_t>(input)].shape.elements());
  }
  bytes += 4.0 * static_cast<double>(graph.output().shape.elements());
  double compute = static_cast<double>(macs(graph)) / kMacsPerUs / speedup;
  double memory = bytes / kBytesPerUs / std::sqrt(speedup);
  std::string seed = fmt::format("{}/{}", space.workload.fingerprint(), space.threads);
  return kOverheadUs + std::max(compute, memory) * loss(space, schedule, seed) +
         0.2 * std::min(compute, memory);
}

class SimulatedRunner : public Runner {
 public:
  const Target& target() const override { return target_; }
  int batch_size() const override { return 4; }

  StatusOr<std::vector<MeasureResult>> measure(std::span<const Candidate> candidates,
                                               const MeasurePlan& plan) override {
    std::vector<MeasureResult> results;
    for (const Candidate& candidate : candidates) {
      CHANAS_RETURN_IF_ERROR(check_cancelled());
      ScheduleSpace space = schedule_space(candidate.workload, target_, plan.threads);
      MeasureResult result;
      if (Status legal = check_legal(space, candidate.schedule); !legal.ok()) {
        result.error = TrialError::kIllegal;
        result.message = message(legal);
      } else {
        result.latency_us = latency_us(space, candidate.schedule, plan);
        result.samples_us.assign(static_cast<size_t>(std::max(1, plan.samples)), result.latency_us);
        result.warm_us = 0.9 * result.latency_us;
      }
      results.push_back(std::move(result));
    }
    return results;
  }

  // The stages' latencies, each up to 5 % off, as real networks are.
  StatusOr<NetworkMeasurement> measure_network(const ExecutionPlan& plan, int samples) override {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    NetworkMeasurement m;
    for (const Stage& stage : plan.stages) {
      ScheduleSpace space = schedule_space(stage.workload, target_, plan.threads);
      CHANAS_RETURN_IF_ERROR(annotate(check_legal(space, stage.schedule), stage.name));
      double us = latency_us(space, stage.schedule,
                             {.threads = plan.threads, .cold_bytes = plan.weight_floats * 4});
      us *= 0.95 + 0.1 * hash01(stage.name + stage.workload.fingerprint());
      m.stage_us.push_back(us);
      m.median_us += us;
    }
    m.min_us = m.median_us * 0.98;
    m.p10_us = m.median_us * 0.99;
    m.p90_us = m.median_us * 1.02;
    m.samples_us.assign(static_cast<size_t>(std::max(1, samples)), m.median_us);
    return m;
  }

 private:
  Target target_ = simulated_target();
};

}  // namespace

std::unique_ptr<Runner> make_simulated_runner() { return std::make_unique<SimulatedRunner>(); }

}  // namespace chanas
