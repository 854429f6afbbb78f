#include "chanas/predict/latency.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "chanas/tune/testing_tune.h"

namespace chanas {
namespace {

using ::testing::HasSubstr;

const BoundaryTerm kTerm = {.scale = 1.07,
                            .per_stage_us = 0.3,
                            .constant_us = 2,
                            .networks = 9,
                            .kinds = {{"conv1x1", 1.2}, {"depthwise", 0.9}, {"unknown", 7}}};

class LatencyTest : public ::testing::Test {
 protected:
  LatencyPredictor predictor(const BoundaryTerm& term, bool tuned = true) {
    auto built = LatencyPredictor::build(space, table, term, tuned);
    CHANAS_CHECK(built.ok()) << built.status().ToString();
    return *std::move(built);
  }

  ArchSpace space = tiny_space();
  std::unique_ptr<Store> store = *Store::open(":memory:");
  LatencyTable table = tuned_table(*store, space_elements(space), 6);
};

// Every arch of a cell, inactive genes at their smallest.
std::vector<Arch> enumerate(const ArchSpace& space, const SubSpace& cell) {
  std::vector<Arch> archs = {smallest(space, cell)};
  const auto extend = [&](auto&& values, auto&& set) {
    std::vector<Arch> longer;
    for (const Arch& arch : archs) {
      for (const auto& value : values) {
        longer.push_back(arch);
        set(longer.back(), value);
      }
    }
    archs = std::move(longer);
  };
  std::vector<UnitGene> genes;
  for (const int kernel : space.kernels) {
    for (const int expand : space.expands) genes.push_back({kernel, expand});
  }
  for (size_t block = 0; block < space.blocks.size(); ++block) {
    extend(space.depths, [&](Arch& arch, int depth) { arch.depth[block] = depth; });
  }
  for (size_t unit = 0; unit < archs[0].units.size(); ++unit) {
    extend(genes, [&](Arch& arch, const UnitGene& gene) { arch.units[unit] = gene; });
  }
  return archs;
}

TEST_F(LatencyTest, EqualsTheSumOfTheTable) {
  Rng rng(1);
  for (const bool tuned : {true, false}) {
    const LatencyPredictor plain = predictor({}, tuned), corrected = predictor(kTerm, tuned);
    for (int i = 0; i < 1000; ++i) {
      const Arch arch = sample(space, rng.choose(space.cells()), rng);
      const Network network = to_network(space, arch);
      double sum = 0, expected = 2;
      for (const std::string& key : element_keys(network)) {
        const TableRow& row = *table.find(key);
        sum += tuned ? row.latency_us : row.default_us;
        for (const TableRow::Stage& stage : tuned ? row.stages : row.default_stages) {
          const double factor = stage.kind == "conv1x1" ? 1.2 : stage.kind == "depthwise" ? 0.9 : 1;
          expected += 1.07 * factor * stage.us + 0.3;
        }
      }
      EXPECT_NEAR(plain.latency_us(arch), sum, 1e-9 * sum);
      EXPECT_NEAR(corrected.latency_us(arch), expected, 1e-9 * expected);
      const auto rows = table_sum(table, network, tuned);
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_NEAR(rows->total_us(), sum, 1e-9 * sum);
      EXPECT_NEAR(apply(kTerm, *rows), expected, 1e-9 * expected);
    }
  }
}

TEST_F(LatencyTest, TheSumIsThatOfThePlan) {
  Rng rng(2);
  for (int i = 0; i < 10; ++i) {
    const Network network = to_network(space, sample(space, space.cells()[0], rng));
    const auto plan = table.plan(network);
    const auto sum = table_sum(table, network);
    ASSERT_TRUE(plan.ok() && sum.ok());
    EXPECT_EQ(static_cast<int>(plan->stages.size()), sum->stages);
  }
}

TEST_F(LatencyTest, TheMinimumIsTheMinimum) {
  for (const BoundaryTerm& term : {BoundaryTerm{}, kTerm}) {
    const LatencyPredictor latency = predictor(term);
    for (const SubSpace& cell : space.cells()) {
      double minimum = std::numeric_limits<double>::infinity();
      const std::vector<Arch> archs = enumerate(space, cell);
      ASSERT_EQ(archs.size(), 4u * 256u);
      for (const Arch& arch : archs) minimum = std::min(minimum, latency.latency_us(arch));
      EXPECT_DOUBLE_EQ(latency.minimum_us(cell), minimum);
      const Arch arch = latency.minimum_arch(cell);
      EXPECT_TRUE(validate(space, arch).ok());
      EXPECT_EQ(arch.cell, cell);
      EXPECT_EQ(latency.latency_us(arch), latency.minimum_us(cell));
      EXPECT_EQ(arch, canonical(space, arch));
    }
  }
}

TEST_F(LatencyTest, CoversTheCellsAskedFor) {
  const std::vector<SubSpace> cells = {space.cells()[1]};
  const auto store_of_one = *Store::open(":memory:");
  const LatencyTable small = tuned_table(*store_of_one, space_elements(space, cells[0]), 1);
  EXPECT_EQ(LatencyPredictor::build(space, small, {}).status().code(), absl::StatusCode::kNotFound);
  const auto latency = LatencyPredictor::build(space, small, {}, true, cells);
  ASSERT_TRUE(latency.ok()) << latency.status();
  EXPECT_EQ(latency->cells(), cells);
  EXPECT_GT(latency->minimum_us(cells[0]), 0);
}

TEST_F(LatencyTest, NamesTheRowThatIsMissing) {
  Network network = to_network(space, smallest(space));
  network.units[1].kernel = 7;
  const auto sum = table_sum(table, network);
  EXPECT_EQ(sum.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message(sum.status())), HasSubstr(unit_key(network.units[1])));
}

TEST_F(LatencyTest, SpacesWithOneUnitPerBlock) {
  space.depths = {1};
  const LatencyPredictor latency = predictor({});
  Rng rng(4);
  for (int i = 0; i < 50; ++i) {
    const Arch arch = sample(space, rng.choose(space.cells()), rng);
    const auto sum = table_sum(table, to_network(space, arch));
    EXPECT_NEAR(latency.latency_us(arch), sum->total_us(), 1e-9 * sum->total_us());
    EXPECT_LE(latency.minimum_us(arch.cell), latency.latency_us(arch));
  }
}

// --- Boundary term ------------------------------------------------------------------------------

BoundarySample sample_of(double sum_us, int stages, double measured_us) {
  return {{{{"conv1x1", sum_us}}, stages}, measured_us};
}

// Networks of very different size, so that the three terms can be told apart.
std::vector<BoundarySample> networks(const BoundaryTerm& truth, double noise, int count) {
  Rng rng(17);
  std::vector<BoundarySample> samples;
  for (int i = 0; i < count; ++i) {
    const double sum_us = 30 * std::exp(rng.uniform_real(0, 3));
    BoundarySample sample = sample_of(sum_us, static_cast<int>(rng.uniform_int(8, 80)), 0);
    sample.measured_us = apply(truth, sample.rows) * (1 + noise * rng.normal());
    samples.push_back(sample);
  }
  return samples;
}

TEST(Boundary, RecoversTheTerms) {
  for (const BoundaryTerm& truth :
       {BoundaryTerm{.scale = 1.07, .per_stage_us = 0.3, .constant_us = 2},
        BoundaryTerm{.scale = 0.9, .per_stage_us = 1.0, .constant_us = 0},
        BoundaryTerm{.scale = 1.2, .per_stage_us = 0, .constant_us = 15},
        BoundaryTerm{.scale = 1.3, .per_stage_us = -0.15, .constant_us = 9}, BoundaryTerm{}}) {
    const BoundaryTerm exact = fit_boundary(networks(truth, 0, 400));
    EXPECT_NEAR(exact.scale, truth.scale, 0.003);
    EXPECT_NEAR(exact.per_stage_us, truth.per_stage_us, 0.02);
    EXPECT_NEAR(exact.constant_us, truth.constant_us, 0.5);
    EXPECT_EQ(exact.networks, 400);
    const BoundaryTerm noisy = fit_boundary(networks(truth, 0.03, 400));
    EXPECT_NEAR(noisy.scale, truth.scale, 0.03);
    EXPECT_NEAR(noisy.per_stage_us, truth.per_stage_us, 0.12);
    EXPECT_NEAR(noisy.constant_us, truth.constant_us, 3);
  }
}

// Stages that cost less inside a network than alone are found, a negative constant is not fitted.
TEST(Boundary, StagesMayCostLessInside) {
  std::vector<BoundarySample> samples;
  for (int i = 1; i <= 20; ++i) {
    const double sum = 40.0 * i;
    const int stages = 10 + i % 4;
    samples.push_back(sample_of(sum, stages, 1.1 * sum - 0.5 * stages));
  }
  const BoundaryTerm term = fit_boundary(samples);
  EXPECT_NEAR(term.scale, 1.1, 0.01);
  EXPECT_NEAR(term.per_stage_us, -0.5, 0.05);
  for (BoundarySample& sample : samples) sample.measured_us = 1.1 * sample.rows.total_us() - 20;
  EXPECT_GE(fit_boundary(samples).constant_us, 0);
}

// Even where the samples ask for it, no network like them is said to take no time.
TEST(Boundary, PredictionsStayPositive) {
  std::vector<BoundarySample> samples;
  for (int i = 1; i <= 20; ++i) {
    const double sum = 20.0 * i;
    samples.push_back(sample_of(sum, 10 + i % 4, std::max(1.0, 2 * sum - 40)));
  }
  const BoundaryTerm term = fit_boundary(samples);
  EXPECT_LT(term.per_stage_us, 0);
  for (const BoundarySample& sample : samples) {
    EXPECT_GE(term.per_stage_us, -0.5 * sample.rows.total_us() / sample.rows.stages - 1e-9);
    EXPECT_GT(apply(term, sample.rows), 0);
  }
}

// The minimum of the documented loss by brute force on a grid: no grid point is better.
TEST(Boundary, IsTheConstrainedMinimum) {
  const std::vector<BoundarySample> samples =
      networks({.scale = 0.8, .per_stage_us = 0, .constant_us = 4}, 0.1, 12);
  const BoundaryTerm fitted = fit_boundary(samples);
  std::vector<double> measured, stages;
  for (const BoundarySample& sample : samples) {
    measured.push_back(sample.measured_us);
    stages.push_back(sample.rows.stages);
  }
  std::sort(measured.begin(), measured.end());
  std::sort(stages.begin(), stages.end());
  const double us = (measured[5] + measured[6]) / 2, middle = (stages[5] + stages[6]) / 2;
  const auto loss = [&](const BoundaryTerm& term) {
    double sum = 0;
    for (const BoundarySample& sample : samples) {
      const double error = apply(term, sample.rows) / sample.measured_us - 1;
      sum += error * error;
    }
    const double ridge[] = {term.scale - 1, term.per_stage_us * middle / us, term.constant_us / us};
    for (const double r : ridge) sum += 0.04 * r * r;
    return sum;
  };
  double smallest_us = std::numeric_limits<double>::infinity();
  for (const BoundarySample& sample : samples) {
    smallest_us = std::min(smallest_us, sample.rows.total_us() / sample.rows.stages);
  }
  const double floor = -0.5 * smallest_us;
  const double best = loss(fitted);
  for (double scale = 0.4; scale <= 1.2; scale += 0.02) {
    for (double stage = floor; stage <= 2; stage += 0.05) {
      for (double constant = 0; constant <= 20; constant += 0.5) {
        ASSERT_GE(
            loss({.scale = scale, .per_stage_us = stage, .constant_us = constant, .networks = 0}),
            best - 1e-12);
      }
    }
  }
}

TEST(Boundary, FewSamplesGiveAScaleOrNothing) {
  EXPECT_EQ(fit_boundary({}).scale, 1.0);
  EXPECT_EQ(fit_boundary({}).networks, 0);
  const BoundaryTerm term =
      fit_boundary({sample_of(100, 10, 120), sample_of(200, 20, 240), sample_of(50, 9, 60)});
  EXPECT_NEAR(term.scale, 1.2, 0.01);
  EXPECT_EQ(term.per_stage_us, 0);
  EXPECT_EQ(term.constant_us, 0);
  EXPECT_EQ(term.networks, 3);
}

// The terms are those of the sums under the factors, which the predictions apply too.
TEST(Boundary, KindsComeFirst) {
  const std::map<std::string, double> kinds = {{"conv3x3", 1.25}, {"depthwise", 0.8}};
  BoundaryTerm truth = {.scale = 1.1, .per_stage_us = 0.2, .constant_us = 1, .kinds = kinds};
  Rng rng(3);
  std::vector<BoundarySample> samples;
  for (int i = 0; i < 400; ++i) {
    BoundarySample sample;
    for (const char* kind : {"conv1x1", "conv3x3", "depthwise"})
      sample.rows.us[kind] = 10 * std::exp(rng.uniform_real(0, 3));
    sample.rows.stages = static_cast<int>(rng.uniform_int(8, 80));
    sample.measured_us = apply(truth, sample.rows);
    samples.push_back(sample);
  }
  const BoundaryTerm fitted = fit_boundary(samples, kinds);
  EXPECT_EQ(fitted.kinds, kinds);
  EXPECT_NEAR(fitted.scale, truth.scale, 0.003);
  const BoundaryTerm blind = fit_boundary(samples);
  double error = 0, blind_error = 0;
  for (const BoundarySample& sample : samples) {
    error += std::abs(apply(fitted, sample.rows) / sample.measured_us - 1) / 400;
    blind_error += std::abs(apply(blind, sample.rows) / sample.measured_us - 1) / 400;
  }
  EXPECT_LT(error, 0.005);
  EXPECT_GT(blind_error, 0.05);
}

TEST(Boundary, IsWrittenAndRead) {
  const auto read = boundary_from_json(Json::parse(to_json(kTerm).dump()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->scale, kTerm.scale);
  EXPECT_EQ(read->per_stage_us, kTerm.per_stage_us);
  EXPECT_EQ(read->constant_us, kTerm.constant_us);
  EXPECT_EQ(read->networks, kTerm.networks);
  EXPECT_EQ(read->kinds, kTerm.kinds);
  Json plain = to_json(kTerm);
  plain.erase("kinds");  // as it was once written
  EXPECT_TRUE(boundary_from_json(plain)->kinds.empty());
  for (const char* bad : {"3", "{}", R"({"scale":0,"per_stage_us":0,"constant_us":0,"networks":1})",
                          R"({"scale":1,"per_stage_us":0,"constant_us":-1,"networks":1})",
                          R"({"scale":1,"per_stage_us":"x","constant_us":0,"networks":1})",
                          R"({"scale":1,"per_stage_us":0,"constant_us":0,"networks":1,
                              "kinds":{"conv1x1":0}})",
                          R"({"scale":1,"per_stage_us":0,"constant_us":0,"networks":1,
                              "kinds":[1]})"}) {
    EXPECT_EQ(boundary_from_json(Json::parse(bad)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace chanas
