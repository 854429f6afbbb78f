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

constexpr BoundaryTerm kTerm = {
    .scale = 1.07, .per_stage_us = 0.3, .constant_us = 2, .networks = 9};

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
      const auto sum = table_sum(table, to_network(space, arch), tuned);
      ASSERT_TRUE(sum.ok()) << sum.status();
      EXPECT_NEAR(plain.latency_us(arch), sum->sum_us, 1e-9 * sum->sum_us);
      const double expected = 1.07 * sum->sum_us + 0.3 * sum->stages + 2;
      EXPECT_NEAR(corrected.latency_us(arch), expected, 1e-9 * expected);
      EXPECT_DOUBLE_EQ(apply(kTerm, sum->sum_us, sum->stages), expected);
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
    EXPECT_NEAR(latency.latency_us(arch), sum->sum_us, 1e-9 * sum->sum_us);
    EXPECT_LE(latency.minimum_us(arch.cell), latency.latency_us(arch));
  }
}

// --- Boundary term ------------------------------------------------------------------------------

// Networks of very different size, so that the three terms can be told apart.
std::vector<BoundarySample> networks(const BoundaryTerm& truth, double noise, int count) {
  Rng rng(17);
  std::vector<BoundarySample> samples;
  for (int i = 0; i < count; ++i) {
    BoundarySample sample;
    sample.sum_us = 30 * std::exp(rng.uniform_real(0, 3));
    sample.stages = static_cast<int>(rng.uniform_int(8, 80));
    sample.measured_us = apply(truth, sample.sum_us, sample.stages) * (1 + noise * rng.normal());
    samples.push_back(sample);
  }
  return samples;
}

TEST(Boundary, RecoversTheTerms) {
  for (const BoundaryTerm& truth :
       {kTerm, BoundaryTerm{.scale = 0.9, .per_stage_us = 1.0, .constant_us = 0},
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
    samples.push_back({sum, stages, 1.1 * sum - 0.5 * stages});
  }
  const BoundaryTerm term = fit_boundary(samples);
  EXPECT_NEAR(term.scale, 1.1, 0.01);
  EXPECT_NEAR(term.per_stage_us, -0.5, 0.05);
  for (BoundarySample& sample : samples) sample.measured_us = 1.1 * sample.sum_us - 20;
  EXPECT_GE(fit_boundary(samples).constant_us, 0);
}

// Even where the samples ask for it, no network like them is said to take no time.
TEST(Boundary, PredictionsStayPositive) {
  std::vector<BoundarySample> samples;
  for (int i = 1; i <= 20; ++i) {
    const double sum = 20.0 * i;
    samples.push_back({sum, 10 + i % 4, std::max(1.0, 2 * sum - 40)});
  }
  const BoundaryTerm term = fit_boundary(samples);
  EXPECT_LT(term.per_stage_us, 0);
  for (const BoundarySample& sample : samples) {
    EXPECT_GE(term.per_stage_us, -0.5 * sample.sum_us / sample.stages - 1e-9);
    EXPECT_GT(apply(term, sample.sum_us, sample.stages), 0);
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
    stages.push_back(sample.stages);
  }
  std::sort(measured.begin(), measured.end());
  std::sort(stages.begin(), stages.end());
  const double us = (measured[5] + measured[6]) / 2, middle = (stages[5] + stages[6]) / 2;
  const auto loss = [&](const BoundaryTerm& term) {
    double sum = 0;
    for (const BoundarySample& sample : samples) {
      const double error = apply(term, sample.sum_us, sample.stages) / sample.measured_us - 1;
      sum += error * error;
    }
    const double ridge[] = {term.scale - 1, term.per_stage_us * middle / us, term.constant_us / us};
    for (const double r : ridge) sum += 0.04 * r * r;
    return sum;
  };
  double smallest_us = std::numeric_limits<double>::infinity();
  for (const BoundarySample& sample : samples) {
    smallest_us = std::min(smallest_us, sample.sum_us / sample.stages);
  }
  const double floor = -0.5 * smallest_us;
  const double best = loss(fitted);
  for (double scale = 0.4; scale <= 1.2; scale += 0.02) {
    for (double stage = floor; stage <= 2; stage += 0.05) {
      for (double constant = 0; constant <= 20; constant += 0.5) {
        ASSERT_GE(loss({scale, stage, constant, 0}), best - 1e-12);
      }
    }
  }
}

TEST(Boundary, FewSamplesGiveAScaleOrNothing) {
  EXPECT_EQ(fit_boundary({}).scale, 1.0);
  EXPECT_EQ(fit_boundary({}).networks, 0);
  const BoundaryTerm term = fit_boundary({{100, 10, 120}, {200, 20, 240}, {50, 9, 60}});
  EXPECT_NEAR(term.scale, 1.2, 0.01);
  EXPECT_EQ(term.per_stage_us, 0);
  EXPECT_EQ(term.constant_us, 0);
  EXPECT_EQ(term.networks, 3);
}

TEST(Boundary, IsWrittenAndRead) {
  const auto read = boundary_from_json(Json::parse(to_json(kTerm).dump()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->scale, kTerm.scale);
  EXPECT_EQ(read->per_stage_us, kTerm.per_stage_us);
  EXPECT_EQ(read->constant_us, kTerm.constant_us);
  EXPECT_EQ(read->networks, kTerm.networks);
  for (const char* bad : {"3", "{}", R"({"scale":0,"per_stage_us":0,"constant_us":0,"networks":1})",
                          R"({"scale":1,"per_stage_us":0,"constant_us":-1,"networks":1})",
                          R"({"scale":1,"per_stage_us":"x","constant_us":0,"networks":1})"}) {
    EXPECT_EQ(boundary_from_json(Json::parse(bad)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace chanas
