// Golden checks 21, 22 and 24 of the design notes on tabulated toys, and the rules of evolution.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "chanas/base/stats.h"
#include "chanas/search/testing_toy.h"

namespace chanas {
namespace {

using testing::HasSubstr;

// Every network of a cell, once.
std::vector<Arch> all_archs(const ArchSpace& space, const SubSpace& cell) {
  std::vector<Arch> archs = {smallest(space, cell)};
  for (size_t b = 0; b < space.blocks.size(); ++b) {
    std::vector<Arch> longer;
    for (const Arch& arch : archs) {
      for (int depth : space.depths) {
        std::vector<Arch> block = {arch};
        block[0].depth[b] = depth;
        for (int u = 0; u < depth; ++u) {
          std::vector<Arch> next;
          for (const Arch& partial : block) {
            for (int kernel : space.kernels) {
              for (int expand : space.expands) {
                next.push_back(partial);
                next.back().units[b * space.max_depth() + u] = {kernel, expand};
              }
            }
          }
          block = next;
        }
        longer.insert(longer.end(), block.begin(), block.end());
      }
    }
    archs = longer;
  }
  return archs;
}

std::string text(const ArchSpace& space, const SearchResult& result) {
  std::string text = std::to_string(result.evaluations);
  for (const auto* list : {&result.best, &result.front}) {
    for (const Scored& s : *list) {
      text += fmt::format("\n{} {} {}", arch_id(space, s.arch), s.accuracy, s.latency_us);
    }
  }
  for (const Generation& g : result.history) text += fmt::format("\n{}", g.hypervolume);
  return text;
}

// What holds for every result of evolve and random_search.
void expect_sound(const Toy& toy, const SearchResult& result, double limit) {
  ASSERT_FALSE(result.best.empty());
  std::set<std::string> ids;
  for (size_t i = 0; i < result.best.size(); ++i) {
    const Scored& s = result.best[i];
    EXPECT_TRUE(validate(toy.space(), s.arch).ok());
    EXPECT_EQ(s.arch, canonical(toy.space(), s.arch));
    EXPECT_EQ(s.latency_us, toy.latency_us(s.arch));
    EXPECT_EQ(s.accuracy, toy.accuracy(s.arch));
    EXPECT_LE(s.latency_us, limit);
    EXPECT_TRUE(ids.insert(arch_id(toy.space(), s.arch)).second);
    if (i > 0) {
      EXPECT_GE(result.best[i - 1].accuracy, s.accuracy);
    }
  }
  ASSERT_FALSE(result.front.empty());
  for (const Scored& s : result.front) EXPECT_LE(s.latency_us, limit);
  EXPECT_EQ(result.front.back().accuracy, result.best.front().accuracy);
  ASSERT_FALSE(result.history.empty());
  for (size_t i = 1; i < result.history.size(); ++i) {
    EXPECT_GE(result.history[i].hypervolume, result.history[i - 1].hypervolume);
    EXPECT_GE(result.history[i].best_accuracy, result.history[i - 1].best_accuracy);
    EXPECT_GT(result.history[i].evaluations, result.history[i - 1].evaluations);
  }
  EXPECT_EQ(result.history.back().evaluations, result.evaluations);
  EXPECT_EQ(result.history.back().best_accuracy, result.best.front().accuracy);
}

// Check 21.
TEST(EvolveTest, NeverReturnsANetworkAboveItsLimit) {
  Toy toy(space_named("demo"), 1);
  const double lowest = toy.latency_us(toy.minimum_arch(toy.cell()));
  const EvolutionOptions options{.population = 6, .generations = 3};
  Rng rng(21);
  int infeasible = 0;
  for (int i = 0; i < 10000; ++i) {
    // A third below what is possible, many just above it.
    const double limit = lowest * (i % 3 == 0   ? rng.uniform_real(-1, 1)
                                   : i % 3 == 1 ? rng.uniform_real(1, 1.2)
                                                : rng.uniform_real(1, 6));
    EvolutionOptions seeded = options;
    seeded.seed = static_cast<uint64_t>(i);
    auto result = evolve(toy.space(), toy.cell(), toy.evaluators(), limit, seeded, nullptr);
    if (limit < lowest) {
      ++infeasible;
      ASSERT_EQ(result.status().code(), absl::StatusCode::kOutOfRange);
      ASSERT_THAT(std::string(message(result.status())),
                  HasSubstr(fmt::format("{:.6g} us, with", lowest)));
      continue;
    }
    ASSERT_TRUE(result.ok()) << result.status();
    for (const Scored& s : result->best) ASSERT_LE(toy.latency_us(s.arch), limit);
    for (const Scored& s : result->front) ASSERT_LE(toy.latency_us(s.arch), limit);
  }
  EXPECT_GT(infeasible, 3000);
}

TEST(EvolveTest, LimitThatOnlyOneNetworkMeets) {
  Toy toy(space_named("demo"), 1);
  const Arch fastest = canonical(toy.space(), toy.minimum_arch(toy.cell()));
  auto result =
      evolve(toy.space(), toy.cell(), toy.evaluators(), toy.latency_us(fastest), {}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->best.size(), 1u);
  EXPECT_EQ(result->best[0].arch, fastest);
  EXPECT_EQ(result->evaluations, 1);
}

TEST(EvolveTest, FillsThePopulationUnderATightLimit) {
  Toy toy(space_named("paper"), 2);
  const double lowest = toy.latency_us(toy.minimum_arch(toy.cell()));
  Rng rng(1);
  std::vector<double> sampled;
  for (int i = 0; i < 2000; ++i) {
    sampled.push_back(toy.latency_us(sample(toy.space(), toy.cell(), rng)));
  }
  const double limit = lowest + 0.2 * (percentile(sampled, 0) - lowest);
  auto result =
      evolve(toy.space(), toy.cell(), toy.evaluators(), limit, {.generations = 0}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->best.size(), 100u);
  expect_sound(toy, *result, limit);
}

TEST(EvolveTest, FindsTheBestOfASmallSpace) {
  Toy toy(space_named("demo"), 5);
  const double limit = 130;
  std::vector<Scored> inside;
  for (const Arch& arch : all_archs(toy.space(), toy.cell())) {
    if (toy.latency_us(arch) <= limit) {
      inside.push_back({canonical(toy.space(), arch), toy.accuracy(arch), toy.latency_us(arch)});
    }
  }
  ASSERT_GT(inside.size(), 1000u);
  ASSERT_LT(inside.size(), 8000u);
  auto result = evolve(toy.space(), toy.cell(), toy.evaluators(), limit,
                       {.population = 50, .generations = 40}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  expect_sound(toy, *result, limit);
  EXPECT_LT(result->evaluations, static_cast<int64_t>(inside.size()));
  std::vector<double> accuracies;
  for (const Scored& s : inside) accuracies.push_back(s.accuracy);
  EXPECT_GE(result->best.front().accuracy, percentile(accuracies, 0.999));
}

TEST(EvolveTest, EndsWhenTheCellHasBeenSeenWhole) {
  Toy toy(space_named("demo"), 5);
  const double limit = 1e6;
  const size_t size = all_archs(toy.space(), toy.cell()).size();
  ASSERT_EQ(size, 8000u);  // (4 + 16)^3
  auto result = evolve(toy.space(), toy.cell(), toy.evaluators(), limit,
                       {.population = 100, .generations = 100000}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LE(result->evaluations, static_cast<int64_t>(size));
}

TEST(EvolveTest, NothingIsEvaluatedTwiceOrAboveTheLimit) {
  Toy toy(space_named("demo"), 8);
  const double limit = 120;
  Evaluators evaluators = toy.evaluators();
  std::set<std::string> asked;
  int64_t count = 0;
  evaluators.accuracy = [&](std::span<const Arch> archs) {
    for (const Arch& arch : archs) {
      EXPECT_TRUE(asked.insert(arch_id(toy.space(), arch)).second);
      EXPECT_LE(toy.latency_us(arch), limit);
    }
    count += static_cast<int64_t>(archs.size());
    return toy.evaluators().accuracy(archs);
  };
  auto result = evolve(toy.space(), toy.cell(), evaluators, limit,
                       {.population = 40, .generations = 30}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->evaluations, count);
  expect_sound(toy, *result, limit);
}

// The worst member leaves only for a fitter child: the k-th best never gets worse.
TEST(EvolveTest, PopulationNeverGetsWorse) {
  Toy toy(space_named("paper"), 3);
  double mean = 0;
  int generations = 0;
  auto progress = [&](const Generation& g) {
    EXPECT_GE(g.mean_accuracy, mean);
    EXPECT_GE(g.best_accuracy, g.mean_accuracy);
    mean = g.mean_accuracy;
    return ++generations < 15;
  };
  auto result = evolve(toy.space(), toy.cell(7), toy.evaluators(), 600, {}, progress);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(generations, 15);  // false ended it
  EXPECT_EQ(result->history.size(), 15u);
  EXPECT_EQ(result->best.size(), 100u);
  for (const Scored& s : result->best) EXPECT_EQ(s.arch.cell, toy.cell(7));
  expect_sound(toy, *result, 600);
}

// Check 22.
TEST(EvolveTest, SameSeedSameResult) {
  Toy toy(space_named("paper"), 3);
  auto run = [&](uint64_t seed) {
    auto result = evolve(toy.space(), toy.cell(), toy.evaluators(), 350,
                         {.population = 30, .generations = 20, .seed = seed}, nullptr);
    CHANAS_CHECK(result.ok()) << result.status();
    return text(toy.space(), *result);
  };
  EXPECT_EQ(run(5), run(5));
  EXPECT_NE(run(5), run(6));
  auto random = [&](uint64_t seed) {
    return text(toy.space(),
                *random_search(toy.space(), toy.cell(), toy.evaluators(), 350, 300, seed));
  };
  EXPECT_EQ(random(5), random(5));
  EXPECT_NE(random(5), random(6));
}

// Check 24: equal evaluations, median of five seeds, on five toys and two limits.
TEST(EvolveTest, AtLeastAsGoodAsRandomSearch) {
  for (uint64_t table = 1; table <= 5; ++table) {
    Toy toy(space_named("paper"), table);
    for (double limit : {250.0, 350.0}) {
      std::vector<double> evolved, random;
      std::vector<double> evolved_best, random_best;
      for (uint64_t seed = 1; seed <= 5; ++seed) {
        auto a = evolve(toy.space(), toy.cell(), toy.evaluators(), limit,
                        {.population = 50, .generations = 40, .seed = seed}, nullptr);
        ASSERT_TRUE(a.ok()) << a.status();
        auto b =
            random_search(toy.space(), toy.cell(), toy.evaluators(), limit, a->evaluations, seed);
        ASSERT_TRUE(b.ok()) << b.status();
        EXPECT_EQ(a->evaluations, b->evaluations);
        expect_sound(toy, *a, limit);
        expect_sound(toy, *b, limit);
        evolved.push_back(a->history.back().hypervolume);
        random.push_back(b->history.back().hypervolume);
        evolved_best.push_back(a->best.front().accuracy);
        random_best.push_back(b->best.front().accuracy);
      }
      EXPECT_GE(median(evolved), median(random)) << "toy " << table << " limit " << limit;
      EXPECT_GT(median(evolved_best), median(random_best)) << "toy " << table << " limit " << limit;
    }
  }
}

TEST(RandomSearchTest, SettlesForFewerWhenTheLimitIsTight) {
  Toy toy(space_named("paper"), 2);
  const double lowest = toy.latency_us(toy.minimum_arch(toy.cell()));
  auto result = random_search(toy.space(), toy.cell(), toy.evaluators(), lowest * 1.0001, 10, 1);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->evaluations, 1);
  expect_sound(toy, *result, lowest * 1.0001);
}

TEST(EvolveTest, RefusesBadOptions) {
  Toy toy(space_named("demo"), 2);
  auto code = [&](EvolutionOptions options, double limit = 500) {
    return evolve(toy.space(), toy.cell(), toy.evaluators(), limit, options, nullptr)
        .status()
        .code();
  };
  EXPECT_EQ(code({.generations = 1}), absl::StatusCode::kOk);
  for (const EvolutionOptions& options :
       {EvolutionOptions{.population = 1}, EvolutionOptions{.generations = -1},
        EvolutionOptions{.parent_ratio = 0}, EvolutionOptions{.parent_ratio = NAN},
        EvolutionOptions{.mutation_share = 1.5}, EvolutionOptions{.mutation_probability = -0.1}}) {
    EXPECT_EQ(code(options), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(code({}, NAN), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(random_search(toy.space(), toy.cell(), toy.evaluators(), 500, 0, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(EvolveTest, EvaluatorThatGivesUpEndsTheSearch) {
  Toy toy(space_named("demo"), 2);
  Evaluators evaluators = toy.evaluators();
  int calls = 0;
  evaluators.accuracy = [&](std::span<const Arch> archs) {
    if (++calls == 3) return std::vector<double>{};
    return toy.evaluators().accuracy(archs);
  };
  EXPECT_EQ(evolve(toy.space(), toy.cell(), evaluators, 500, {}, nullptr).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(calls, 3);
  evaluators.accuracy = [](std::span<const Arch> archs) {
    return std::vector<double>(archs.size(), NAN);
  };
  auto result = evolve(toy.space(), toy.cell(), evaluators, 500, {}, nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(message(result.status())), HasSubstr("nan for r24"));
}

}  // namespace
}  // namespace chanas
