#include "chanas/predict/lut_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/tune/testing_tune.h"

namespace chanas {
namespace {

// Answers with the truth of a simulated device that has become slower, and with networks that cost
// more than the sum of their stages.
class DriftedRunner : public Runner {
 public:
  double factor = 1.0;
  double stage_factor = 1.0;                   // inside networks, of what is stamped
  std::map<std::string, double> kind_factors;  // inside networks; 1 for others
  TrialError error = TrialError::kNone;
  std::vector<std::string> measured;  // networks, in order
  std::function<double(double, int)> network_us = [](double sum, int) { return sum; };

  const Target& target() const override { return runner_->target(); }
  int batch_size() const override { return 3; }
  StatusOr<std::vector<MeasureResult>> measure(std::span<const Candidate> candidates,
                                               const MeasurePlan& plan) override {
    CHANAS_ASSIGN_OR_RETURN(auto results, runner_->measure(candidates, plan));
    for (MeasureResult& result : results) {
      result.latency_us *= factor;
      result.error = error;
    }
    return results;
  }
  StatusOr<NetworkMeasurement> measure_network(const ExecutionPlan& plan, int) override {
    measured.push_back(plan.network);
    double sum = 0;
    NetworkMeasurement measurement;
    for (const Stage& stage : plan.stages) {
      const Candidate candidate{stage.workload, stage.schedule};
      CHANAS_ASSIGN_OR_RETURN(const auto result,
                              runner_->measure(std::span(&candidate, 1), testing_plan()));
      const auto factor = kind_factors.find(stage.workload.kind());
      const double us = (factor == kind_factors.end() ? 1 : factor->second) * result[0].latency_us;
      sum += us;
      measurement.stage_us.push_back(stage_factor * us);
    }
    measurement.median_us = network_us(sum, static_cast<int>(plan.stages.size()));
    measurement.p10_us = 0.98 * measurement.median_us;
    measurement.p90_us = 1.05 * measurement.median_us;
    return measurement;
  }

 private:
  std::unique_ptr<Runner> runner_ = make_simulated_runner();
};

class LutCheck : public ::testing::Test {
 protected:
  void TearDown() override { reset_cancellation(); }

