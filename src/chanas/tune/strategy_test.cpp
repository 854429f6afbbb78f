#include "chanas/tune/strategy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "chanas/tune/importance.h"
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

// A search against a made-up latency: the further from some point, the slower; every seventh fails.
std::vector<Record> search(const ScheduleSpace& space, const TuneOptions& options, int batch = 1) {
  std::vector<Record> records;
  const Status status = search_space(
      space, options, batch,
      [&](std::span<const Candidate> candidates) -> StatusOr<std::vector<MeasureResult>> {
        std::vector<MeasureResult> results;
        for (const Candidate& candidate : candidates) {
          MeasureResult& result = results.emplace_back();
          result.latency_us = 10;
          int sum = 0;
          for (size_t f = 0; f < space.fields.size(); ++f) {
            sum += candidate.schedule.values[f];
            result.latency_us +=
                std::abs(candidate.schedule.values[f] - space.fields[f].choices.back());
          }
          if (sum % 7 == 3) result.error = TrialError::kTimeout;
        }
        return results;
      },
      records);
  EXPECT_TRUE(status.ok()) << status;
  return records;
}

TEST(Strategy, NamesAreKnownAndNearOnesSuggested) {
  for (const std::string& name : strategy_names()) EXPECT_TRUE(internal::make_strategy(name).ok());
  const auto unknown = internal::make_strategy("evolutoin");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()),
              ::testing::HasSubstr("did you mean \"evolution\"?"));
}

TEST(Strategy, EvolutionBeginsWithTheDefaultAndRandomPoints) {
  const ScheduleSpace space = a_space();
  const std::vector<Record> records =
      search(space, {.strategy = "evolution", .trials = 12, .random_starts = 3, .random_share = 0});
  ASSERT_EQ(records.size(), 12u);
  EXPECT_EQ(records[0].origin, "default");
  EXPECT_EQ(records[0].schedule, default_schedule(space));
  for (size_t i = 1; i <= 3; ++i) EXPECT_EQ(records[i].origin, "random");
  for (size_t i = 4; i < 12; ++i) {
    EXPECT_TRUE(records[i].origin == "mutation" || records[i].origin == "crossover");
  }
}

TEST(Strategy, GpTriesStructuredSchedulesAfterTheDefault) {
  const Unit unit{.h_in = 14, .c_in = 24, .c_mid = 72, .c_out = 40, .kernel = 5};
  const Workload all = unit_element(unit).cuts.back().groups[0].workload;
  const ScheduleSpace space = schedule_space(all, simulated_target(), 2);
  const std::vector<Schedule> structured = structured_schedules(space);
  ASSERT_EQ(structured.size(), 3u);
  const std::vector<Record> records = search(space, {.strategy = "gp", .trials = 6});
  ASSERT_EQ(records.size(), 6u);
  EXPECT_EQ(records[0].origin, "default");
  for (size_t i = 1; i <= 3; ++i) {
    EXPECT_EQ(records[i].origin, "structure");
    EXPECT_EQ(records[i].schedule, structured[i - 1]);
  }
  EXPECT_NE(records[4].origin, "structure");
}

class EveryStrategy : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Strategy, EveryStrategy, ::testing::ValuesIn(strategy_names()),
                         [](const auto& info) { return info.param; });

TEST_P(EveryStrategy, IsAFunctionOfTheOptionsAndMeasurements) {
  const ScheduleSpace space = a_space();
  TuneOptions options{.strategy = GetParam(), .trials = 40};
  const std::vector<Record> whole = search(space, options);
  ASSERT_EQ(whole.size(), 40u);
  // Goes on from any prefix as it went on before, with a strategy that remembers nothing.
  for (const size_t cut : {1u, 5u, 17u, 39u}) {
    internal::Experience experience;
    internal::History history;
    for (size_t i = 0; i < cut; ++i) {
      history.add(whole[i]);
      experience.add(space, internal::trial_of(whole[i]));
    }
    const auto strategy = *internal::make_strategy(GetParam());
    const auto proposal = strategy->propose({space, history, {}, experience, options});
    ASSERT_TRUE(proposal.has_value());
    EXPECT_EQ(proposal->schedule, whole[cut].schedule) << cut;
    EXPECT_EQ(proposal->origin, whole[cut].origin) << cut;
  }
  options.seed = 2;
  const bool same =
      std::ranges::equal(search(space, options), whole, {}, &Record::schedule, &Record::schedule);
  EXPECT_EQ(same, GetParam() == "grid");
}

