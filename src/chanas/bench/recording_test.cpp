#include "chanas/bench/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "chanas/base/file.h"

namespace chanas {
namespace {

using ::testing::HasSubstr;

ScheduleSpace a_space(size_t limit) {
  const Unit unit{.h_in = 14, .c_in = 24, .c_mid = 72, .c_out = 40, .kernel = 5};
  const Workload workload = unit_element(unit).cuts[0].groups[0].workload;
  return cut_down(schedule_space(workload, simulated_target(), 1), limit);
}

TEST(CutDown, KeepsTheDefaultAndTheLimit) {
  for (const size_t limit : {1, 10, 100}) {
    const ScheduleSpace space = a_space(limit);
    const std::vector<Schedule> points = legal_points(space);
    EXPECT_LE(points.size(), limit);
    EXPECT_TRUE(std::ranges::count(points, default_schedule(space)) == 1) << limit;
    for (const Field& field : space.fields) EXPECT_FALSE(field.choices.empty());
  }
}

class RecordingTest : public ::testing::Test {
 protected:
  // Every point of a small space on the simulated device, written to path().
  void record() {
    const ScheduleSpace space = a_space(40);
    const auto runner = make_simulated_runner();
    const auto store = *Store::open(":memory:");
    const RecordKey key = record_key(runner->target(), {});
    ASSERT_TRUE(store->put_device(runner->target()).ok());
    ASSERT_TRUE(store->put_workload(space.workload).ok());
    ASSERT_TRUE(search_space(
                    space, {.strategy = "grid", .trials = 1000}, 8,
                    [&](std::span<const Candidate> c) { return runner->measure(c, {}); }, measured)
                    .ok());
    for (Record& record : measured) record.key = key;
    ASSERT_TRUE(store->add_records(measured).ok());
    ASSERT_TRUE(write_recording(path(), *store, key).ok());
  }
  std::string path() const { return join_path(folder.path(), "r.json.gz"); }

  TemporaryFolder folder{"recording"};
  std::vector<Record> measured;
};

TEST_F(RecordingTest, ComesBackWhole) {
  record();
  const auto lessons = read_recording(path());
  ASSERT_TRUE(lessons.ok()) << lessons.status();
  ASSERT_EQ(lessons->size(), 1u);
  const Lesson& lesson = lessons->at(0);
  EXPECT_EQ(legal_points(lesson.space), legal_points(a_space(40)));
  EXPECT_TRUE(is_exhaustive(lesson));
  ASSERT_EQ(lesson.records.size(), measured.size());
  for (size_t i = 0; i < measured.size(); ++i) {
    EXPECT_EQ(lesson.records[i].schedule, measured[i].schedule);
    EXPECT_NEAR(lesson.records[i].result.latency_us, measured[i].result.latency_us, 5e-4);
  }
  Lesson part = lesson;
  part.records.erase(part.records.begin() + 5);
  EXPECT_FALSE(is_exhaustive(part));
  const std::vector<Candidate> asked = {{lesson.space.workload, measured[3].schedule},
                                        {lesson.space.workload, measured[5].schedule}};
  const std::vector<MeasureResult> answers = replay(part, asked);
  EXPECT_EQ(answers[0].latency_us, lesson.records[3].result.latency_us);
  EXPECT_EQ(answers[1].error, TrialError::kIllegal);
}

TEST(MergePasses, TakesTheUndisturbedOfWhatDidNotFail) {
  const auto record = [](int value, double us, TrialError error = TrialError::kNone) {
    Record r;
    r.schedule.values = {value};
    r.result.error = error;
    r.result.latency_us = us;
    r.result.warm_us = us / 2;
    r.result.samples_us = {us};
    return r;
  };
  const std::vector<Record> merged = merge_passes(
      {record(2, 10), record(1, 7), record(3, 0, TrialError::kCrash), record(2, 90),
       record(1, 0, TrialError::kUnstable), record(3, 0, TrialError::kTimeout), record(2, 12)});
  ASSERT_EQ(merged.size(), 3u);
  EXPECT_EQ(merged[0].schedule.values, std::vector<int>{2});
  EXPECT_EQ(merged[0].result.latency_us, 10.4);  // of 10, 12, 90
  EXPECT_EQ(merged[0].result.warm_us, 5.2);
  EXPECT_TRUE(merged[0].result.samples_us.empty());
  EXPECT_TRUE(merged[1].result.ok());
  EXPECT_EQ(merged[1].result.latency_us, 7);
  EXPECT_EQ(merged[2].result.error, TrialError::kTimeout);
}

// A search that is replayed from what it measured makes the same trials.
TEST_F(RecordingTest, ReplaysASearchBitIdentically) {
  record();
  const auto lessons = read_recording(path());
  ASSERT_TRUE(lessons.ok());
  const Lesson& lesson = lessons->at(0);
  const auto search = [&](const std::string& strategy) {
    std::vector<Record> records;
    EXPECT_TRUE(search_space(
                    lesson.space, {.strategy = strategy, .trials = 20}, 2,
                    [&](std::span<const Candidate> c) -> StatusOr<std::vector<MeasureResult>> {
                      return replay(lesson, c);
                    },
                    records)
                    .ok());
    std::vector<Schedule> schedules;
    for (const Record& r : records) schedules.push_back(r.schedule);
    return schedules;
  };
  for (const std::string& strategy : strategy_names()) {
    const std::vector<Schedule> schedules = search(strategy);
    EXPECT_EQ(schedules.size(), 20u);
    EXPECT_EQ(search(strategy), schedules) << strategy;
  }
}

TEST_F(RecordingTest, RefusesWhatIsDamagedOrForeign) {
  EXPECT_EQ(read_recording(path()).status().code(), absl::StatusCode::kNotFound);
  record();
  const std::string data = *read_file(path());
  const auto code_of = [&](const std::string& bytes) {
    EXPECT_TRUE(write_file_atomic(path(), bytes).ok());
    const auto read = read_recording(path());
    EXPECT_THAT(std::string(message(read.status())), HasSubstr("r.json.gz"));
    return read.status().code();
  };
  EXPECT_EQ(code_of(data.substr(0, data.size() / 2)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code_of("{}"), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code_of(""), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace chanas
