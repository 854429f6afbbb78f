#include "chanas/tune/tuner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <map>
#include <optional>

#include "chanas/base/cancellation.h"
#include "chanas/base/log.h"
#include "chanas/tune/history.h"
#include "chanas/tune/importance.h"
#include "chanas/tune/strategy.h"

namespace chanas {
namespace {

using internal::Experience;
using internal::History;
using internal::SearchStrategy;

// Schedules tried for a workload whose default fails before it is given up.
constexpr int kRescueTrials = 16;
// Trials that take as long as a best schedule usually needs until it is confirmed: often another
// one is best then, and each is measured in several passes.
constexpr double kConfirmations = 4;
// Best schedules that a lesson of the same workload passes on.
constexpr size_t kHints = 3;
// A default that is unstable says nothing about the schedule that all others are compared with.
constexpr int kDefaultAttempts = 3;
// When that many trials have failed and none was ever valid, the device is probably broken, not the
// schedules: other schedules get their chance before further defaults, then tuning ends.
constexpr int kSuspicious = 64;

struct Task {
  Workload workload;
  std::string fingerprint;
  double weight = 1;
  std::vector<CutOf> cuts;
  ScheduleSpace space;
  History history;
  std::vector<Schedule> hints;       // tried after the default
  Experience* experience = nullptr;  // of the kind
  double gain = 0;                   // expected of the next trial, as far as it matters
  bool in_row = false;               // one of an element's best cut holds it
  bool exhausted = false;
  bool unsteady = false;       // its best one could not be measured again
  int unsteady_defaults = 0;   // not recorded
  std::set<Schedule> pending;  // in the batch being made

  bool valid() const { return history.best_us() > 0; }
  int tried() const { return history.count() + static_cast<int>(pending.size()); }
};

// A schedule of a workload in its space with other threads, where fields may be missing (what is
// parallel) or be new; those are the default's.
Schedule moved(const ScheduleSpace& from, const Schedule& schedule, const ScheduleSpace& to) {
  if (from.threads == to.threads || schedule.values.size() != from.fields.size()) return schedule;
  Schedule result = default_schedule(to);
  for (size_t i = 0; i < to.fields.size(); ++i) {
    const int there = from.find(to.fields[i].name);
    if (there >= 0) result.values[i] = schedule.values[static_cast<size_t>(there)];
  }
  return result;
}

struct Slot {
  Task* task;
  Proposal proposal;
};

class Tuner {
 public:
  Tuner(Runner& runner, Store& store, const MeasurePlan& plan, const TuneOptions& options)
      : runner_(runner),
        store_(store),
        plan_(plan),
        options_(options),
        key_(record_key(runner.target(), plan)) {}

  Status load(const std::vector<TuningTask>& tasks);
  Status run(const std::function<void(const TuneProgress&)>& progress);

 private:
  // A lesson that is not of the tasks' own records: its trials are experience, and where a task has
  // its workload, its best schedules are tried after the default.
  void learn(const Lesson& lesson);
  static void hint(const Lesson& lesson, Task& task);
  // Learns from what the store holds of the device under other plans and with other threads.
  Status learn_from_other_keys();
  std::optional<Proposal> propose(const Task& task);
  // What the next trial of each task is expected to gain, and which tasks make rows.
  void weigh();
  // Trials so far while none was ever valid; 0 after the first valid one.
  int fruitless() const;
  Task* pick(bool in_budget);
  std::vector<Slot> next_batch(bool in_budget);
  // Tasks whose best schedule is to be measured again.
  std::vector<Task*> unconfirmed();
  std::vector<Slot> confirming_batch();
  Status measure(const std::vector<Slot>& batch, const MeasurePlan& plan);
  bool finished(const Task& task) const;
  TuneProgress count() const;
  Status hopeless() const;
  void report_failing() const;