  ArchSpace space = tiny_space();
  std::unique_ptr<Store> store = *Store::open(":memory:");
  LatencyTable table = tuned_table(*store, space_elements(space), 4);
  DriftedRunner runner;
};

TEST(Agreement, ByHand) {
  const std::vector<double> predicted = {100, 104, 92, 300}, measured = {100, 100, 100, 200};
  const Agreement result = agreement(predicted, measured);
  EXPECT_EQ(result.count, 4);
  EXPECT_NEAR(result.error, (0 + 0.04 + 0.08 + 0.5) / 4, 1e-12);
  EXPECT_NEAR(result.bias, 0.02, 1e-12);
  EXPECT_DOUBLE_EQ(result.within_5, 0.5);
  EXPECT_DOUBLE_EQ(result.within_10, 0.75);
  EXPECT_EQ(agreement(std::vector<double>{}, std::vector<double>{}).count, 0);
}

TEST_F(LutCheck, FindsNoDriftWhereThereIsNone) {
  const auto rows = check_rows(runner, *store, table, testing_plan(), {.rows = 20});
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 20u);
  std::set<std::string> seen;
  for (const RowCheck& row : *rows) {
    EXPECT_TRUE(seen.insert(row.workload).second);
    EXPECT_DOUBLE_EQ(row.measured_us, row.recorded_us);
    EXPECT_FALSE(row.description.empty());
  }
  EXPECT_EQ(agreement(*rows).within_5, 1.0);
  const auto others = check_rows(runner, *store, table, testing_plan(), {.rows = 20, .seed = 2});
  std::set<std::string> drawn;
  for (const RowCheck& row : *others) drawn.insert(row.workload);
  EXPECT_NE(drawn, seen);
}

TEST_F(LutCheck, FindsDriftAndRecordsIt) {
  runner.factor = 1.25;
  auto rows = check_rows(runner, *store, table, testing_plan(), {.rows = 10});
  ASSERT_TRUE(rows.ok());
  EXPECT_NEAR(agreement(*rows).bias, 1 / 1.25 - 1, 1e-9);
  EXPECT_NEAR(agreement(*rows).error, 0.2, 1e-9);
  const auto key = testing_key();
  const std::string workload = (*rows)[0].workload;
  EXPECT_DOUBLE_EQ(store->best(workload, key)->value().result.latency_us, (*rows)[0].recorded_us);
  // All rows, recorded: the table is slower now.
  rows = check_rows(runner, *store, table, testing_plan(), {.rows = 1 << 20, .record = true});
  ASSERT_TRUE(rows.ok());
  for (const RowCheck& row : *rows) {
    const auto records = store->records(row.workload, key);
    EXPECT_DOUBLE_EQ(records->back().result.latency_us, 1.25 * row.recorded_us);
  }
  const auto slower = LatencyTable::build(*store, key, simulated_target(), space_elements(space));
  ASSERT_TRUE(slower.ok());
  for (const auto& [name, row] : slower->rows()) {
    EXPECT_GT(row.latency_us, table.find(name)->latency_us);
  }
}

TEST_F(LutCheck, AnUnstableTimeIsNotRecorded) {
  runner.error = TrialError::kUnstable;
  const auto rows = check_rows(runner, *store, table, testing_plan(), {.rows = 4, .record = true});
  ASSERT_TRUE(rows.ok());
  for (const RowCheck& row : *rows) {
    EXPECT_FALSE(row.failure.empty());
    EXPECT_DOUBLE_EQ(store->best(row.workload, testing_key())->value().result.latency_us,
                     row.recorded_us);
  }
}

TEST_F(LutCheck, RowsThatFailAreSaid) {
  runner.error = TrialError::kTimeout;
  const auto rows = check_rows(runner, *store, table, testing_plan(), {.rows = 4});
  ASSERT_TRUE(rows.ok());
  for (const RowCheck& row : *rows) {
    EXPECT_EQ(row.measured_us, 0);
    EXPECT_THAT(row.failure, ::testing::HasSubstr("timeout"));
  }
  EXPECT_EQ(agreement(*rows).count, 0);
}

TEST_F(LutCheck, KindsTellWhereRowsAndNetworksPart) {
  runner.stage_factor = 1.25;
  const std::vector<Network> networks = random_networks(space, space.cells(), 3, 1);
  const auto checks = measure_networks(runner, table, networks, {.rounds = 1});
  ASSERT_TRUE(checks.ok()) << checks.status();
  const std::vector<KindCheck> kinds = check_kinds(*checks);
  ASSERT_GT(kinds.size(), 1u);
  int stages = 0;
  double row_us = 0;
  for (size_t i = 0; i < kinds.size(); ++i) {
    const KindCheck& kind = kinds[i];
    EXPECT_NEAR(kind.inside_us, 1.25 * kind.row_us, 1e-9 * kind.row_us) << kind.kind;
    if (i > 0) {
      EXPECT_GE(kinds[i - 1].inside_us, kind.inside_us);
    }
    stages += kind.stages;
    row_us += kind.row_us;
  }
  int expected = 0;
  double sum_us = 0;
  for (const NetworkCheck& check : *checks) {
    expected += check.rows.stages;
    sum_us += check.rows.total_us();
  }
  EXPECT_EQ(stages, expected);
  EXPECT_NEAR(row_us, sum_us, 1e-9 * sum_us);
}

// A device that is slower for two thirds of the time does not change what is found.
TEST_F(LutCheck, RoundsOutliveSlowMinutes) {
  const std::vector<Network> networks = random_networks(space, space.cells(), 7, 1);
  const auto quiet = measure_networks(runner, table, networks, {.rounds = 1});
  ASSERT_TRUE(quiet.ok()) << quiet.status();
  int calls = 0;
  runner.network_us = [&](double sum, int) {
    runner.stage_factor = (calls + 1) % 3 == 0 ? 1 : 1.4;
    return sum * (calls++ % 3 == 0 ? 1 : 1.4);
  };
  runner.stage_factor = 1;
  int heard = 0;
  const auto noisy =
      measure_networks(runner, table, networks, {.rounds = 9}, [&](int done) { heard = done; });
  ASSERT_TRUE(noisy.ok()) << noisy.status();
  EXPECT_EQ(heard, 7 * 9);
  for (size_t i = 0; i < networks.size(); ++i) {
    EXPECT_EQ((*noisy)[i].name, networks[i].name);
    EXPECT_DOUBLE_EQ((*noisy)[i].measured_us, (*quiet)[i].measured_us);
    EXPECT_NEAR((*noisy)[i].spread, 0.4, 1e-9);
    EXPECT_EQ((*quiet)[i].spread, 0);
    ASSERT_EQ((*noisy)[i].stages.size(), (*quiet)[i].stages.size());
    for (size_t s = 0; s < (*noisy)[i].stages.size(); ++s) {
      EXPECT_EQ((*noisy)[i].stages[s].inside_us, (*quiet)[i].stages[s].inside_us);
    }
  }
}

// A device that only gets slower does so for both halves alike.
TEST_F(LutCheck, HalvesAreMeasuredInTurns) {
  std::vector<Network> networks = random_networks(space, space.cells(), 5, 1);
  for (size_t i = 0; i < networks.size(); ++i) networks[i].name = std::string(1, "abcde"[i]);
  const auto checks = measure_networks(runner, table, networks, {.rounds = 2});
  ASSERT_TRUE(checks.ok()) << checks.status();
  const std::vector<std::string> round = {"a", "d", "b", "e", "c"};
  std::vector<std::string> expected = round;
  expected.insert(expected.end(), round.begin(), round.end());
  EXPECT_EQ(runner.measured, expected);
  for (size_t i = 0; i < networks.size(); ++i) EXPECT_EQ((*checks)[i].name, networks[i].name);
}

TEST_F(LutCheck, RandomNetworksAreDistinctAndOfAllCells) {
  const std::vector<Network> networks = random_networks(space, space.cells(), 40, 3);
  ASSERT_EQ(networks.size(), 40u);
  std::set<std::string> names;
  std::set<int> resolutions;
  for (const Network& network : networks) {
    EXPECT_TRUE(names.insert(network.name).second);
    resolutions.insert(network.resolution);
  }
  EXPECT_EQ(resolutions.size(), 2u);
  ArchSpace one = space;
  one.depths = {1};
  one.kernels = {3};
  one.expands = {2};
  EXPECT_EQ(random_networks(one, one.cells(), 40, 3).size(), 2u);
}

// Networks cost what the term says and a little noise: the fit on some of them holds for the
// others.
TEST_F(LutCheck, BoundaryIsJudgedOnOtherNetworks) {
  Rng noise(5);
  runner.network_us = [&](double sum, int stages) {
    return (1.06 * sum + 0.8 * stages) * (1 + 0.01 * noise.normal());
  };
  const std::vector<Network> networks = random_networks(space, space.cells(), 60, 3);
  int heard = 0;
  const auto checks = measure_networks(runner, table, networks, {.rounds = 1},
                                       [&](int done) { EXPECT_EQ(done, ++heard); });
  ASSERT_TRUE(checks.ok()) << checks.status();
  EXPECT_EQ(heard, 60);
  for (const NetworkCheck& check : *checks) {
    EXPECT_GT(check.measured_us, check.rows.total_us());
    EXPECT_LT(check.p10_us, check.p90_us);
  }
  const BoundaryCheck boundary = check_boundary(*checks, 20);
  EXPECT_EQ(boundary.term.networks, 20);
  EXPECT_EQ(boundary.plain.count, 40);
  EXPECT_EQ(boundary.corrected.count, 40);
  EXPECT_GT(boundary.plain.error, 0.05);
  EXPECT_LT(boundary.corrected.error, 0.02);
  EXPECT_GT(boundary.corrected.within_5, 0.95);
  EXPECT_GT(boundary.corrected.spearman, 0.9);
  // Nothing to fit on: the identity; nothing to judge: empty.
  EXPECT_EQ(check_boundary(*checks, 0).corrected.error, check_boundary(*checks, 0).plain.error);
  EXPECT_EQ(check_boundary(*checks, 1000).plain.count, 0);
}

// Some kinds of stages take longer inside networks: what the stages tell makes networks right.
TEST_F(LutCheck, KindsThatDifferInsideAreCorrected) {
  runner.kind_factors = {{"conv1x1", 1.3}, {"depthwise", 0.8}};
  runner.stage_factor = 1.02;  // stamping costs all of them
  const std::vector<Network> networks = random_networks(space, space.cells(), 40, 3);
  auto checks = measure_networks(runner, table, networks, {.rounds = 1});
  ASSERT_TRUE(checks.ok()) << checks.status();
  const BoundaryCheck boundary = check_boundary(*checks, 20);
  const std::map<std::string, double>& kinds = boundary.term.kinds;
  ASSERT_TRUE(kinds.contains("conv1x1") && kinds.contains("depthwise"));
  EXPECT_NEAR(kinds.at("conv1x1") / kinds.at("depthwise"), 1.3 / 0.8, 1e-9);
  EXPECT_LT(boundary.corrected.error, 0.002);
  EXPECT_GT(boundary.corrected.spearman, 0.999);
  for (NetworkCheck& check : *checks) check.stages.clear();  // a device that stamps none
  const BoundaryCheck blind = check_boundary(*checks, 20);
  EXPECT_TRUE(blind.term.kinds.empty());
  EXPECT_GT(blind.corrected.error, 2 * boundary.corrected.error);
}

TEST_F(LutCheck, StopsWhenCancelled) {
  request_cancellation();
  EXPECT_EQ(check_rows(runner, *store, table, testing_plan(), {}).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(measure_networks(runner, table, random_networks(space, space.cells(), 2, 1), {})
                .status()
                .code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace chanas
