// Statistics of the rank check, on samples whose answer is known.

#include "chanas/pipeline/rank_check.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "chanas/base/rng.h"

namespace chanas {
namespace {

std::vector<RankSample> samples_of(int count, double noise) {
  Rng rng(7);
  std::vector<RankSample> samples;
  for (int i = 0; i < count; ++i) {
    RankSample sample;
    sample.macs = 1e6 * (1 + i);
    sample.params = 1e5 * (count - i);
    sample.truth = 0.5 + 0.01 * i + 0.02 * ((i * 7) % 5);
    sample.supernet = sample.truth - 0.1 + noise * rng.normal();
    samples.push_back(sample);
  }
  return samples;
}

TEST(RankCheckTest, PerfectRanksAreOne) {
  const RankAgreement agreement = rank_agreement(samples_of(30, 0), 1);
  ASSERT_EQ(agreement.bands.size(), size_t{4});
  EXPECT_EQ(agreement.bands[0].networks, 30);
  for (const RankAgreement::Band& band : agreement.bands) {
    EXPECT_NEAR(band.supernet.value, 1, 1e-12) << band.name;
    EXPECT_NEAR(band.supernet.low, 1, 1e-12) << band.name;
  }
  EXPECT_EQ(agreement.bands[1].networks, 10);
  EXPECT_EQ(agreement.bands[1].name, "1.0-10.0M multiply-adds");
  EXPECT_NEAR(agreement.spearman, 1, 1e-12);
  EXPECT_NEAR(agreement.mean_difference, 0.1, 1e-12);
  // Size explains part of it, and parameters run the other way here.
  EXPECT_GT(agreement.bands[0].macs.value, 0.4);
  EXPECT_LT(agreement.bands[0].macs.value, 1);
  EXPECT_NEAR(agreement.bands[0].params.value, -agreement.bands[0].macs.value, 1e-12);
}

TEST(RankCheckTest, IntervalsHoldTheValueAndNarrowWithSamples) {
  const auto wide = rank_agreement(samples_of(12, 0.05), 1).bands[0].supernet;
  const auto narrow = rank_agreement(samples_of(200, 0.05), 1).bands[0].supernet;
  for (const auto& tau : {wide, narrow}) {
    EXPECT_LT(tau.low, tau.value);
    EXPECT_GT(tau.high, tau.value);
  }
  EXPECT_LT(narrow.high - narrow.low, (wide.high - wide.low) / 2);
  EXPECT_EQ(to_json(rank_agreement(samples_of(30, 0.05), 3)),
            to_json(rank_agreement(samples_of(30, 0.05), 3)));
}

TEST(RankCheckTest, RepeatsThatAgreeLessGiveLess) {
  const std::vector<double> rising = {0.1, 0.2, 0.3, 0.4}, falling = {0.4, 0.3, 0.2, 0.1};
  EXPECT_NEAR(repeat_agreement(std::vector{rising, rising, rising}), 1, 1e-12);
  EXPECT_NEAR(repeat_agreement(std::vector{rising, falling}), -1, 1e-12);
  // Pairs: 1, -1, -1.
  EXPECT_NEAR(repeat_agreement(std::vector{rising, rising, falling}), -1.0 / 3, 1e-12);
}

TEST(RankCheckTest, NetworksSpanTheSpaceEvenly) {
  const ArchSpace space = *load_space("cifar-small");
  const std::vector<Arch> archs = stratified_networks(space, 12, 1);
  ASSERT_EQ(archs.size(), size_t{12});
  EXPECT_EQ(archs, stratified_networks(space, 12, 1));
  std::vector<double> sizes;
  for (const Arch& arch : archs) {
    EXPECT_TRUE(validate(space, arch).ok());
    sizes.push_back(static_cast<double>(macs(to_network(space, arch))));
  }
  EXPECT_TRUE(std::is_sorted(sizes.begin(), sizes.end()));
  const double step = (sizes.back() - sizes.front()) / 11;
  for (size_t i = 1; i < sizes.size(); ++i) EXPECT_NEAR(sizes[i] - sizes[i - 1], step, step);
}

}  // namespace
}  // namespace chanas