  Runner& runner_;
  Store& store_;
  const MeasurePlan& plan_;
  const TuneOptions& options_;
  const RecordKey key_;
  std::unique_ptr<SearchStrategy> strategy_;
  std::vector<Task> tasks_;
  std::map<std::string, size_t> index_;           // of tasks_, by fingerprint
  std::map<std::string, Experience> experience_;  // by kind
};

Status Tuner::load(const std::vector<TuningTask>& tasks) {
  CHANAS_ASSIGN_OR_RETURN(strategy_, internal::make_strategy(options_.strategy));
  CHANAS_RETURN_IF_ERROR(store_.put_device(runner_.target()));
  for (const TuningTask& task : tasks) {
    const std::string fingerprint = task.workload.fingerprint();
    const auto [entry, is_new] = index_.emplace(fingerprint, tasks_.size());
    if (!is_new) {
      Task& known = tasks_[entry->second];
      known.weight += task.weight;
      known.cuts.insert(known.cuts.end(), task.cuts.begin(), task.cuts.end());
      continue;
    }
    CHANAS_RETURN_IF_ERROR(store_.put_workload(task.workload));
    Task& added = tasks_.emplace_back();
    added.workload = task.workload;
    added.fingerprint = fingerprint;
    added.weight = task.weight;
    added.cuts = task.cuts;
    added.space = schedule_space(task.workload, runner_.target(), plan_.threads);
    added.experience = &experience_[task.workload.kind()];
    added.experience->know(added.space);
  }
  CHANAS_RETURN_IF_ERROR(learn_from_other_keys());
  std::vector<Record> records;
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Lesson> stored,
                          read_lessons(store_, key_, runner_.target()));
  for (const Lesson& lesson : options_.lessons) learn(lesson);
  for (const Lesson& lesson : stored) {
    const auto task = index_.find(lesson.space.workload.fingerprint());
    if (task == index_.end()) {
      learn(lesson);
    } else {
      tasks_[task->second].history = History(lesson.records);
      records.insert(records.end(), lesson.records.begin(), lesson.records.end());
    }
  }
  // An earlier run that failed throughout says something about the machine as it was then (no
  // compiler, no memory), not about the schedules: they get another chance.
  const bool start_again = fruitless() > 0;
  // In the order in which they were measured, as in the run that measured them.
  std::sort(records.begin(), records.end(),
            [](const Record& a, const Record& b) { return a.id < b.id; });
  if (start_again) records.clear();
  for (const Record& record : records) {
    const Task& task = tasks_[index_.at(record.workload)];
    task.experience->add(task.space, internal::trial_of(record));
  }
  if (start_again) {
    for (Task& task : tasks_) task.history = History();
  }
  weigh();
  return absl::OkStatus();
}

void Tuner::weigh() {
  std::vector<std::vector<CutOf>> cuts;
  std::vector<double> best_us;
  for (const Task& task : tasks_) {
    cuts.push_back(task.cuts);
    best_us.push_back(task.history.best_us());
  }
  const std::vector<double> matters = internal::importance(cuts, best_us);
  const std::vector<bool> in_row = internal::in_best_cut(cuts, best_us);
  for (size_t i = 0; i < tasks_.size(); ++i) {
    Task& task = tasks_[i];
    task.in_row = in_row[i];
    if (task.valid()) task.gain = task.weight * matters[i] * expected_gain(task.history);
  }
}

void Tuner::learn(const Lesson& lesson) {
  const auto kind = experience_.find(lesson.space.workload.kind());
  if (kind == experience_.end()) return;
  if (const auto found = index_.find(lesson.space.workload.fingerprint()); found != index_.end()) {
    Task& task = tasks_[found->second];
    hint(lesson, task);
    // On the same device its times would pass for the task's own.
    if (lesson.space.threads == key_.threads && lesson.space.target.fingerprint() == key_.device) {
      return;
    }
  }
  for (const Record& record : lesson.records) {
    kind->second.add(lesson.space, internal::trial_of(record));
  }
}

void Tuner::hint(const Lesson& lesson, Task& task) {
  std::vector<std::pair<double, Schedule>> valid;
  const History history(lesson.records);
  for (const internal::Trial& trial : history.trials()) {
    Schedule schedule = moved(lesson.space, trial.schedule, task.space);
    if (trial.ok && check_legal(task.space, schedule).ok()) {
      valid.emplace_back(trial.latency_us, std::move(schedule));
    }
  }
  std::stable_sort(valid.begin(), valid.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < std::min(kHints, valid.size()); ++i) {
    task.hints.push_back(valid[i].second);
  }
}

Status Tuner::learn_from_other_keys() {
  CHANAS_ASSIGN_OR_RETURN(const auto keys, store_.keys());
  for (const auto& [key, count] : keys) {
    RecordKey other = key_;
    other.plan = key.plan;
    other.threads = key.threads;
    if (key == key_ || !(key == other)) continue;
    CHANAS_ASSIGN_OR_RETURN(const std::vector<Lesson> lessons,
                            read_lessons(store_, key, runner_.target()));
    for (const Lesson& lesson : lessons) learn(lesson);
  }
  return absl::OkStatus();
}

int Tuner::fruitless() const {
  int trials = 0;
  for (const Task& task : tasks_) {
    if (task.valid()) return 0;
    trials += task.history.count();
  }
  return trials;
}

// Who measures next; null when nobody needs to. First every default, then whatever gives each
// workload one valid record: a table without it cannot be used, so the budget does not count.
Task* Tuner::pick(bool in_budget) {
  if (fruitless() < kSuspicious) {
    for (Task& task : tasks_) {
      if (!task.history.has_default() && !task.exhausted && task.pending.empty()) return &task;
    }
  }
  Task* rescued = nullptr;
  for (Task& task : tasks_) {
    if (task.valid() || task.exhausted || !task.pending.empty()) continue;
    if (!task.history.has_default()) continue;
    if (task.history.count() >= std::max(options_.trials, kRescueTrials)) continue;
    if (rescued == nullptr || task.history.count() < rescued->history.count()) rescued = &task;
  }
  if (rescued != nullptr || !in_budget) return rescued;
  Task* best = nullptr;
  double best_gain = 0;
  for (Task& task : tasks_) {
    if (!task.valid() || task.exhausted || task.tried() >= options_.trials) continue;
    // Shared with what is on its way, so that a batch mixes workloads.
    const double gain = task.gain / static_cast<double>(1 + task.pending.size());
    if (best == nullptr || gain > best_gain) {
      best = &task;
      best_gain = gain;
    }
  }
  return best;
}

std::optional<Proposal> Tuner::propose(const Task& task) {
  if (task.history.has_default()) {
    for (const Schedule& schedule : task.hints) {
      if (task.history.contains(schedule) || task.pending.contains(schedule)) continue;
      return Proposal{schedule, "transfer"};
    }
  }
  return strategy_->propose({task.space, task.history, task.pending, *task.experience, options_});
}

std::vector<Slot> Tuner::next_batch(bool in_budget) {
  std::vector<Slot> batch;
  const auto size = static_cast<size_t>(std::max(1, runner_.batch_size()));
  while (batch.size() < size) {
    Task* task = pick(in_budget);
    if (task == nullptr) break;
    auto proposal = propose(*task);
    if (!proposal) {
      task->exhausted = true;
      continue;
    }
    task->pending.insert(proposal->schedule);
    batch.push_back({task, *std::move(proposal)});
  }
  for (const Slot& slot : batch) slot.task->pending.clear();
  return batch;
}

std::vector<Task*> Tuner::unconfirmed() {
  std::vector<Task*> found;
  for (Task& task : tasks_) {
    if (task.in_row && !task.unsteady && task.history.unconfirmed() != nullptr) {
      found.push_back(&task);
    }
  }
  return found;
}

std::vector<Slot> Tuner::confirming_batch() {
  std::vector<Task*> tasks = unconfirmed();
  tasks.resize(std::min(tasks.size(), size_t{kCarefulBatch}));
  std::vector<Slot> batch;
  for (Task* task : tasks) {
    const internal::Trial* best = task->history.unconfirmed();
    batch.push_back({task, {best->schedule, best->origin}});
  }
  return batch;
}

Status Tuner::measure(const std::vector<Slot>& batch, const MeasurePlan& plan) {
  std::vector<Candidate> candidates;
  for (const Slot& slot : batch) {
    candidates.push_back({slot.task->workload, slot.proposal.schedule});
  }
  CHANAS_ASSIGN_OR_RETURN(const auto results, runner_.measure(candidates, plan));
  CHANAS_CHECK(results.size() == batch.size()) << results.size() << " results of " << batch.size();
  std::vector<Record> records;
  std::vector<Task*> measured;
  for (size_t i = 0; i < batch.size(); ++i) {
    Task& task = *batch[i].task;
    if (task.history.contains(batch[i].proposal.schedule)) {
      if (results[i].error == TrialError::kUnstable) {
        task.unsteady = true;
        continue;
      }
      task.exhausted = false;  // by what was believed of its best one
    } else if (results[i].error == TrialError::kUnstable && batch[i].proposal.origin == "default" &&
               ++task.unsteady_defaults < kDefaultAttempts) {
      continue;
    }
    measured.push_back(&task);
    records.push_back({.workload = task.fingerprint,
                       .key = key_,
                       .schedule = batch[i].proposal.schedule,
                       .origin = batch[i].proposal.origin,
                       .result = results[i],
                       .time_s = static_cast<int64_t>(std::time(nullptr))});
  }
  CHANAS_RETURN_IF_ERROR(store_.add_records(records));
  for (size_t i = 0; i < records.size(); ++i) {
    Task& task = *measured[i];
    task.history.add(records[i]);
    task.experience->add(task.space, internal::trial_of(records[i]));
  }
  weigh();
  return absl::OkStatus();
}

bool Tuner::finished(const Task& task) const {
  if (!task.history.has_default() && !task.exhausted) return false;
  const int enough = task.valid() ? options_.trials : std::max(options_.trials, kRescueTrials);
  return task.exhausted || task.history.count() >= enough;
}

TuneProgress Tuner::count() const {
  TuneProgress progress;
  double log_speedup = 0;
  int compared = 0;
  for (const Task& task : tasks_) {
    const bool is_finished = finished(task);
    const int tried = task.history.count();
    progress.done += is_finished ? options_.trials : std::min(tried, options_.trials);
    progress.trials += tried;
    progress.workloads_done += is_finished;
    progress.failures += task.history.failures();
    if (const double us = task.history.default_us(); us > 0) {
      log_speedup += std::log(us / task.history.best_us());
      ++compared;
    }
  }
  progress.workloads = static_cast<int>(tasks_.size());
  progress.total = progress.workloads * options_.trials;
  if (compared > 0) progress.speedup = std::exp(log_speedup / compared);
  return progress;
}

Status Tuner::hopeless() const {
  const Task& task = *std::max_element(
      tasks_.begin(), tasks_.end(),
      [](const Task& a, const Task& b) { return a.history.count() < b.history.count(); });
  return absl::FailedPreconditionError(fmt::format(
      "no schedule of {} workload(s) could be measured on {}; the last failure of {} was {}; look "
      "for the cause with: chanas doctor",
      tasks_.size(), runner_.target().name, task.workload.describe(), task.history.failure()));
}

void Tuner::report_failing() const {
  constexpr int kShown = 5;
  int failing = 0;
  for (const Task& task : tasks_) {
    if (task.valid() || ++failing > kShown) continue;
    log_warning("{}: none of {} schedules works, the last one failed with {}",
                task.workload.describe(), task.history.count(), task.history.failure());
  }
  if (failing > kShown) log_warning("and {} more workloads without a schedule", failing - kShown);
}

Status Tuner::run(const std::function<void(const TuneProgress&)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  int measured = 0;
  bool confirming = false;
  MeasurePlan careful = plan_;
  careful.passes = kCarefulPasses;
  for (;;) {
    const size_t waiting = unconfirmed().size();
    TuneProgress now = count();
    if (confirming) now.unconfirmed = static_cast<int>(waiting);
    if (progress) progress(now);
    CHANAS_RETURN_IF_ERROR(annotate(check_cancelled(), "tuning (all measured trials are stored)"));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    const double confirming_s =
        kConfirmations * static_cast<double>(waiting) * elapsed.count() / std::max(1, measured);
    const bool in_budget =
        options_.budget_s <= 0 || elapsed.count() + confirming_s < options_.budget_s;
    std::vector<Slot> batch = next_batch(in_budget);
    confirming = batch.empty();
    if (confirming) batch = confirming_batch();
    const int failed = fruitless();
    if (failed > 0 && (batch.empty() || failed >= kSuspicious + kRescueTrials)) return hopeless();
    if (batch.empty()) break;
    CHANAS_RETURN_IF_ERROR(measure(batch, confirming ? careful : plan_));
    measured += static_cast<int>(batch.size());
  }
  if (progress) progress(count());  // who is exhausted was seen only now
  report_failing();
  return absl::OkStatus();
}

}  // namespace

