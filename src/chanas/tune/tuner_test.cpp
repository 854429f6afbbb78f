#include "chanas/tune/tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/tune/testing_tune.h"

namespace chanas {
namespace {

using ::testing::HasSubstr;

// Fails as told; what works takes a time that depends on the schedule.
struct Script {
  std::function<TrialError(const Candidate&)> error = [](const Candidate&) {
    return TrialError::kNone;
  };
  std::function<double(const Candidate&)> us = [](const Candidate&) { return 10.0; };
  std::unique_ptr<WatchedRunner> runner() {
    return std::make_unique<WatchedRunner>(make_scripted_runner(
        simulated_target(),
        [](const Candidate& candidate, void* context) {
          auto& script = *static_cast<Script*>(context);
          MeasureResult result;
          result.error = script.error(candidate);
          if (result.ok()) {
            result.latency_us = script.us(candidate);
          } else {
            result.message = "scripted";
          }
          return result;
        },
        this));
  }
};

bool is_default(const Candidate& candidate) {
  return candidate.schedule ==
         default_schedule(schedule_space(candidate.workload, simulated_target(), 1));
}

class TunerTest : public ::testing::Test {
 protected:
  void SetUp() override { set_log_quiet(true); }
  void TearDown() override { reset_cancellation(); }

  Status run(Runner& runner, const TuneOptions& options) {
    return tune(runner, *store, tasks, testing_plan(), options, [this](const TuneProgress& p) {
      EXPECT_GE(p.done, progress.done);
      EXPECT_LE(p.done, p.total);
      progress = p;
    });
  }
  std::vector<std::string> lines() { return record_lines(*store, tasks); }

