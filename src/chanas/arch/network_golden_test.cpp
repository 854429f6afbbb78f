// Published networks against figures from an independent counter (testdata/units.csv, one row per
// layer group) and the totals that their authors state.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

#include "chanas/arch/network.h"
#include "chanas/arch/testing.h"

namespace chanas {
namespace {

// One line of units.csv by column name; empty cells are "".
using Row = std::map<std::string, std::string>;

int number(const Row& row, const std::string& column) {
  const std::string& text = row.at(column);
  return text.empty() ? 0 : std::stoi(text);
}

std::map<std::string, std::vector<Row>> read_rows() {
  std::ifstream file(CHANAS_SOURCE_DIR "/src/chanas/arch/testdata/units.csv");
  std::map<std::string, std::vector<Row>> networks;
  std::vector<std::string> columns;
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> cells;
    std::istringstream stream(line + ",");
    for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
    if (columns.empty()) {
      columns = cells;
      continue;
    }
    Row row;
    for (size_t i = 0; i < columns.size(); ++i) row[columns[i]] = cells.at(i);
    networks[row["network"]].push_back(row);
  }
  return networks;
}

std::string code_of(Activation act) {
  return act == Activation::kRelu ? "RE" : act == Activation::kRelu6 ? "R6" : "HS";
}

Arch paper_arch(double width, int depth, int kernel, int expand) {
  Arch arch = smallest(space_of("paper"), {224, width});
  std::fill(arch.depth.begin(), arch.depth.end(), depth);
  std::fill(arch.units.begin(), arch.units.end(), UnitGene{kernel, expand});
  return arch;
}

Network network_named(const std::string& name) {
  ArchSpace paper = space_of("paper");
  if (name == "ofa_w1.0_d4_k3_e3") return to_network(paper, paper_arch(1.0, 4, 3, 3));
  if (name == "ofa_w1.0_min_d2_k3_e3") return to_network(paper, smallest(paper, {224, 1.0}));
  if (name == "ofa_w1.0_max_d4_k7_e6") return to_network(paper, largest(paper, {224, 1.0}));
  return network_of(name);
}

TEST(UnitsTable, EveryRowOfTenNetworks) {
  auto networks = read_rows();
  ASSERT_EQ(networks.size(), 10u);
  for (const auto& [name, rows] : networks) {
    Network network = network_named(name);
    int64_t total_macs = 0, total_params = 0;
    size_t next = 0;
    for (const Row& row : rows) {
      SCOPED_TRACE(name + " row " + row.at("index"));
      total_macs += number(row, "macs");
      total_params += number(row, "params");
      if (row.at("op") != "mbconv") continue;
      ASSERT_LT(next, network.units.size());
      const Unit& unit = network.units[next++];
      EXPECT_EQ(unit.h_in, number(row, "h_in"));
      EXPECT_EQ(unit.c_in, number(row, "c_in"));
      EXPECT_EQ(unit.c_mid, number(row, "c_mid"));
      EXPECT_EQ(unit.c_out, number(row, "c_out"));
      EXPECT_EQ(unit.kernel, number(row, "kernel"));
      EXPECT_EQ(unit.stride, number(row, "stride"));
      EXPECT_EQ(unit.expand, number(row, "expand_conv") == 1);
      EXPECT_EQ(unit.se_channels, number(row, "se_channels"));
      if (unit.se_channels > 0) {
        EXPECT_EQ(activation_name(unit.se_gate), row.at("se_gate"));
      }
      EXPECT_EQ(code_of(unit.act), row.at("act"));
      EXPECT_EQ(unit.residual, number(row, "residual") == 1);
      EXPECT_EQ(unit.h_out(), number(row, "h_out"));
      EXPECT_EQ(macs(unit), number(row, "macs"));
      EXPECT_EQ(params(unit), number(row, "params"));
    }
    EXPECT_EQ(next, network.units.size()) << name;
    EXPECT_EQ(macs(network), total_macs) << name;
    EXPECT_EQ(params(network), total_params) << name;
  }
}

TEST(MakeDivisible, RoundsLikeMobileNetV3) {
  EXPECT_EQ(make_divisible(17.6), 16);
  EXPECT_EQ(make_divisible(26.4), 24);
  EXPECT_EQ(make_divisible(52), 56);
  EXPECT_EQ(make_divisible(123.2), 120);
  EXPECT_EQ(make_divisible(145.6), 144);
}

// Millions at the digits that are published.
struct Published {
  const char* name;
  double macs, macs_digit;
  double params, params_digit;
};

class PublishedNetworks : public testing::TestWithParam<Published> {};

TEST_P(PublishedNetworks, MacsAndParams) {
  Network network = network_of(GetParam().name);
  EXPECT_NEAR(macs(network) / 1e6, GetParam().macs, GetParam().macs_digit / 2);
  EXPECT_NEAR(params(network) / 1e6, GetParam().params, GetParam().params_digit / 2);
}

INSTANTIATE_TEST_SUITE_P(Zoo, PublishedNetworks,
                         testing::Values(Published{"mobilenet_v3_large", 216.6, 0.1, 5.483, 0.001},
                                         Published{"mnasnet_a1", 311.6, 0.1, 3.887, 0.001},
                                         Published{"mnasnet_b1", 314.4, 0.1, 4.383, 0.001},
                                         Published{"fbnet_c", 378.1, 0.1, 5.571, 0.001},
                                         Published{"proxyless_mobile", 320.4, 0.1, 4.081, 0.001},
                                         Published{"proxyless_cpu", 439.2, 0.1, 4.362, 0.001},
                                         Published{"proxyless_gpu", 465.3, 0.1, 7.120, 0.001},
                                         Published{"ofa_d4_e3_k3", 226.2, 0.1, 4.372, 0.001},
                                         Published{"ofa_w1.2_max", 843.10, 0.01, 10.702, 0.001}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(MobileNetV3, ExactTotals) {
  Network network = network_of("mobilenet_v3_large");
  EXPECT_EQ(macs(network), 216589760);
  EXPECT_EQ(params(network), 5483032);
}

TEST(FbnetC, WithExpandConvolutionsItIsThePapers385M) {
  Network network = network_of("fbnet_c");
  for (Unit& unit : network.units) unit.expand = true;
  ASSERT_TRUE(validate(network).ok());
  EXPECT_NEAR(macs(network) / 1e6, 385.0, 0.05);
}

TEST(OfaNetworks, AreTheSpacesOwn) {
  ArchSpace paper = space_of("paper");
  Network small = to_network(paper, paper_arch(1.0, 4, 3, 3));
  small.name = "ofa_d4_e3_k3";
  EXPECT_EQ(network_of("ofa_d4_e3_k3"), small);
  Network large = to_network(paper, largest(paper, {224, 1.2}));
  large.name = "ofa_w1.2_max";
  EXPECT_EQ(network_of("ofa_w1.2_max"), large);
}

}  // namespace
}  // namespace chanas
