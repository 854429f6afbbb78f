// The records that come with the program, and what a search makes of lessons.

#include "chanas/tune/pretraining.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "chanas/arch/space.h"
#include "chanas/tune/testing_tune.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Target avx512() {
  Target target = simulated_target();
  target.triple = "x86-64-linux-avx-avx2-avx512-avx512_skylake-f16c-fma-sse41";
  target.vector_floats = 16;
  target.vector_registers = 32;
  target.simulated = false;
  return target;
}

std::vector<TuningTask> demo_tasks() { return tuning_tasks(space_elements(*load_space("demo"))); }

// Files of other schedules would be passed over silently: then measure again (data/make.py).
TEST(Pretraining, IsOfTheSchedulesThatThisProgramMakes) {
  const std::vector<TuningTask> tasks = demo_tasks();
  std::set<std::string> kinds, taught;
  for (const TuningTask& task : tasks) kinds.insert(task.workload.kind());
  for (const int threads : {1, 2}) {
    const std::vector<Lesson> lessons = pretraining_lessons(avx512(), threads, tasks);
    ASSERT_GT(lessons.size(), 1000u);
    EXPECT_EQ(lessons.front().space.threads, threads);
    int gained = 0, compared = 0;
    for (const Lesson& lesson : lessons) {
      taught.insert(lesson.space.workload.kind());
      ASSERT_FALSE(lesson.records.empty());
      for (const Record& record : lesson.records) {
        const Status legal = check_legal(lesson.space, record.schedule);
        ASSERT_TRUE(legal.ok()) << lesson.space.workload.describe() << ": " << legal;
        ASSERT_GT(record.result.latency_us, 0);
        ASSERT_TRUE(record.result.ok());
      }
      const Record& first = lesson.records.front();
      if (lesson.records.size() == 1 || first.schedule != default_schedule(lesson.space)) continue;
      ++compared;
      gained += lesson.records[1].result.latency_us < first.result.latency_us;
    }
    EXPECT_GT(compared, 500);
    EXPECT_GT(gained, compared / 2);  // there is something to learn
  }
  for (const std::string& kind : taught) EXPECT_TRUE(kinds.contains(kind)) << kind;
  EXPECT_GT(taught.size(), kinds.size() / 2);
}

TEST(Pretraining, IsForMachinesOfTheKind) {
  const std::vector<TuningTask> tasks = demo_tasks();
  Target target = avx512();
  target.vector_floats = 8;
  EXPECT_TRUE(pretraining_lessons(target, 1, tasks).empty());
  target = avx512();
  target.triple = "arm-64-linux";
  EXPECT_TRUE(pretraining_lessons(target, 1, tasks).empty());
  target = avx512();
  target.simulated = true;
  EXPECT_TRUE(pretraining_lessons(target, 1, tasks).empty());
  EXPECT_TRUE(pretraining_lessons(avx512(), 1, {}).empty());
}

TEST(Pretraining, IsOfTheNearestMachine) {
  const std::vector<TuningTask> tasks = demo_tasks();
  const auto taught_by = [&](int64_t l1_bytes, int64_t l2_bytes) {
    Target target = avx512();
    target.l1_bytes = l1_bytes;
    target.l2_bytes = l2_bytes;
    std::set<std::string> machines;
    for (const Lesson& lesson : pretraining_lessons(target, 1, tasks))
      if (lesson.space.threads == 1) machines.insert(lesson.space.target.cpu);
    return machines;
  };
  EXPECT_THAT(taught_by(32 << 10, 1 << 20), ElementsAre("AMD EPYC"));
  EXPECT_THAT(taught_by(48 << 10, 2 << 20), ElementsAre(HasSubstr("Xeon")));
}

TEST(Pretraining, CanBeLeftOutAndExtended) {
  const std::vector<TuningTask> tasks = demo_tasks();
  EXPECT_TRUE(lessons_of("none", avx512(), 1, tasks)->empty());
  const size_t shipped = lessons_of("shipped", avx512(), 1, tasks)->size();
  EXPECT_GT(shipped, 0u);
  const auto missing = lessons_of("shiped", avx512(), 1, tasks);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("'shiped'"));

  const std::string path = ::testing::TempDir() + "/pretraining_test.db";
  std::remove(path.c_str());
  {
    auto store = *Store::open(path);
    tune_elements(*store, space_elements(tiny_space()), 2);
  }
  const auto more = lessons_of(path, avx512(), 1, tasks);
  ASSERT_TRUE(more.ok()) << more.status();
  EXPECT_GT(more->size(), shipped);
}

// Lessons of a task's own workload: their best schedules are tried after the default, their times
// are no row and no trial of the task, even where they come from the same kind of device.
TEST(Lessons, OfTheSameWorkloadAreTriedAndNotBelieved) {
  std::vector<TuningTask> tasks = tuning_tasks(space_elements(tiny_space()));
  tasks.resize(6);
  const Target device = simulated_target();
  const auto lessons = [&](double us) {
    std::vector<Lesson> lessons;
    for (const TuningTask& task : tasks) {
      Lesson& lesson = lessons.emplace_back(schedule_space(task.workload, device, 1));
      Rng rng(1, task.workload.fingerprint());
      for (int i = 0; i < 3; ++i) {
        Record& record = lesson.records.emplace_back();
        record.schedule = random_schedule(lesson.space, rng);
        record.result.latency_us = us * (3 - i);  // the last is the best
      }
    }
    return lessons;
  };
  const auto search = [&](double us) {
    auto store = *Store::open(":memory:");
    WatchedRunner runner;
    const TuneOptions options{.trials = 12, .lessons = lessons(us)};
    EXPECT_TRUE(tune(runner, *store, tasks, testing_plan(), options, nullptr).ok());
    return store;
  };
  const auto store = search(1e-3);
  EXPECT_EQ(record_lines(*store, tasks), record_lines(*search(1e3), tasks));
  int tried = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const std::vector<Record> records = records_of(*store, tasks[i].workload);
    ASSERT_GE(records.size(), 2u);
    EXPECT_EQ(records[0].origin, "default");
    const Schedule best = lessons(1)[i].records.back().schedule;
    if (best == records[0].schedule) continue;
    ++tried;
    EXPECT_EQ(records[1].origin, "transfer");
    EXPECT_EQ(records[1].schedule, best);
  }
  EXPECT_GT(tried, 3);
}

}  // namespace
}  // namespace chanas
