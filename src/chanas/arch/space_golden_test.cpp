// The elastic spaces against the figures of an independent counter (MACs and parameters in millions
// at the digits shown, counts exact).

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "chanas/arch/space.h"
#include "chanas/arch/testing.h"

namespace chanas {
namespace {

void expect_macs(const ArchSpace& space, const SubSpace& cell, double low, double high) {
  EXPECT_NEAR(macs(to_network(space, smallest(space, cell))) / 1e6, low, 0.005) << describe(cell);
  EXPECT_NEAR(macs(to_network(space, largest(space, cell))) / 1e6, high, 0.005) << describe(cell);
}

void expect_params(const ArchSpace& space, const SubSpace& cell, double low, double high) {
  EXPECT_NEAR(params(to_network(space, smallest(space, cell))) / 1e6, low, 0.0005);
  EXPECT_NEAR(params(to_network(space, largest(space, cell))) / 1e6, high, 0.0005);
}

TEST(PaperSpace, SmallestAndLargestNetworks) {
  ArchSpace paper = space_of("paper");
  expect_macs(paper, {224, 1.0}, 121.28, 566.17);
  expect_params(paper, {224, 1.0}, 3.411, 7.665);
  expect_macs(paper, {160, 1.0}, 63.24, 291.32);
  expect_macs(paper, {224, 1.2}, 193.08, 843.10);
  expect_params(paper, {224, 1.2}, 4.602, 10.702);
  expect_macs(paper, {224, 1.3}, 213.37, 932.33);
  expect_params(paper, {224, 1.3}, 5.249, 12.260);
}

TEST(PaperSpace, ChannelsPerWidth) {
  ArchSpace paper = space_of("paper");
  const std::vector<std::vector<int>> expected = {
      {16, 16, 24, 40, 80, 112, 160, 960, 1280},
      {16, 16, 24, 48, 88, 120, 176, 1056, 1408},
      {24, 24, 32, 48, 96, 136, 192, 1152, 1536},
      {24, 24, 32, 56, 104, 144, 208, 1248, 1664},
  };
  for (size_t w = 0; w < paper.widths.size(); ++w) {
    Network network = to_network(paper, smallest(paper, {224, paper.widths[w]}));
    std::vector<int> channels = {network.stem.c_out};
    for (const Unit& unit : network.units) {
      // The first unit once, and one of the two units that each block keeps.
      bool later = unit.stride == 1 && unit.c_in == unit.c_out && channels.size() > 1;
      if (!later) channels.push_back(unit.c_out);
    }
    channels.push_back(network.head.conv_channels);
    channels.push_back(network.head.mix_channels);
    EXPECT_EQ(channels, expected[w]) << "width " << paper.widths[w];
  }
}

TEST(PaperSpace, SqueezeAndExciteShareOfTheLargestNetwork) {
  ArchSpace paper = space_of("paper");
  int64_t with = 0, without = 0;
  for (Unit unit : to_network(paper, largest(paper, {224, 1.0})).units) {
    with += macs(unit);
    unit.se_channels = 0;
    without += macs(unit);
  }
  EXPECT_NEAR((with - without) / 1e6, 2.50, 0.005);
}

TEST(PaperSpace, Size) {
  ArchSpace paper = space_of("paper");
  EXPECT_EQ(paper.cells().size(), 20u);
  EXPECT_EQ(paper.blocks.size() * paper.max_depth(), 20u);
  EXPECT_NEAR(std::pow(10, log10_size(paper) / 5), 7371, 1e-6);
  EXPECT_NEAR(std::pow(10, log10_size(paper) - 19), 2.176, 0.0005);
}

TEST(PaperSpace, ElasticUnitKeys) {
  ArchSpace paper = space_of("paper");
  std::set<std::string> keys;
  for (const SubSpace& cell : paper.cells()) {
    std::vector<Unit> units = elastic_units(paper, cell);
    EXPECT_EQ(units.size(), 90u) << describe(cell);
    for (const Unit& unit : units) keys.insert(unit_key(unit));
  }
  EXPECT_EQ(keys.size(), 1503u);
}

TEST(PaperSpace, EncodingSize) {
  ArchSpace paper = space_of("paper");
  EXPECT_EQ(encoding_size(paper), 129);
  EXPECT_EQ(encoding_size(paper) - static_cast<int>(paper.widths.size()), 125);
}

TEST(CifarSpace, SmallestAndLargestNetworks) {
  ArchSpace cifar = space_of("cifar");
  expect_macs(cifar, {32, 1.0}, 35.29, 179.71);
  expect_params(cifar, {32, 1.0}, 2.143, 6.397);
  EXPECT_EQ(to_network(cifar, smallest(cifar)).units.back().h_out(), 3);
  EXPECT_EQ(to_network(cifar, largest(cifar)).units.back().h_out(), 4);
}

TEST(SmallImageStrides, OtherPublishedVariants) {
  ArchSpace space = space_of("cifar");
  // Strides of stem, first unit and blocks; smallest and largest MACs in millions at 32 x 32.
  struct Variant {
    std::vector<int> strides;
    double low, high;
  };
  for (const Variant& variant :
       {Variant{{1, 1, 2, 2, 2, 1, 2}, 11.2, 49.6}, Variant{{1, 1, 1, 2, 2, 1, 1}, 53.0, 244.8}}) {
    space.stem_stride = variant.strides[0];
    space.first_stride = variant.strides[1];
    for (size_t b = 0; b < 5; ++b) space.blocks[b].stride = variant.strides[b + 2];
    ASSERT_TRUE(validate(space).ok());
    EXPECT_NEAR(macs(to_network(space, smallest(space, {32, 1.0}))) / 1e6, variant.low, 0.05);
    EXPECT_NEAR(macs(to_network(space, largest(space, {32, 1.0}))) / 1e6, variant.high, 0.05);
  }
}

}  // namespace
}  // namespace chanas