  std::vector<TuningTask> tasks = tuning_tasks(space_elements(tiny_space()));
  std::unique_ptr<Store> store = *Store::open(":memory:");
  TuneProgress progress;
};

TEST_F(TunerTest, TasksAreDistinctAndKnowTheirCuts) {
  std::set<std::string> seen;
  size_t places = 0, groups = 0;
  for (const TuningTask& task : tasks) {
    EXPECT_TRUE(seen.insert(task.workload.fingerprint()).second);
    places += task.cuts.size();
  }
  for (const Element& element : space_elements(tiny_space())) {
    for (const Cut& cut : element.cuts) groups += cut.groups.size();
  }
  EXPECT_EQ(places, groups);
  EXPECT_LT(tasks.size(), groups);
}

TEST_F(TunerTest, FindsBetterThanTheDefault) {
  WatchedRunner runner;
  ASSERT_TRUE(run(runner, {.trials = 16}).ok());
  const auto summaries = store->summaries(testing_key());
  ASSERT_TRUE(summaries.ok());
  ASSERT_EQ(summaries->size(), tasks.size());
  double log_speedup = 0;
  for (const TuningSummary& summary : *summaries) {
    ASSERT_GT(summary.default_us, 0) << summary.description;
    EXPECT_LE(summary.best_us, summary.default_us);
    EXPECT_LE(summary.trials, 16);
    log_speedup += std::log(summary.default_us / summary.best_us);
  }
  const double speedup = std::exp(log_speedup / static_cast<double>(tasks.size()));
  EXPECT_GT(speedup, 1.02);
  EXPECT_NEAR(progress.speedup, speedup, 1e-9);
  EXPECT_EQ(progress.done, progress.total);
  EXPECT_EQ(progress.total, static_cast<int>(tasks.size()) * 16);
  EXPECT_EQ(progress.workloads_done, progress.workloads);
}

TEST_F(TunerTest, MeasuresNothingTwice) {
  WatchedRunner runner;
  ASSERT_TRUE(run(runner, {.trials = 6}).ok());
  const std::vector<std::string> before = lines();
  std::map<std::pair<std::string, Schedule>, int> times;
  const auto count = [&](const WatchedRunner& watched) {
    for (const auto& batch : watched.batches) {
      for (const Candidate& candidate : batch) {
        ++times[{candidate.workload.fingerprint(), candidate.schedule}];
      }
    }
  };
  count(runner);
  WatchedRunner again;
  ASSERT_TRUE(run(again, {.trials = 6}).ok());
  EXPECT_EQ(again.measured, 0);
  EXPECT_EQ(lines(), before);
  // More trials go on from there, also under another seed.
  progress = {};
  ASSERT_TRUE(run(again, {.trials = 8, .seed = 5}).ok());
  EXPECT_GT(again.measured, 0);
  count(again);
  // Times that do not vary: once, and the winners of rows once more.
  const std::vector<TuningSummary> summaries = *store->summaries(testing_key());
  for (const TuningSummary& summary : summaries) {
    const std::vector<Record> records = *store->records(summary.workload, testing_key());
    for (const Record& record : records) {
      const int measured = times[{summary.workload, record.schedule}];
      EXPECT_LE(measured, 2);
      if (measured == 2) {
        EXPECT_LE(record.result.latency_us, summary.best_us * 1.5);
      }
    }
  }
}

// Every schedule of a workload takes 10 us, but once, its third, was measured at 6.
TEST_F(TunerTest, MeasuresWinnersAgain) {
  Script script;
  std::map<std::string, int> trials;
  std::set<std::pair<std::string, Schedule>> lucky;
  script.us = [&](const Candidate& candidate) {
    const std::string workload = candidate.workload.fingerprint();
    if (++trials[workload] != 3) return 10.0;
    lucky.emplace(workload, candidate.schedule);
    return 6.0;
  };
  const auto runner = script.runner();
  ASSERT_TRUE(run(*runner, {.trials = 5}).ok());
  EXPECT_EQ(progress.unconfirmed, 0);
  const auto table =
      LatencyTable::build(*store, testing_key(), simulated_target(), space_elements(tiny_space()));
  ASSERT_TRUE(table.ok()) << table.status();
  for (const auto& [key, row] : table->rows()) {
    EXPECT_EQ(row.latency_us, 10.0 * static_cast<double>(row.stages.size())) << key;
    for (const TableRow::Stage& stage : row.stages) {
      EXPECT_LE(store->records(stage.workload, testing_key())->size(), 5u + 2u);
    }
  }
  EXPECT_FALSE(lucky.empty());
  const int measured = runner->measured;
  // What is measured again is what was measured in several passes.
  int64_t records = 0;
  for (const TuningTask& task : tasks)
    records += static_cast<int64_t>(records_of(*store, task.workload).size());
  int64_t schedules = 0;
  const std::vector<TuningSummary> summaries = *store->summaries(testing_key());
  for (const TuningSummary& summary : summaries) schedules += summary.trials;
  EXPECT_GT(runner->careful, 0);
  EXPECT_EQ(runner->careful, records - schedules);
  progress = {};
  ASSERT_TRUE(run(*runner, {.trials = 5}).ok());
  EXPECT_EQ(runner->measured, measured);
}

// The first time stands where a second one cannot be had; a crash counts.
TEST_F(TunerTest, WinnersThatAreUnsteadyStay) {
  tasks.resize(1);
  for (const TrialError error : {TrialError::kUnstable, TrialError::kCrash}) {
    store = *Store::open(":memory:");
    progress = {};
    Script script;
    std::set<Schedule> seen;
    script.error = [&](const Candidate& candidate) {
      return seen.insert(candidate.schedule).second ? TrialError::kNone : error;
    };
    script.us = [&](const Candidate&) { return seen.size() == 2 ? 6.0 : 10.0; };
    const auto runner = script.runner();
    runner->before = [&] {
      return runner->measured < 100 ? absl::OkStatus() : absl::InternalError("no end");
    };
    ASSERT_TRUE(run(*runner, {.trials = 4}).ok());
    const TuningSummary summary = store->summaries(testing_key())->front();
    if (error == TrialError::kUnstable) {
      EXPECT_EQ(summary.best_us, 6.0);
      EXPECT_EQ(summary.failures, 0);
    } else {
      EXPECT_NE(summary.best_us, 6.0);
      EXPECT_GT(summary.failures, 0);
    }
  }
}

// Of a restless minute; all others are compared with it.
TEST_F(TunerTest, UnstableDefaultsAreMeasuredAgain) {
  for (const int restless : {2, 1000}) {
    store = *Store::open(":memory:");
    progress = {};
    Script script;
    std::map<std::string, int> calls;
    script.error = [&](const Candidate& candidate) {
      return is_default(candidate) && ++calls[candidate.workload.fingerprint()] <= restless
                 ? TrialError::kUnstable
                 : TrialError::kNone;
    };
    const auto runner = script.runner();
    ASSERT_TRUE(run(*runner, {.trials = 4}).ok());
    const std::vector<TuningSummary> summaries = *store->summaries(testing_key());
    for (const TuningSummary& summary : summaries) {
      EXPECT_EQ(summary.default_us > 0, restless == 2);
      EXPECT_GT(summary.best_us, 0);  // others go on without, at last
    }
  }
}

TEST_F(TunerTest, MeasuresDefaultsFirstAndWithoutBudget) {
  WatchedRunner runner;
  ASSERT_TRUE(run(runner, {.trials = 10, .budget_s = 1e-9}).ok());
  EXPECT_EQ(runner.measured, static_cast<int>(tasks.size()));
  for (const std::string& line : lines()) EXPECT_THAT(line, HasSubstr(" default "));
  // A table cut short is complete.
  EXPECT_TRUE(
      LatencyTable::build(*store, testing_key(), simulated_target(), space_elements(tiny_space()))
          .ok());
}

// What was found for networks of another size is tried first, and learnt from.
TEST_F(TunerTest, StartsFromOtherPlans) {
  WatchedRunner runner;
  ASSERT_TRUE(run(runner, {.strategy = "evolution", .trials = 8}).ok());
  const std::vector<TuningSummary> before = *store->summaries(testing_key());
  MeasurePlan other = testing_plan();
  other.cold_bytes = 1 << 24;
  const RecordKey key = record_key(runner.target(), other);
  ASSERT_NE(key.plan, testing_key().plan);
  ASSERT_TRUE(
      tune(runner, *store, tasks, other, {.strategy = "evolution", .trials = 2}, nullptr).ok());
  int transferred = 0;
  for (const TuningSummary& summary : before) {
    const std::vector<Record> records = *store->records(summary.workload, key);
    ASSERT_GE(records.size(), 2u);  // and one more where it makes a row
    EXPECT_EQ(records[0].origin, "default");
    EXPECT_EQ(records[1].origin, "transfer");
    if (summary.best == summary.default_schedule) continue;
    ++transferred;
    const std::vector<Record> there = *store->records(summary.workload, testing_key());
    double us = 0;  // there; several may be equally fast
    for (const Record& record : there) {
      if (record.schedule == records[1].schedule) us = record.result.latency_us;
    }
    EXPECT_EQ(us, summary.best_us);
  }
  EXPECT_GT(transferred, 3);
  EXPECT_EQ(store->summaries(testing_key())->size(), before.size());
}

// What the best schedules for one thread say of tiles holds for two.
TEST_F(TunerTest, StartsFromOtherThreads) {
  WatchedRunner runner;
  ASSERT_TRUE(run(runner, {.strategy = "evolution", .trials = 8}).ok());
  const std::vector<TuningSummary> before = *store->summaries(testing_key());
  MeasurePlan other = testing_plan();
  other.threads = 2;
  const RecordKey key = record_key(runner.target(), other);
  ASSERT_TRUE(
      tune(runner, *store, tasks, other, {.strategy = "evolution", .trials = 2}, nullptr).ok());
  int transferred = 0;
  for (const TuningSummary& summary : before) {
    const std::vector<Record> records = *store->records(summary.workload, key);
    ASSERT_GE(records.size(), 2u);
    if (summary.best == summary.default_schedule || records[1].origin != "transfer") continue;
    ++transferred;
    const Workload workload = **store->workload(summary.workload);
    const ScheduleSpace one = schedule_space(workload, runner.target(), 1),
                        two = schedule_space(workload, runner.target(), 2);
    EXPECT_GT(two.fields.size(), one.fields.size());
    // Its best ones there, as far as they are legal here.
    const std::vector<Record> there = *store->records(summary.workload, testing_key());
    std::set<double> us;
    for (const Record& record : there) {
      bool same = true;
      for (const Field& field : one.fields) {
        same = same &&
               one.value(record.schedule, field.name) == two.value(records[1].schedule, field.name);
      }
      if (same) us.insert(record.result.latency_us);
    }
    EXPECT_TRUE(us.contains(summary.best_us)) << workload.describe();
  }
  EXPECT_GT(transferred, 3);
  EXPECT_EQ(store->summaries(testing_key())->size(), before.size());
}

TEST_F(TunerTest, FillsBatchesWithDifferentWorkloads) {
  WatchedRunner runner(make_simulated_runner(), 4);
  ASSERT_TRUE(run(runner, {.trials = 5}).ok());
  int mixed = 0, full = 0;
  for (const auto& batch : runner.batches) {
    std::set<std::string> workloads;
    for (const Candidate& candidate : batch) workloads.insert(candidate.workload.fingerprint());
    full += batch.size() >= 4;  // winners come in larger ones
    mixed += workloads.size() > 1;
  }
  EXPECT_GE(full, static_cast<int>(runner.batches.size()) - 2);
  EXPECT_GT(mixed, static_cast<int>(runner.batches.size()) * 3 / 4);
}

TEST_F(TunerTest, FillsBatchesOfOneWorkload) {
  tasks.resize(1);
  WatchedRunner runner(make_simulated_runner(), 4);
  ASSERT_TRUE(run(runner, {.trials = 21}).ok());
  std::set<Schedule> seen;
  for (const auto& batch : runner.batches) {
    for (const Candidate& candidate : batch) seen.insert(candidate.schedule);
  }
  EXPECT_EQ(seen.size(), 21u);
  EXPECT_EQ(runner.batches.size(), 7u);  // the default alone, 5 of 4, the best one again
}

// What a workload no longer needs is done, and was not measured.
TEST_F(TunerTest, CountsTrialsThatWereMeasured) {
  tasks.resize(2);
  WatchedRunner runner;
  ASSERT_TRUE(tune(runner, *store, tasks, testing_plan(), {.trials = 1000, .patience = 4},
                   [&](const TuneProgress& p) { progress = p; })
                  .ok());
  EXPECT_EQ(progress.done, 2000);
  const std::vector<TuningSummary> summaries = *store->summaries(testing_key());
  int trials = 0;
  for (const TuningSummary& summary : summaries) trials += summary.trials;
  EXPECT_LT(trials, 2000);
  EXPECT_EQ(progress.trials, trials);
}

TEST_F(TunerTest, GoesOnAfterCancellation) {
  tasks.resize(24);
  WatchedRunner undisturbed;
  ASSERT_TRUE(run(undisturbed, {.trials = 6}).ok());
  const std::vector<std::string> expected = lines();

  store = *Store::open(":memory:");
  progress = {};
  int cancellations = 0;
  for (;;) {
    WatchedRunner runner;
    runner.before = [&, calls = 0]() mutable {
      if (++calls > 5) request_cancellation();  // seen after this batch
      return absl::OkStatus();
    };
    const Status status = run(runner, {.trials = 6});
    reset_cancellation();
    if (status.ok()) break;
    ASSERT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_EQ(runner.batches.size(), 6u);
    ++cancellations;
  }
  EXPECT_GT(cancellations, 3);
  EXPECT_EQ(lines(), expected);
}

TEST_F(TunerTest, GoesOnAfterALostDevice) {
  WatchedRunner runner;
  runner.before = [&] {
    return runner.batches.size() < 7 ? absl::OkStatus() : absl::UnavailableError("gone");
  };
  EXPECT_EQ(run(runner, {.trials = 3}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(lines().size(), 14u);
  WatchedRunner other;
  EXPECT_TRUE(run(other, {.trials = 3}).ok());
}

// Killed at random moments; the records are those of a run that nobody disturbed.
TEST_F(TunerTest, GoesOnAfterKills) {
  const TuneOptions options{.strategy = "evolution", .trials = 12};
  WatchedRunner undisturbed;
  ASSERT_TRUE(run(undisturbed, options).ok());
  const std::vector<std::string> expected = lines();

  TemporaryFolder folder("tune");
  const std::string path = join_path(folder.path(), "a.db");
  Rng rng(11);
  int kills = 0;
  for (bool finished = false; !finished;) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      auto opened = Store::open(path);
      if (!opened.ok()) ::_exit(1);
      WatchedRunner runner;
      // Slow enough to be hit in the middle.
      runner.before = [] {
        ::usleep(500);
        return absl::OkStatus();
      };
      const Status status = tune(runner, **opened, tasks, testing_plan(), options, nullptr);
      ::_exit(status.ok() ? 0 : 2);
    }
    if (kills < 20) {
      ::usleep(static_cast<useconds_t>(5000 + rng.uniform(25000)));
      ::kill(pid, SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
      ++kills;
    } else {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      finished = true;
    }
  }
  EXPECT_GT(kills, 4);
  store = *Store::open(path);
  EXPECT_TRUE(store->check().ok());
  EXPECT_EQ(lines(), expected);
}

TEST_F(TunerTest, GivesUpWhenNothingWorks) {
  Script script;
  script.error = [](const Candidate&) { return TrialError::kCrash; };
  const auto runner = script.runner();
  const Status status = run(*runner, {.trials = 1000});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr("crash: scripted"));
  EXPECT_THAT(std::string(message(status)), HasSubstr("chanas doctor"));
  EXPECT_LT(runner->measured, 100);
  // After the machine was mended, the same command works.
  script.error = [](const Candidate&) { return TrialError::kNone; };
  progress = {};
  EXPECT_TRUE(run(*runner, {.trials = 1}).ok());
  EXPECT_EQ(progress.failures, 0);
  EXPECT_EQ(progress.workloads_done, progress.workloads);
  script.error = [](const Candidate&) { return TrialError::kCrash; };
  // One workload alone is tried its 16 times.
  store = *Store::open(":memory:");
  progress = {};
  tasks.resize(1);
  const auto other = script.runner();
  EXPECT_EQ(run(*other, {.trials = 1}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other->measured, 16);
}

TEST_F(TunerTest, ReplacesADefaultThatFails) {
  Script script;
  script.error = [](const Candidate& candidate) {
    return is_default(candidate) ? TrialError::kCompile : TrialError::kNone;
  };
  const auto runner = script.runner();
  ASSERT_TRUE(run(*runner, {.trials = 1, .budget_s = 1e-9}).ok());
  ASSERT_GT(tasks.size(), 64u);  // more than may fail before the device is suspected
  EXPECT_EQ(runner->measured, static_cast<int>(tasks.size()) + progress.failures);
  const auto table =
      LatencyTable::build(*store, testing_key(), simulated_target(), space_elements(tiny_space()));
  ASSERT_TRUE(table.ok()) << table.status();
  for (const auto& [key, row] : table->rows()) {
    // What replaced the failed defaults stands in for them in the first cut.
    EXPECT_GT(row.default_us, 0) << key;
    EXPECT_LE(row.latency_us, row.default_us) << key;
    EXPECT_FALSE(row.default_choice.schedules.empty()) << key;
  }
}

TEST_F(TunerTest, LeavesAWorkloadThatNeverWorksBehind) {
  const std::string bad = tasks[3].workload.fingerprint();
  Script script;
  script.error = [&](const Candidate& candidate) {
    return candidate.workload.fingerprint() == bad ? TrialError::kWrongResult : TrialError::kNone;
  };
  const auto runner = script.runner();
  ASSERT_TRUE(run(*runner, {.trials = 4}).ok());
  EXPECT_EQ(store->records(bad, testing_key())->size(), 16u);
  EXPECT_EQ(progress.workloads_done, progress.workloads);
  EXPECT_EQ(progress.failures, 16);
  progress = {};
  const auto again = script.runner();
  ASSERT_TRUE(run(*again, {.trials = 4}).ok());
  EXPECT_EQ(again->measured, 0);
}

TEST_F(TunerTest, FailuresAreDataAndCountAsTrials) {
  Script script;
  // Two thirds of what is not a default fails, one way or another.
  script.error = [](const Candidate& candidate) {
    if (is_default(candidate)) return TrialError::kNone;
    int sum = 0;
    for (const int value : candidate.schedule.values) sum += value;
    return sum % 3 == 0 ? TrialError::kNone
                        : (sum % 3 == 1 ? TrialError::kUnstable : TrialError::kTimeout);
  };
  const auto runner = script.runner();
  ASSERT_TRUE(run(*runner, {.trials = 8}).ok());
  EXPECT_GT(progress.failures, static_cast<int>(tasks.size()));
  std::map<TrialError, int> errors;
  for (const TuningTask& task : tasks) {
    std::set<Schedule> tried;
    for (const Record& record : records_of(*store, task.workload)) {
      ++errors[record.result.error];
      tried.insert(record.schedule);
    }
    EXPECT_LE(tried.size(), 8u);
  }
  EXPECT_GT(errors[TrialError::kUnstable], 0);
  EXPECT_GT(errors[TrialError::kTimeout], 0);
}

TEST_F(TunerTest, SpendsTrialsWhereTheyGain) {
  tasks.resize(6);
  const std::string slow = tasks[4].workload.fingerprint();
  Script script;
  script.us = [&](const Candidate& c) { return c.workload.fingerprint() == slow ? 500 : 5; };
  const auto runner = script.runner();
  runner->before = [&] {
    if (runner->measured >= 40) request_cancellation();
    return absl::OkStatus();
  };
  EXPECT_EQ(run(*runner, {.trials = 100}).code(), absl::StatusCode::kCancelled);
  for (const TuningTask& task : tasks) {
    const size_t trials = store->records(task.workload.fingerprint(), testing_key())->size();
    if (task.workload.fingerprint() == slow) {
      EXPECT_GT(trials, 20u);
    } else {
      EXPECT_LT(trials, 10u);
    }
  }
}

// As a damaged store has them, or one of a build between two versions.
TEST_F(TunerTest, RefusesSchedulesThatDoNotFit) {
  WatchedRunner runner;
  ASSERT_TRUE(run(runner, {.trials = 2}).ok());
  const auto lessons = *read_lessons(*store);
  Record bad = lessons[0].records[0];
  bad.schedule.values.pop_back();
  std::vector<Record> records = {bad};
  ASSERT_TRUE(store->add_records(records).ok());
  const int measured = runner.measured;
  const Status status = run(runner, {.trials = 3});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("move it away"));
  EXPECT_EQ(runner.measured, measured);
}

TEST_F(TunerTest, RefusesABadOption) {
  WatchedRunner runner;
  EXPECT_EQ(run(runner, {.trials = 0}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(runner.measured, 0);
}

}  // namespace
}  // namespace chanas
