#pragma once
// Block-level pre-scheduling (paper section 4): every workload gets its default schedule measured,
// then rounds of candidates until the trials or the time are spent.

#include <functional>
#include <string>
#include <vector>

#include "chanas/measure/measure.h"
#include "chanas/store/store.h"

namespace chanas {

struct TuneOptions {
  int trials = 8;       // per workload, the default schedule's included
  double budget_s = 0;  // wall clock for the whole call; 0: none. Defaults are always measured
  uint64_t seed = 1;
  double gamma = 0.5;         // start-point rule, paper section 4 step 1 (on times, as FlexTensor)
  int random_starts = 2;      // random legal points before mutation begins
  double random_share = 0.1;  // of later proposals that are random points
};

// Weight of a workload: how much the networks of the space gain when it gets faster; the next
// trials go where weight * expected gain is largest. Equal weights are fine.
struct TuningTask {
  Workload workload;
  double weight = 1.0;
};

struct TuneProgress {
  int done = 0, total = 0;  // trials
  int workloads_done = 0, workloads = 0;
  int failures = 0;
  double speedup = 1.0;  // geometric mean, default over best
};

// Measures what the store does not hold yet: repeating a call with the same options measures
// nothing, and after a kill it continues. The proposals of a workload are a function of the seed,
// the workload and its recorded measurements alone, so a search replays from its records.
// Failed trials are not repeated either, unless nothing at all ever worked.
//
// A workload whose default fails gets up to 16 other schedules until one works; if none does, a
// warning names it, and only the cuts that need it are lost (LatencyTable::build).
// kFailedPrecondition when no schedule of any workload works (the message holds the last failure),
// kCancelled (all finished trials are stored), kUnavailable (device lost: repeat later),
// kInvalidArgument (trials < 1), or a store error.
Status tune(Runner& runner, Store& store, const std::vector<TuningTask>& tasks,
            const MeasurePlan& plan, const TuneOptions& options,
            const std::function<void(const TuneProgress&)>& progress);

// The next candidate of one workload given its records so far; nullopt when the space is exhausted.
// Exposed for tests and replay.
struct Proposal {
  Schedule schedule;
  std::string origin;  // "default", "random", "mutation", "crossover"
};
std::optional<Proposal> propose(const ScheduleSpace& space, const std::vector<Record>& records,
                                const TuneOptions& options);

// Distinct workloads of elements, in a stable order; weight = how often they occur.
std::vector<TuningTask> tuning_tasks(const std::vector<Element>& elements);

}  // namespace chanas
