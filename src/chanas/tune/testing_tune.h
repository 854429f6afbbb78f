#pragma once
// Runners that watch and disturb, and tuned stores, for tests of tune and of what reads its table.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "chanas/tune/latency_table.h"
#include "chanas/tune/tuner.h"

namespace chanas {

// Passes calls on to another runner; keeps count and may fail.
class WatchedRunner : public Runner {
 public:
  explicit WatchedRunner(std::unique_ptr<Runner> runner = make_simulated_runner(), int batch = 2)
      : runner_(std::move(runner)), batch_(batch) {}

  std::vector<std::vector<Candidate>> batches;
  int measured = 0;  // candidates
  int careful = 0;   // of them in several passes
  // Called before each batch; what it returns, if not OK, is the answer.
  std::function<Status()> before = [] { return absl::OkStatus(); };

  const Target& target() const override { return runner_->target(); }
  int batch_size() const override { return batch_; }
  StatusOr<std::vector<MeasureResult>> measure(std::span<const Candidate> candidates,
                                               const MeasurePlan& plan) override {
    CHANAS_RETURN_IF_ERROR(before());
    batches.emplace_back(candidates.begin(), candidates.end());
    measured += static_cast<int>(candidates.size());
    if (plan.passes > 1) careful += static_cast<int>(candidates.size());
    return runner_->measure(candidates, plan);
  }
  StatusOr<NetworkMeasurement> measure_network(const ExecutionPlan& plan, int samples) override {
    return runner_->measure_network(plan, samples);
  }

 private:
  std::unique_ptr<Runner> runner_;
  int batch_;
};

MeasurePlan testing_plan();
RecordKey testing_key();  // of the simulated device
// Two blocks of at most two units, with SE: few elements, every kind of them.
ArchSpace tiny_space();
// Tunes on the simulated device; checks that it works.
void tune_elements(Store& store, const std::vector<Element>& elements, int trials);
LatencyTable tuned_table(Store& store, const std::vector<Element>& elements, int trials);
// Under testing_key().
std::vector<Record> records_of(Store& store, const Workload& workload);
// The records of all tasks in the order they were made, as text without ids and times of day.
std::vector<std::string> record_lines(Store& store, const std::vector<TuningTask>& tasks);

}  // namespace chanas
