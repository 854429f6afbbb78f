#include "chanas/base/rng.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

namespace chanas {
namespace {

using testing::ElementsAre;

std::vector<uint64_t> draw(Rng rng, int count) {
  std::vector<uint64_t> values;
  for (int i = 0; i < count; ++i) values.push_back(rng.next());
  return values;
}

// The golden values come from an implementation of the published algorithms apart from this one.
// They must never change: runs that were recorded with a seed would no longer repeat.
TEST(RngGolden, Seeded) {
  EXPECT_THAT(draw(Rng(42), 4), ElementsAre(0x15780b2e0c2ec716u, 0x6104d9866d113a7eu,
                                            0xae17533239e499a1u, 0xecb8ad4703b360a1u));
  EXPECT_THAT(draw(Rng(0), 2), ElementsAre(0x99ec5f36cb75f2b4u, 0xbf6e1f784956452au));
}

TEST(RngGolden, Named) {
  EXPECT_THAT(draw(Rng(7, "mutate", 3), 3),
              ElementsAre(0xeb9de50d386a069bu, 0x94e293b65cc55efcu, 0x34c0f332ac3714c8u));
  EXPECT_EQ(Rng(7, "mutate").next(), 0xea1fd7d7185d334bu);
}

TEST(RngGolden, UniformIntegers) {
  Rng rng(42);
  std::vector<uint64_t> values;
  for (int i = 0; i < 12; ++i) values.push_back(rng.uniform(10));
  EXPECT_THAT(values, ElementsAre(0, 3, 6, 9, 9, 7, 7, 8, 7, 5, 6, 2));
}

// Half of all draws are rejected at this range: the slow path.
TEST(RngGolden, UniformIntegersWithRejection) {
  Rng rng(5);
  std::vector<uint64_t> values;
  for (int i = 0; i < 4; ++i) values.push_back(rng.uniform((uint64_t{1} << 63) + 1));
  EXPECT_THAT(values, ElementsAre(2660124057020295092u, 5553229355294069358u, 5991011151194742231u,
                                  7458586743318756548u));
}

TEST(RngGolden, Reals) {
  Rng rng(42);
  EXPECT_EQ(rng.uniform01(), 0x1.5780b2e0c2ec0p-4);
  EXPECT_EQ(rng.uniform01(), 0x1.84136619b444ep-2);
  EXPECT_EQ(rng.uniform01(), 0x1.5c2ea66473c93p-1);
}

TEST(RngGolden, Normals) {
  Rng rng(42);
  const double expected[] = {-0x1.612a0a2b75e99p+0, -0x1.3b8e5325b8c11p-2, 0x1.df0c41cc55bfdp-2,
                             0x1.6ff732d52bb61p+0,  0x1.33355276ffe49p+1,  0x1.79d9b4b979082p-1};
  for (const double value : expected) EXPECT_EQ(rng.normal(), value);
}

TEST(RngGolden, Shuffle) {
  Rng rng(9);
  std::vector<int> items(10);
  std::iota(items.begin(), items.end(), 0);
  rng.shuffle(items);
  EXPECT_THAT(items, ElementsAre(4, 9, 7, 8, 3, 6, 5, 1, 2, 0));
}

TEST(Rng, StreamsDifferBySeedNameAndIndex) {
  std::set<uint64_t> firsts;
  for (const uint64_t seed : {0u, 1u, 2u}) {
    firsts.insert(Rng(seed).next());
    for (const char* name : {"", "a", "b"}) {
      for (const uint64_t index : {0u, 1u, 2u}) firsts.insert(Rng(seed, name, index).next());
    }
  }
  EXPECT_EQ(firsts.size(), 3u * (1 + 3 * 3));
}

TEST(Rng, CopyAndStateContinueTheStream) {
  Rng rng(1);
  rng.next();
  const Rng copy = rng;
  Rng restored(99);
  restored.set_state(rng.state());
  EXPECT_EQ(draw(rng, 10), draw(copy, 10));
  EXPECT_EQ(draw(rng, 10), draw(restored, 10));
}

TEST(Rng, ForkIsAStreamOfItsOwn) {
  Rng rng(1), again(1);
  Rng fork = rng.fork();
  EXPECT_NE(draw(fork, 4), draw(rng, 4));
  EXPECT_EQ(draw(fork, 4), draw(again.fork(), 4));
}

TEST(Rng, UniformCoversItsRangeEvenly) {
  Rng rng(3);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[rng.uniform(7)];
  // Five standard deviations of a binomial (70000, 1/7).
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * 93);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(rng.uniform(1), 0u);
}

TEST(Rng, UniformIntIncludesBothEnds) {
  Rng rng(4);
  std::set<int64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(rng.uniform_int(-2, 2));
  EXPECT_THAT(seen, ElementsAre(-2, -1, 0, 1, 2));
  EXPECT_EQ(rng.uniform_int(5, 5), 5);
  constexpr int64_t kLow = std::numeric_limits<int64_t>::min();
  constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();
  bool negative = false, positive = false;
  for (int i = 0; i < 100; ++i) (rng.uniform_int(kLow, kHigh) < 0 ? negative : positive) = true;
  EXPECT_TRUE(negative && positive);
}

TEST(Rng, RealsStayInRange) {
  Rng rng(5);
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const double value = rng.uniform01();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 5 * 0.2887 / std::sqrt(100000));
  const double real = rng.uniform_real(-3, -2);
  EXPECT_TRUE(real >= -3 && real < -2);
}

TEST(Rng, NormalHasTheRightMomentsAndTails) {
  Rng rng(6);
  constexpr int kCount = 200000;
  double sum = 0, squares = 0, fourth = 0;
  int beyond_two = 0;
  for (int i = 0; i < kCount; ++i) {
    const double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    beyond_two += std::fabs(x) > 2;
  }
  const double root = std::sqrt(kCount);
  EXPECT_NEAR(sum / kCount, 0, 5 / root);
  EXPECT_NEAR(squares / kCount, 1, 5 * std::sqrt(2) / root);
  EXPECT_NEAR(fourth / kCount, 3, 5 * std::sqrt(96) / root);
  EXPECT_NEAR(beyond_two / double{kCount}, 0.0455003, 5 * std::sqrt(0.0455 * 0.9545) / root);
}

TEST(Rng, BernoulliAtItsEnds) {
  Rng rng(7);
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(rng.bernoulli(0));
    EXPECT_TRUE(rng.bernoulli(1));
  }
}

TEST(Rng, ChooseReachesEveryItem) {
  Rng rng(8);
  const std::vector<int> items = {3, 1, 2};
  std::set<int> seen;
  for (int i = 0; i < 100; ++i) seen.insert(rng.choose(items));
  EXPECT_EQ(seen.size(), 3u);
}

TEST(RngDeathTest, Misuse) {
  Rng rng(1);
  EXPECT_DEATH(rng.uniform(0), "check failed: n > 0");
  EXPECT_DEATH(rng.uniform_int(2, 1), "low <= high");
  EXPECT_DEATH(rng.choose(std::vector<int>{}), "n > 0");
  // A stream of zeros for ever.
  EXPECT_DEATH(rng.set_state({0, 0, 0, 0}), "check failed");
}

}  // namespace
}  // namespace chanas