Status tune(Runner& runner, Store& store, const std::vector<TuningTask>& tasks,
            const MeasurePlan& plan, const TuneOptions& options,
            const std::function<void(const TuneProgress&)>& progress) {
  if (options.trials < 1) {
    return absl::InvalidArgumentError(
        fmt::format("trials per workload is {}, expected at least 1", options.trials));
  }
  Tuner tuner(runner, store, plan, options);
  CHANAS_RETURN_IF_ERROR(tuner.load(tasks));
  return tuner.run(progress);
}

std::string to_confirm(const TuneProgress& progress) {
  if (progress.unconfirmed == 0) return "";
  return fmt::format(", {} winners to measure again", progress.unconfirmed);
}

StatusOr<std::vector<Lesson>> read_lessons(Store& store, const RecordKey& key,
                                           const Target& target) {
  CHANAS_ASSIGN_OR_RETURN(const std::vector<TuningSummary> summaries, store.summaries(key));
  std::vector<Lesson> lessons;
  for (const TuningSummary& summary : summaries) {
    CHANAS_ASSIGN_OR_RETURN(const auto workload, store.workload(summary.workload));
    Lesson lesson{schedule_space(*workload, target, key.threads), {}};
    CHANAS_ASSIGN_OR_RETURN(lesson.records, store.records(summary.workload, key));
    const size_t fields = lesson.space.fields.size();
    for (const Record& record : lesson.records)
      if (record.schedule.values.size() != fields)
        return absl::DataLossError(fmt::format(
            "the store has a schedule of {} values for {}, expected {}: it is damaged, or another "
            "build wrote it; move it away and tune into a new one",
            record.schedule.values.size(), workload->describe(), fields));
    lessons.push_back(std::move(lesson));
  }
  return lessons;
}

