// Sub-space rules where the right answers are known.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "chanas/base/stats.h"
#include "chanas/search/testing_toy.h"

namespace chanas {
namespace {

using testing::HasSubstr;

// Latency and accuracy that depend on the cell alone; cells of the demo space in their order:
// r24 w1.0, r24 w1.1, r32 w1.0, r32 w1.1.
struct ByCell {
  ArchSpace space = space_named("demo");
  std::vector<double> latencies_us, accuracies;

  size_t index(const SubSpace& cell) const {
    std::vector<SubSpace> cells = space.cells();
    return std::find(cells.begin(), cells.end(), cell) - cells.begin();
  }
  Evaluators evaluators() const {
    return {[this](std::span<const Arch> archs) {
              std::vector<double> values;
              for (const Arch& arch : archs) values.push_back(accuracies[index(arch.cell)]);
              return values;
            },
            [this](const Arch& arch) { return latencies_us[index(arch.cell)]; },
            [this](const SubSpace& cell) { return latencies_us[index(cell)]; },
            [this](const SubSpace& cell) { return smallest(space, cell); }};
  }
};

TEST(NarrowTest, EachRuleChoosesItsCell) {
  ByCell toy;
  toy.latencies_us = {100, 200, 300, 400};
  toy.accuracies = {0.5, 0.8, 0.7, 0.9};
  auto result = narrow(toy.space, toy.evaluators(), 350, {.delta = 50, .probes = 10});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->chosen(NarrowRule::kPaper), 0);     // lowest latency
  EXPECT_EQ(result->chosen(NarrowRule::kTinyNas), 2);   // the largest image inside the limit
  EXPECT_EQ(result->chosen(NarrowRule::kAccuracy), 1);  // 0.9 is outside
  for (size_t i = 0; i < 4; ++i) {
    const CellStatistics& cell = result->cells[i];
    EXPECT_EQ(cell.cell, toy.space.cells()[i]);
    EXPECT_EQ(cell.sampled, 50);
    EXPECT_EQ(cell.inside, i < 3 ? 50 : 0);
    EXPECT_EQ(cell.latencies_us, std::vector<double>(50, toy.latencies_us[i]));
    EXPECT_NEAR(cell.mean_latency_us, i < 3 ? toy.latencies_us[i] : 0, 1e-9);
    EXPECT_EQ(cell.accuracy_q90, i < 3 ? toy.accuracies[i] : 0);
    EXPECT_EQ(cell.minimum_us, toy.latencies_us[i]);
  }
}

TEST(NarrowTest, StatisticsEqualTheirDefinition) {
  Toy toy(space_named("demo"), 3);
  const double limit = 110;
  auto result = narrow(toy.space(), toy.evaluators(), limit, {.delta = 400, .seed = 9});
  ASSERT_TRUE(result.ok()) << result.status();
  for (const CellStatistics& cell : result->cells) {
    ASSERT_EQ(cell.latencies_us.size(), 400u);
    EXPECT_TRUE(std::is_sorted(cell.latencies_us.begin(), cell.latencies_us.end()));
    double sum = 0;
    int inside = 0;
    for (double latency : cell.latencies_us) {
      if (latency > limit) continue;
      sum += latency;
      ++inside;
    }
    EXPECT_EQ(cell.inside, inside);
    if (inside > 0) {
      EXPECT_NEAR(cell.mean_latency_us, sum / inside, 1e-9);
      EXPECT_GE(cell.mean_macs, macs(to_network(toy.space(), smallest(toy.space(), cell.cell))));
      EXPECT_LE(cell.mean_macs, macs(to_network(toy.space(), largest(toy.space(), cell.cell))));
    }
  }
}

TEST(NarrowTest, FastestNetworkSpeaksForACellWithoutSamplesInside) {
  ByCell toy;
  toy.latencies_us = {900, 900, 900, 900};
  toy.accuracies = {0.1, 0.2, 0.3, 0.4};
  Evaluators evaluators = toy.evaluators();
  // Only the smallest network of the last cell is inside, and no sample of 3 is likely to be it.
  const Arch fast = smallest(toy.space, toy.space.cells()[3]);
  evaluators.latency_us = [&](const Arch& arch) {
    return canonical(toy.space, arch) == fast ? 50.0 : 900.0;
  };
  evaluators.minimum_us = [&](const SubSpace& cell) { return cell == fast.cell ? 50.0 : 900.0; };
  auto result = narrow(toy.space, evaluators, 60, {.delta = 3, .probes = 5});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->cells[3].inside, 0);
  for (NarrowRule rule : {NarrowRule::kPaper, NarrowRule::kTinyNas, NarrowRule::kAccuracy}) {
    EXPECT_EQ(result->chosen(rule), 3);
  }
  EXPECT_EQ(result->cells[3].mean_latency_us, 50);
  EXPECT_EQ(result->cells[3].mean_macs, static_cast<double>(macs(to_network(toy.space, fast))));
  EXPECT_EQ(result->cells[3].accuracy_q90, 0.4);
}

