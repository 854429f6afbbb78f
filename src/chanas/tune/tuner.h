#pragma once
// Block-level pre-scheduling (paper section 4): every workload gets its default schedule measured,
// then rounds of candidates until the trials or the time are spent, then the winners once more.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "chanas/measure/measure.h"
#include "chanas/store/store.h"

namespace chanas {

// Measurements of one workload that searches of its kind learn from, whatever device made them.
struct Lesson {
  ScheduleSpace space;
  std::vector<Record> records;
};
// What the store holds under one key of the device `target`, or under every key of the schedules
// that this program makes; by workload fingerprint. kDataLoss: a schedule has more or fewer values
// than the workload has fields; the store must be left aside. Other errors: those of the store.
StatusOr<std::vector<Lesson>> read_lessons(Store& store, const RecordKey& key,
                                           const Target& target);
StatusOr<std::vector<Lesson>> read_lessons(Store& store);

struct TuneOptions {
  // How candidates are found: "gp" (Gaussian process), "evolution" (without a model), "random",
  // "grid" (in the order of the choices).
  std::string strategy = "gp";
  int trials = 8;       // per workload, the default schedule's included
  double budget_s = 0;  // wall clock for the whole call; 0: none. Defaults are always measured
  uint64_t seed = 1;
  double gamma = 0.5;         // start-point rule, paper section 4 step 1 (on times, as FlexTensor)
  int random_starts = 2;      // random legal points before mutation begins
  double random_share = 0.1;  // of later proposals that are random points (evolution)
  // gp: a workload is done after that many trials without gain when the model expects none either;
  // 0: never.
  int patience = 40;
  // gp: learnt from besides the store's own records under the key (pretraining.h); of the same
  // workload as a task, the best schedules are tried after the default.
  std::vector<Lesson> lessons = {};
};
const std::vector<std::string>& strategy_names();

// A cut of an element, both by number.
struct CutOf {
  int element = 0, cut = 0;
};

// A workload, how much its time weighs, and the cuts that are made of it. The next trials go where
// weight * importance * expected gain is largest: one for every element that takes a cut with the
// workload, less where such a cut is behind the element's best one. Without cuts: one.
struct TuningTask {
  Workload workload;
  double weight = 1.0;
  std::vector<CutOf> cuts = {};
};

struct TuneProgress {
  int done = 0, total = 0;  // trials; those that a finished workload does not need count as done
  int trials = 0;           // in the store
  int workloads_done = 0, workloads = 0;
  int failures = 0;
  int unconfirmed = 0;   // best schedules still to be measured again; 0 while trials go on
  double speedup = 1.0;  // geometric mean, default over best
};

// ", 120 winners to measure again", or "": the end of a progress line.
std::string to_confirm(const TuneProgress& progress);

// Measures what the store does not hold yet: repeating a call with the same options measures
// nothing, and after a kill it continues. What is proposed is a function of the options, the tasks
// and the records under the key, in their order, so a search replays from its records. The "gp"
// strategy learns from all workloads of a kind together, and from what the store holds of the same
// device under other plans (networks of other sizes) and with other threads; the best schedules
// that the same workload has there are tried after its default.
// Failed trials are not repeated either, unless nothing at all ever worked.
//
// A schedule that is the best of several is measured again at the end where a table row is made of
// it, in several passes, until the best one of the workload has been measured twice (the last time
// counts). When such a measurement is unstable, the earlier one stays. Time for it is kept out of
// the budget's trials.
//
// A workload whose default fails gets up to 16 other schedules until one works; if none does, a
// warning names it, and only the cuts that need it are lost (LatencyTable::build).
// kFailedPrecondition when no schedule of any workload works (the message holds the last failure),
// kCancelled (all finished trials are stored), kUnavailable (device lost: repeat later),
// kInvalidArgument (trials < 1, unknown strategy), or a store error.
Status tune(Runner& runner, Store& store, const std::vector<TuningTask>& tasks,
            const MeasurePlan& plan, const TuneOptions& options,
            const std::function<void(const TuneProgress&)>& progress);

struct Proposal {
  Schedule schedule;
  // "default", "structure" (structured_schedules), "random", "mutation", "crossover", "descent"
  // (neighbour of the best), "transfer"
  // (best of another shape, of another plan or with other threads), "grid"
  std::string origin;
};
// A search of one workload alone in `space`, which may offer fewer choices than the workload has:
// proposals in batches of `batch`, answered by `measure`, until `options.trials` are there or the
// space is exhausted. Goes on from `records`, which it extends; lessons are those of the options.
// kInvalidArgument: unknown strategy; else what `measure` returns.
Status search_space(
    const ScheduleSpace& space, const TuneOptions& options, int batch,
    const std::function<StatusOr<std::vector<MeasureResult>>(std::span<const Candidate>)>& measure,
    std::vector<Record>& records);

// Distinct workloads of elements, in a stable order, with the cuts that they occur in.
std::vector<TuningTask> tuning_tasks(const std::vector<Element>& elements);

}  // namespace chanas