TEST_P(EveryStrategy, NeverTwiceAndAlwaysLegal) {
  const ScheduleSpace space = a_space();
  const int trials = GetParam() == "gp" ? 60 : 300;
  std::set<Schedule> seen;
  const TuneOptions options{.strategy = GetParam(), .trials = trials, .patience = 0};
  for (const Record& record : search(space, options, 3)) {
    EXPECT_TRUE(seen.insert(record.schedule).second);
    EXPECT_TRUE(check_legal(space, record.schedule).ok());
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(trials));
}

// However many points there are, grid walks over them.
TEST(Strategy, GridWalksLargeSpaces) {
  const Unit unit{.h_in = 28, .c_in = 40, .c_mid = 240, .c_out = 40, .kernel = 5};
  const Workload all = unit_element(unit).cuts.back().groups[0].workload;
  const ScheduleSpace space = schedule_space(all, simulated_target(), 2);
  double points = 1;
  for (const Field& field : space.fields) points *= static_cast<double>(field.choices.size());
  ASSERT_GT(points, 1e9);
  EXPECT_EQ(search(space, {.strategy = "grid", .trials = 50}).size(), 50u);
}

// A space of a few dozen points, and its legal points by plain counting.
ScheduleSpace a_small_space() {
  ScheduleSpace space = a_space();
  for (size_t f = 2; f < space.fields.size(); ++f) {
    space.fields[f].choices = {default_schedule(a_space()).values[f]};
  }
  return space;
}

std::set<Schedule> legal_points(const ScheduleSpace& space) {
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
  return legal;
}

TEST_P(EveryStrategy, SearchesASmallSpaceToItsEnd) {
  const ScheduleSpace space = a_small_space();
  const std::set<Schedule> legal = legal_points(space);
  ASSERT_GT(legal.size(), 5u);
  ASSERT_LT(legal.size(), 100u);
  std::set<Schedule> proposed;
  const TuneOptions options{.strategy = GetParam(), .trials = 1 << 20, .patience = 0};
  for (const Record& record : search(space, options)) proposed.insert(record.schedule);
  EXPECT_EQ(proposed, legal);
}

TEST(Strategy, GpStopsWhereNothingMoreIsExpected) {
  const ScheduleSpace space = a_space();
  const std::vector<Record> records =
      search(space, {.strategy = "gp", .trials = 1000, .patience = 20});
  EXPECT_GT(records.size(), 20u);
  EXPECT_LT(records.size(), 300u);
}

TEST(Strategy, StartPointsFollowTheRule) {
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
  EXPECT_DOUBLE_EQ(expected_gain(history({100, 120, 50, 60})), 37.5);
  EXPECT_DOUBLE_EQ(expected_gain(history({50, 120, 100, 60})), 12.5);
  EXPECT_DOUBLE_EQ(expected_gain(history({10})), 20);
}

// Two elements; the first may take workload 0 alone, 1 and 2, or 1 and 3.
TEST(Importance, FallsWithTheDistanceToTheBestCut) {
  const std::vector<std::vector<CutOf>> cuts = {
      {{0, 0}, {1, 0}}, {{0, 1}, {0, 2}}, {{0, 1}}, {{0, 2}}, {}};
  std::vector<double> now = internal::importance(cuts, {100, 60, 40, 50, 7});
  EXPECT_DOUBLE_EQ(now[0], 2);  // as good as 1 and 2, and all there is of the other element
  EXPECT_DOUBLE_EQ(now[1], 1);
  EXPECT_DOUBLE_EQ(now[2], 1);
  EXPECT_GT(now[3], 0.2);
  EXPECT_LT(now[3], 0.6);
  EXPECT_DOUBLE_EQ(now[4], 1);
  // A cut without a valid record, or far behind, still gets a little.
  now = internal::importance(cuts, {100, 600, 40, 0, 7});
  EXPECT_DOUBLE_EQ(now[0], 2);
  EXPECT_GT(now[3], 0);
  EXPECT_LT(now[3], 0.1);
  EXPECT_DOUBLE_EQ(now[1], now[3]);
}

}  // namespace
}  // namespace chanas
