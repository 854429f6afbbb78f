// Channel sorting: what has to stay stays, and the order is that of importance.

#include "chanas/supernet/sorting.h"

#include <gtest/gtest.h>

#include <cmath>

#include "chanas/base/rng.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

using testing_supernet::random_batch;

// Widths that nest, a residual in the first block that ties it to the stem's channels, SE, and a
// stride-1 block of other width.
ArchSpace wide_space() {
  return testing_supernet::space_of("wide", R"(
    classes = 5
    resolutions = [12, 16]
    widths = [1.0, 1.5, 2.0]
    kernels = [3, 5]
    expands = [2, 3, 4]
    depths = [1, 2]
    stem = { channels = 8, stride = 1, act = "hswish" }
    first = { channels = 8, act = "relu" }
    blocks = [
      { channels = 8, act = "relu" },
      { channels = 16, stride = 2, se = true, act = "hswish" },
      { channels = 24, se = true, act = "relu" },
    ]
    head = { channels = 32, mix = 40, act = "hswish", dropout = 0.0 }
  )");
}

class SortingTest : public testing::Test {
 protected:
  SortingTest() : supernet_(space_, 1, true) {
    Rng rng(3);
    for (float& value : supernet_.values()) value += static_cast<float>(0.1 * rng.normal());
  }
  void sort(const ArchSpace& trained) {
    sort_channels(trained, supernet_.parameters(), supernet_.values());
  }
  std::vector<float> logits(const Arch& arch) { return supernet_.batch_logits(arch, batch_); }
  static double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0, scale = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
      scale = std::max(scale, std::abs(double{b[i]}));
    }
    return most / scale;
  }

  const ArchSpace space_ = wide_space();
  Supernet supernet_;
  const Batch batch_ = [] {
    Batch batch = random_batch(8, 12, 5, 2);
    batch.images.merge(random_batch(8, 16, 5, 3).images);
    return batch;
  }();
};

// Also every kernel and depth at full width and ratio.
TEST_F(SortingTest, LargestNetworkStays) {
  ArchSpace trained = space_;
  trained.widths = {2.0};
  trained.expands = {4};
  Rng rng(4);
  std::vector<Arch> archs = {largest(space_)};
  for (int i = 0; i < 5; ++i) archs.push_back(sample(trained, {12, 2.0}, rng));
  const Arch narrow = largest(space_, {12, 1.0}), least = smallest(space_);
  std::vector<std::vector<float>> before;
  for (const Arch& arch : archs) before.push_back(logits(arch));
  const std::vector<float> narrow_before = logits(narrow), least_before = logits(least);
  const std::vector<float> values(supernet_.values().begin(), supernet_.values().end());
  sort(trained);
  for (size_t i = 0; i < archs.size(); ++i) {
    EXPECT_LT(difference(logits(archs[i]), before[i]), 1e-5) << arch_id(space_, archs[i]);
  }
  // Others are other networks now.
  EXPECT_GT(difference(logits(narrow), narrow_before), 1e-2);
  EXPECT_GT(difference(logits(least), least_before), 1e-2);
  // Sorted is sorted.
  const std::vector<float> once(supernet_.values().begin(), supernet_.values().end());
  EXPECT_NE(once, values);
  sort(trained);
  EXPECT_EQ(std::vector<float>(supernet_.values().begin(), supernet_.values().end()), once);
}

TEST_F(SortingTest, TrainedNetworksStay) {
  ArchSpace trained = space_;
  trained.widths = {1.5, 2.0};
  trained.expands = {3, 4};
  Rng rng(4);
  std::vector<Arch> archs;
  std::vector<std::vector<float>> before;
  for (int i = 0; i < 8; ++i) {
    archs.push_back(sample(trained, {12, rng.choose(trained.widths)}, rng));
    before.push_back(logits(archs.back()));
  }
  sort(trained);
  for (size_t i = 0; i < archs.size(); ++i) {
    EXPECT_LT(difference(logits(archs[i]), before[i]), 1e-5) << arch_id(space_, archs[i]);
  }
}

TEST_F(SortingTest, ImportantChannelsComeFirst) {
  ArchSpace trained = space_;
  trained.widths = {2.0};
  trained.expands = {3, 4};
  sort(trained);
  for (const Supernet::Parameter& p : supernet_.parameters()) {
    // Inner channels are read by the projection alone. Unit 0 has none of its own.
    if (p.name != "units.3.project.conv.weight") continue;
    const int64_t channels = p.shape[1];
    std::vector<double> importance(static_cast<size_t>(channels));
    for (size_t i = 0; i < p.size; ++i) {
      importance[i % importance.size()] += std::abs(double{supernet_.values()[p.offset + i]});
    }
    const size_t kept = importance.size() * 3 / 4;  // ratio 3 of 4
    EXPECT_TRUE(std::is_sorted(importance.begin(), importance.begin() + kept, std::greater<>()));
    EXPECT_TRUE(std::is_sorted(importance.begin() + kept, importance.end(), std::greater<>()));
    EXPECT_FALSE(std::is_sorted(importance.begin(), importance.end(), std::greater<>()));
  }
}

TEST_F(SortingTest, ResidualPartnersAreOneGroup) {
  for (const ChannelGroup& group : channel_groups(space_)) {
    const auto has = [&](const std::string& name, int dimension) {
      return std::any_of(group.axes.begin(), group.axes.end(), [&](const auto& axis) {
        return axis.parameter == name && axis.dimension == dimension;
      });
    };
    // Stem, first unit and the first block add to each other all the way.
    EXPECT_EQ(has("stem.conv.weight", 0), has("units.2.project.conv.weight", 0));
    EXPECT_EQ(has("units.3.project.conv.weight", 0), has("units.4.project.conv.weight", 0));
    EXPECT_EQ(has("units.6.project.conv.weight", 0), has("head.conv.weight", 1));
    if (has("classifier.weight", 1)) {
      EXPECT_EQ(group.counts, (std::vector<int64_t>{40, 64, 80}));
    }
  }
}

}  // namespace
}  // namespace chanas
