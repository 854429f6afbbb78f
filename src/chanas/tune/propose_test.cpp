#include "chanas/tune/propose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "chanas/tune/testing_tune.h"

namespace chanas {
namespace {

ScheduleSpace a_space() {
  const Unit unit{.h_in = 14, .c_in = 24, .c_mid = 72, .c_out = 40, .kernel = 5};
  return schedule_space(unit_element(unit).cuts[0].groups[0].workload, simulated_target(), 1);
}

Record record_of(const ScheduleSpace& space, const Proposal& proposal, double us) {
  Record record;
  record.workload = space.workload.fingerprint();
  record.key = testing_key();
  record.schedule = proposal.schedule;
  record.origin = proposal.origin;
  record.result.latency_us = us;
  return record;
}

// A search against a made-up latency: the further from some point, the slower.
std::vector<Record> search(const ScheduleSpace& space, const TuneOptions& options, int trials) {
  std::vector<Record> records;
  for (int i = 0; i < trials; ++i) {
    const auto proposal = propose(space, records, options);
    if (!proposal) break;
    double us = 10;
    for (size_t f = 0; f < space.fields.size(); ++f) {
      us += std::abs(proposal->schedule.values[f] - space.fields[f].choices.back());
    }
    records.push_back(record_of(space, *proposal, us));
    if (i % 7 == 3) records.back().result.error = TrialError::kTimeout;
  }
  return records;
}

TEST(Propose, BeginsWithTheDefaultAndRandomPoints) {
  const ScheduleSpace space = a_space();
  const TuneOptions options{.random_starts = 3, .random_share = 0};
  const std::vector<Record> records = search(space, options, 12);
  ASSERT_EQ(records.size(), 12u);
  EXPECT_EQ(records[0].origin, "default");
  EXPECT_EQ(records[0].schedule, default_schedule(space));
  for (size_t i = 1; i <= 3; ++i) EXPECT_EQ(records[i].origin, "random");
  for (size_t i = 4; i < 12; ++i) {
    EXPECT_TRUE(records[i].origin == "mutation" || records[i].origin == "crossover");
  }
}

TEST(Propose, IsAFunctionOfSeedWorkloadAndMeasurements) {
  const ScheduleSpace space = a_space();
  const std::vector<Record> records = search(space, {}, 40);
  std::vector<Record> prefix;
  for (const Record& record : records) {
    const auto again = propose(space, prefix, {});
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->schedule, record.schedule);
    EXPECT_EQ(again->origin, record.origin);
    prefix.push_back(record);
    // What is no measurement does not count.
    prefix.back().id = 1000 + static_cast<int64_t>(prefix.size());
    prefix.back().time_s = 5;
    prefix.back().result.message = "other words";
  }
  const std::vector<Record> other = search(space, {.seed = 2}, 40);
  EXPECT_NE(records[1].schedule, other[1].schedule);
}

TEST(Propose, NeverTwiceAndAlwaysLegal) {
  const ScheduleSpace space = a_space();
  std::set<Schedule> seen;
  std::map<std::string, int> origins;
  for (const Record& record : search(space, {.random_share = 0.2}, 400)) {
    EXPECT_TRUE(seen.insert(record.schedule).second);
    EXPECT_TRUE(check_legal(space, record.schedule).ok());
    ++origins[record.origin];
  }
  EXPECT_GT(origins["random"], 40);
  EXPECT_GT(origins["mutation"], 100);
  EXPECT_GT(origins["crossover"], 20);
}

TEST(Propose, SearchesASmallSpaceToItsEnd) {
  // The smallest space of any workload of a small network, and its legal points by plain counting.
  ScheduleSpace space = a_space();
  const auto points = [](const ScheduleSpace& s) {
    double n = 1;
    for (const Field& field : s.fields) n *= static_cast<double>(field.choices.size());
    return n;
  };
  for (const TuningTask& task : tuning_tasks(space_elements(tiny_space()))) {
    ScheduleSpace other = schedule_space(task.workload, simulated_target(), 1);
    if (points(other) < points(space)) space = std::move(other);
  }
  ASSERT_LT(points(space), 20000);
  std::set<Schedule> legal;
  std::vector<Schedule> partial = {Schedule{}};
  for (const Field& field : space.fields) {
    std::vector<Schedule> longer;
    for (const Schedule& schedule : partial) {
      for (const int choice : field.choices) {
        longer.push_back(schedule);
        longer.back().values.push_back(choice);
      }
    }
    partial = std::move(longer);
  }
  for (const Schedule& schedule : partial) {
    if (check_legal(space, schedule).ok()) legal.insert(schedule);
  }
  std::set<Schedule> proposed;
  for (const Record& record : search(space, {}, 1 << 20)) proposed.insert(record.schedule);
  EXPECT_EQ(proposed, legal);
}

TEST(Propose, StartPointsFollowTheRule) {
  const std::vector<double> times = {20, 10, 40, 10.5};
  for (const double gamma : {0.0, 0.5, 5.0, 1000.0}) {
    constexpr int kDraws = 40000;
    std::vector<int> counts(times.size());
    Rng rng(3);
    for (int i = 0; i < kDraws; ++i) ++counts[internal::start_point(times, gamma, rng)];
    double rest = 1;  // falls to the best
    for (size_t i = 0; i < times.size(); ++i) {
      if (i == 1) continue;
      const double expected = 0.25 * std::exp(-gamma * (times[i] - 10) / 10);
      EXPECT_NEAR(counts[i] / double{kDraws}, expected, 0.01) << gamma << " " << times[i];
      rest -= expected;
    }
    EXPECT_NEAR(counts[1] / double{kDraws}, rest, 0.01);
  }
}

TEST(History, CountsTheLastMeasurementOfASchedule) {
  const ScheduleSpace space = a_space();
  Rng rng(1);
  const Proposal a{default_schedule(space), "default"}, b{random_schedule(space, rng), "random"};
  internal::History history({record_of(space, a, 20), record_of(space, b, 10)});
  EXPECT_EQ(history.best_us(), 10);
  EXPECT_EQ(history.default_us(), 20);
  history.add(record_of(space, b, 30));
  EXPECT_EQ(history.count(), 2);
  EXPECT_EQ(history.best_us(), 20);
  Record failed = record_of(space, a, 0);
  failed.result.error = TrialError::kUnstable;
  failed.result.message = "spread 40 %";
  history.add(failed);
  EXPECT_EQ(history.best_us(), 30);
  EXPECT_EQ(history.default_us(), 0);
  EXPECT_EQ(history.failures(), 1);
  EXPECT_EQ(history.failure(), "unstable: spread 40 %");
  EXPECT_TRUE(history.has_default());
}

TEST(History, ExpectsGainWhereTimesFellAndAreLarge) {
  const ScheduleSpace space = a_space();
  Rng rng(1);
  const auto history = [&](const std::vector<double>& times) {
    std::vector<Record> records;
    for (const double us : times) {
      Proposal proposal{random_schedule(space, rng), "random"};
      records.push_back(record_of(space, proposal, us));
    }
    return internal::History(records);
  };
  // By hand: the best fell from 100 to 50 in the later half, so 50 * (0.5 + 1 / 4).
  EXPECT_DOUBLE_EQ(expected_gain(history({100, 120, 50, 60}), 1), 37.5);
  EXPECT_DOUBLE_EQ(expected_gain(history({100, 120, 50, 60}), 2), 75);
  EXPECT_DOUBLE_EQ(expected_gain(history({50, 120, 100, 60}), 1), 12.5);
  EXPECT_DOUBLE_EQ(expected_gain(history({10}), 1), 20);
}

}  // namespace
}  // namespace chanas