TEST(NarrowTest, ProbesAreDistinctInsideAndInOneCall) {
  Toy toy(space_named("demo"), 4);
  const double limit = 120;
  Evaluators evaluators = toy.evaluators();
  std::vector<Arch> asked;
  int calls = 0;
  evaluators.accuracy = [&](std::span<const Arch> archs) {
    ++calls;
    asked.assign(archs.begin(), archs.end());
    return toy.evaluators().accuracy(archs);
  };
  auto result = narrow(toy.space(), evaluators, limit, {.delta = 300, .probes = 20});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(calls, 1);
  std::map<std::string, std::vector<double>> by_cell;
  std::set<std::string> ids;
  for (const Arch& arch : asked) {
    EXPECT_LE(toy.latency_us(arch), limit);
    EXPECT_TRUE(ids.insert(arch_id(toy.space(), arch)).second);
    by_cell[describe(arch.cell)].push_back(toy.accuracy(arch));
  }
  int best = -1;
  for (size_t i = 0; i < result->cells.size(); ++i) {
    const CellStatistics& cell = result->cells[i];
    std::vector<double> accuracies = by_cell[describe(cell.cell)];
    // Fewer than 20 where samples repeat or are outside.
    EXPECT_LE(accuracies.size(), std::min<size_t>(cell.inside, 20));
    EXPECT_EQ(accuracies.empty(), cell.inside == 0);
    EXPECT_NEAR(cell.accuracy_q90, percentile(accuracies, 0.9), 1e-12);
    if (best < 0 || cell.accuracy_q90 > result->cells[best].accuracy_q90)
      best = static_cast<int>(i);
  }
  EXPECT_EQ(result->by_accuracy, best);
}

TEST(NarrowTest, NoAccuracyRuleWithoutProbesOrEvaluator) {
  Toy toy(space_named("demo"), 4);
  Evaluators evaluators = toy.evaluators();
  auto without_probes = narrow(toy.space(), evaluators, 500, {.delta = 10});
  ASSERT_TRUE(without_probes.ok());
  EXPECT_EQ(without_probes->chosen(NarrowRule::kAccuracy), -1);
  evaluators.accuracy = nullptr;
  auto without_evaluator = narrow(toy.space(), evaluators, 500, {.delta = 10, .probes = 5});
  ASSERT_TRUE(without_evaluator.ok());
  EXPECT_EQ(without_evaluator->chosen(NarrowRule::kAccuracy), -1);
  EXPECT_GE(without_evaluator->chosen(NarrowRule::kPaper), 0);
}

TEST(NarrowTest, SameSeedSameResult) {
  Toy toy(space_named("demo"), 6);
  auto run = [&](uint64_t seed) {
    return *narrow(toy.space(), toy.evaluators(), 150, {.delta = 100, .probes = 10, .seed = seed});
  };
  NarrowResult a = run(5), b = run(5), c = run(6);
  for (size_t i = 0; i < a.cells.size(); ++i) {
    EXPECT_EQ(a.cells[i].latencies_us, b.cells[i].latencies_us);
    EXPECT_EQ(a.cells[i].accuracy_q90, b.cells[i].accuracy_q90);
    EXPECT_NE(a.cells[i].latencies_us, c.cells[i].latencies_us);
  }
  // Cells draw from streams of their own: else all would hold the same networks.
  EXPECT_NE(a.cells[0].mean_macs, a.cells[1].mean_macs);
}

TEST(NarrowTest, UnreachableLimitNamesTheSmallestLatency) {
  ByCell toy;
  toy.latencies_us = {400, 300.5, 200.25, 500};
  auto result = narrow(toy.space, toy.evaluators(), 150, {.delta = 10});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(message(result.status())), HasSubstr("200.25 us"));
  EXPECT_THAT(std::string(message(result.status())), HasSubstr("r32-w1.0"));
}

TEST(NarrowTest, RefusesBadOptionsAndEvaluators) {
  Toy toy(space_named("demo"), 6);
  auto code = [&](double limit, NarrowOptions options, const Evaluators& evaluators) {
    return narrow(toy.space(), evaluators, limit, options).status().code();
  };
  EXPECT_EQ(code(NAN, {}, toy.evaluators()), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(500, {.delta = 0}, toy.evaluators()), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(500, {.probes = -1}, toy.evaluators()), absl::StatusCode::kInvalidArgument);
  Evaluators short_of_values = toy.evaluators();
  short_of_values.accuracy = [](std::span<const Arch>) { return std::vector<double>{}; };
  EXPECT_EQ(code(500, {.delta = 9, .probes = 5}, short_of_values), absl::StatusCode::kInternal);
}

TEST(NarrowRuleTest, NamesRoundTrip) {
  for (std::string_view name : {"paper", "tinynas", "acc"}) {
    auto rule = parse_narrow_rule(name);
    ASSERT_TRUE(rule.ok());
    EXPECT_EQ(narrow_rule_name(*rule), name);
  }
  auto wrong = parse_narrow_rule("fast");
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(wrong.status())), HasSubstr("paper, tinynas, acc"));
}

}  // namespace
}  // namespace chanas
