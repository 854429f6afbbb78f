#include "chanas/base/stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace chanas {
namespace {

using Values = std::vector<double>;

TEST(Percentile, InterpolatesBetweenNeighbours) {
  const Values values = {40, 10, 30, 20};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 10);
  EXPECT_DOUBLE_EQ(percentile(values, 1), 40);
  EXPECT_DOUBLE_EQ(percentile(values, 0.5), 25);
  EXPECT_DOUBLE_EQ(percentile(values, 0.1), 13);
  EXPECT_DOUBLE_EQ(percentile(values, 0.9), 37);
  EXPECT_DOUBLE_EQ(median({3, 1, 2}), 2);
  EXPECT_DOUBLE_EQ(median({7}), 7);
  EXPECT_DOUBLE_EQ(median({}), 0);
}

TEST(Percentile, OutsideOfTheUnitIntervalIsClamped) {
  EXPECT_DOUBLE_EQ(percentile({1, 2}, -1), 1);
  EXPECT_DOUBLE_EQ(percentile({1, 2}, 2), 2);
}

TEST(Percentile, InfinitiesDoNotTurnIntoNaN) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(percentile({1, inf, inf, inf}, 0.5), inf);
  EXPECT_EQ(percentile({1, 2, 3, inf}, 1.0 / 3), 2);
}

TEST(Mean, OfAFewAndOfNone) {
  EXPECT_DOUBLE_EQ(mean(Values{1, 2, 6}), 3);
  EXPECT_DOUBLE_EQ(mean(Values{}), 0);
}

TEST(KendallTauB, WithoutTies) {
  EXPECT_DOUBLE_EQ(kendall_tau_b(Values{1, 2, 3}, Values{10, 20, 30}), 1);
  EXPECT_DOUBLE_EQ(kendall_tau_b(Values{1, 2, 3}, Values{3, 2, 1}), -1);
  // 7 pairs in order, 3 not: (7 - 3) / 10.
  EXPECT_DOUBLE_EQ(kendall_tau_b(Values{1, 2, 3, 4, 5}, Values{3, 1, 2, 5, 4}), 0.4);
}

TEST(KendallTauB, WithTies) {
  // 4 pairs in order, none against; one pair tied in a, another in b: 4 / sqrt(5 * 5).
  EXPECT_DOUBLE_EQ(kendall_tau_b(Values{1, 2, 2, 3}, Values{1, 3, 2, 3}), 0.8);
  // (0,1) tied in both, (0,2) and (1,2) in order: 2 / sqrt(2 * 2).
  EXPECT_DOUBLE_EQ(kendall_tau_b(Values{1, 1, 2}, Values{5, 5, 6}), 1);
  // In order: (0,2), (0,3), (1,2), (1,3); against: (2,3). (0,1) is tied in a alone:
  // 3 / sqrt(5 * 6).
  EXPECT_DOUBLE_EQ(kendall_tau_b(Values{1, 1, 2, 3}, Values{1, 2, 4, 3}), 3 / std::sqrt(30));
}

TEST(Spearman, WithoutTies) {
  EXPECT_DOUBLE_EQ(spearman(Values{1, 2, 3}, Values{1, 8, 27}), 1);
  // Rank differences -2, 1, 1, -1, 1: 1 - 6 * 8 / (5 * 24).
  EXPECT_DOUBLE_EQ(spearman(Values{1, 2, 3, 4, 5}, Values{3, 1, 2, 5, 4}), 0.6);
}

TEST(Spearman, WithTies) {
  // Ranks 1, 2.5, 2.5, 4 and 1, 3.5, 2, 3.5: 3.75 / 4.5.
  EXPECT_DOUBLE_EQ(spearman(Values{1, 2, 2, 3}, Values{1, 3, 2, 3}), 3.75 / 4.5);
}

TEST(Pearson, OfAFewPoints) {
  EXPECT_DOUBLE_EQ(pearson(Values{1, 2, 3}, Values{2, 4, 6}), 1);
  EXPECT_DOUBLE_EQ(pearson(Values{1, 2, 3}, Values{6, 4, 2}), -1);
  // Deviations -1, 0, 1 and -1/3, -4/3, 5/3: 2 / sqrt(2 * 14/3).
  EXPECT_DOUBLE_EQ(pearson(Values{1, 2, 3}, Values{1, 0, 3}), 2 / std::sqrt(28.0 / 3));
}

TEST(Correlations, ConstantOrShortIsZero) {
  for (const auto correlation : {kendall_tau_b, spearman, pearson}) {
    EXPECT_EQ(correlation(Values{}, Values{}), 0);
    EXPECT_EQ(correlation(Values{1}, Values{2}), 0);
    // The mean of these is not 0.1, so that their variance is not 0.
    EXPECT_EQ(correlation(Values{0.1, 0.1, 0.1}, Values{1, 2, 3}), 0);
    EXPECT_EQ(correlation(Values{1, 2, 3}, Values{0.1, 0.1, 0.1}), 0);
  }
}

TEST(Errors, OfPredictions) {
  const Values predicted = {90, 220, 300}, measured = {100, 200, 300};
  EXPECT_NEAR(mean_absolute_percentage_error(predicted, measured), 0.2 / 3, 1e-15);
  EXPECT_DOUBLE_EQ(hit_rate(predicted, measured, 0.1), 1);
  EXPECT_DOUBLE_EQ(hit_rate(predicted, measured, 0.05), 1.0 / 3);
  EXPECT_DOUBLE_EQ(mean_absolute_percentage_error(Values{}, Values{}), 0);
  EXPECT_DOUBLE_EQ(hit_rate(Values{}, Values{}, 0.1), 0);
}

TEST(StatsDeathTest, SizesMustAgree) {
  EXPECT_DEATH(kendall_tau_b(Values{1}, Values{1, 2}), "1 against 2 values");
  EXPECT_DEATH(hit_rate(Values{1}, Values{1, 2}, 0), "check failed");
}

}  // namespace
}  // namespace chanas
