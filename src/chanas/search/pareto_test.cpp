// Fronts and hypervolumes against brute force.

#include <gtest/gtest.h>

#include <algorithm>

#include "chanas/search/testing_toy.h"

namespace chanas {
namespace {

// Few distinct values, so that ties in latency, in accuracy and in both occur.
std::vector<Scored> random_points(const ArchSpace& space, int count, Rng& rng) {
  std::vector<Scored> points;
  for (int i = 0; i < count; ++i) {
    points.push_back({canonical(space, sample(space, space.cells().front(), rng)),
                      0.1 * static_cast<double>(rng.uniform(10)),
                      static_cast<double>(rng.uniform(12))});
  }
  return points;
}

bool dominates(const Scored& a, const Scored& b) {
  return a.latency_us <= b.latency_us && a.accuracy >= b.accuracy &&
         (a.latency_us < b.latency_us || a.accuracy > b.accuracy);
}

TEST(ParetoFrontTest, EqualsBruteForce) {
  ArchSpace space = space_named("demo");
  Rng rng(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<Scored> points = random_points(space, static_cast<int>(rng.uniform(30)), rng);
    std::vector<Scored> front = pareto_front(space, points);
    for (size_t i = 1; i < front.size(); ++i) {
      EXPECT_LT(front[i - 1].latency_us, front[i].latency_us);
      EXPECT_LT(front[i - 1].accuracy, front[i].accuracy);
    }
    for (const Scored& point : points) {
      const bool dominated = std::any_of(points.begin(), points.end(),
                                         [&](const Scored& p) { return dominates(p, point); });
      const auto twin = std::find_if(front.begin(), front.end(), [&](const Scored& p) {
        return p.latency_us == point.latency_us && p.accuracy == point.accuracy;
      });
      EXPECT_EQ(twin == front.end(), dominated);
      if (twin != front.end()) {
        EXPECT_LE(arch_id(space, twin->arch), arch_id(space, point.arch));
      }
    }
    std::vector<Scored> shuffled = points;
    rng.shuffle(shuffled);
    std::vector<Scored> again = pareto_front(space, shuffled);
    ASSERT_EQ(again.size(), front.size());
    for (size_t i = 0; i < front.size(); ++i) EXPECT_EQ(again[i].arch, front[i].arch);
  }
}

TEST(HypervolumeTest, EqualsCountingUnitCells) {
  ArchSpace space = space_named("demo");
  Rng rng(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<Scored> points = random_points(space, static_cast<int>(rng.uniform(12)), rng);
    const int reference = static_cast<int>(rng.uniform(14));
    // Points lie on a grid of 1 us x 0.1: count the grid cells that some point dominates.
    int covered = 0;
    for (int x = 0; x < reference; ++x) {
      for (int y = 0; y < 10; ++y) {
        covered += std::any_of(points.begin(), points.end(), [&](const Scored& p) {
          return p.latency_us <= x && p.accuracy > 0.1 * y + 0.05;
        });
      }
    }
    EXPECT_NEAR(hypervolume(pareto_front(space, points), reference), 0.1 * covered, 1e-9);
  }
}

TEST(HypervolumeTest, IgnoresNegativeAccuracy) {
  EXPECT_EQ(hypervolume({{{}, -0.5, 1}, {{}, 0.5, 3}}, 5), 1.0);
  EXPECT_EQ(hypervolume({}, 5), 0.0);
}

}  // namespace
}  // namespace chanas