StatusOr<std::vector<Lesson>> read_lessons(Store& store) {
  CHANAS_ASSIGN_OR_RETURN(const auto keys, store.keys());
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Target> devices, store.devices());
  std::vector<Lesson> all;
  for (const auto& [key, count] : keys) {
    if (key.schedule_version != kScheduleVersion) continue;
    for (const Target& target : devices) {
      if (target.fingerprint() != key.device) continue;
      CHANAS_ASSIGN_OR_RETURN(const std::vector<Lesson> lessons, read_lessons(store, key, target));
      all.insert(all.end(), lessons.begin(), lessons.end());
    }
  }
  return all;
}

const std::vector<std::string>& strategy_names() {
  static const std::vector<std::string> names = {"gp", "evolution", "random", "grid"};
  return names;
}

std::vector<TuningTask> tuning_tasks(const std::vector<Element>& elements) {
  std::vector<TuningTask> tasks;
  std::map<std::string, size_t> index;
  for (size_t e = 0; e < elements.size(); ++e) {
    for (size_t c = 0; c < elements[e].cuts.size(); ++c) {
      for (const Group& group : elements[e].cuts[c].groups) {
        const auto [entry, is_new] = index.emplace(group.workload.fingerprint(), tasks.size());
        if (is_new) tasks.push_back({group.workload, 1.0, {}});
        tasks[entry->second].cuts.push_back({static_cast<int>(e), static_cast<int>(c)});
      }
    }
  }
  return tasks;
}

}  // namespace chanas
