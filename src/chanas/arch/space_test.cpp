#include "chanas/arch/space.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/arch/testing.h"
#include "chanas/base/file.h"

namespace chanas {
namespace {

TEST(Spaces, AreListedAndValid) {
  EXPECT_EQ(space_names(),
            (std::vector<std::string>{"cifar", "cifar-medium", "cifar-small", "demo", "paper"}));
  for (const std::string& name : space_names()) {
    ArchSpace space = space_of(name);
    EXPECT_EQ(space.name, name);
    EXPECT_TRUE(validate(space).ok()) << validate(space);
    EXPECT_TRUE(validate(to_network(space, smallest(space))).ok());
  }
}

// The id of a large space's network is longer than a file name may be.
TEST(Spaces, NamesOfManyUnitsStayShort) {
  ArchSpace space = space_of("cifar");
  space.depths = {8, 16};
  space.blocks.resize(15, space.blocks.back());
  for (BlockSpec& block : space.blocks) block.stride = 1;
  ASSERT_TRUE(validate(space).ok()) << validate(space);
  Arch a = largest(space), b = a;
  b.units.back().kernel = space.kernels.front();
  EXPECT_GT(arch_id(space, a).size(), kMaxNameLength);
  EXPECT_LE(to_network(space, a).name.size(), kMaxNameLength);
  EXPECT_NE(to_network(space, a).name, to_network(space, b).name);
}

TEST(Spaces, JsonRoundTrip) {
  for (const std::string& name : space_names()) {
    ArchSpace space = space_of(name);
    StatusOr<Json> text = parse_json(to_json(space).dump());
    ASSERT_TRUE(text.ok());
    StatusOr<ArchSpace> back = space_from_json(*text);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(to_json(*back), to_json(space));
    EXPECT_EQ(space_fingerprint(*back), space_fingerprint(space));
    for (const SubSpace& cell : space.cells()) {
      EXPECT_EQ(to_network(*back, largest(*back, cell)), to_network(space, largest(space, cell)));
    }
  }
}

TEST(Spaces, FingerprintIsOfTheContents) {
  ArchSpace space = space_of("demo");
  std::string fingerprint = space_fingerprint(space);
  EXPECT_EQ(fingerprint.size(), 16u);
  space.name = "renamed";
  EXPECT_EQ(space_fingerprint(space), fingerprint);
  space.blocks[1].se = true;
  EXPECT_NE(space_fingerprint(space), fingerprint);
}

TEST(Spaces, CellsAreResolutionMajor) {
  EXPECT_EQ(space_of("demo").cells(),
            (std::vector<SubSpace>{{24, 1.0}, {24, 1.1}, {32, 1.0}, {32, 1.1}}));
  EXPECT_EQ(describe(SubSpace{192, 1.2}), "r192 w1.2");
  EXPECT_EQ(describe(SubSpace{224, 1}), "r224 w1.0");
}

TEST(LoadSpace, ByPathAndByName) {
  TemporaryFolder folder("chanas-arch");
  std::string path = join_path(folder.path(), "mine.toml");
  StatusOr<std::string> text = read_file(CHANAS_SOURCE_DIR "/spaces/demo.toml");
  ASSERT_TRUE(text.ok()) << text.status();
  ASSERT_TRUE(write_file_atomic(path, *text).ok());
  StatusOr<ArchSpace> space = load_space(path);
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(space->name, "mine");
  EXPECT_EQ(space_fingerprint(*space), space_fingerprint(space_of("demo")));

  Status unknown = load_space("demoo").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(
      unknown.message(),
      "no space is called \"demoo\", did you mean \"demo\"?; built in are cifar, cifar-medium, "
      "cifar-small, demo, paper; anything else is the path of a .toml file");
}

// Every unit of every network is in the list, and the list holds nothing else.
TEST(DistinctUnits, AreExactlyThoseOfTheNetworks) {
  for (const char* name : {"demo", "cifar-small"}) {
    ArchSpace space = space_of(name);
    std::set<std::string> listed, met;
    for (const Unit& unit : distinct_units(space)) {
      EXPECT_TRUE(validate(unit).ok());
      EXPECT_TRUE(listed.insert(unit_key(unit)).second) << unit_key(unit);
    }
    Rng rng(1);
    for (const SubSpace& cell : space.cells()) {
      std::set<std::string> of_cell;
      for (const Unit& unit : distinct_units(space, cell)) of_cell.insert(unit_key(unit));
      for (int i = 0; i < 1000; ++i) {
        for (const Unit& unit : to_network(space, sample(space, cell, rng)).units) {
          met.insert(unit_key(unit));
          EXPECT_TRUE(of_cell.contains(unit_key(unit))) << unit_key(unit);
        }
      }
    }
    EXPECT_EQ(met, listed);
  }
}

TEST(ElasticUnit, IsTheUnitOfTheNetwork) {
  for (const std::string& name : space_names()) {
    ArchSpace space = space_of(name);
    Rng rng(2);
    for (const SubSpace& cell : space.cells()) {
      Arch arch = sample(space, cell, rng);
      Network network = to_network(space, arch);
      size_t next = space.first_channels > 0 ? 1 : 0;
      for (size_t b = 0; b < arch.depth.size(); ++b) {
        for (int u = 0; u < arch.depth[b]; ++u) {
          const UnitGene& gene = arch.units[b * space.max_depth() + u];
          EXPECT_EQ(network.units[next++],
                    elastic_unit(space, cell, static_cast<int>(b), u > 0, gene));
        }
      }
      EXPECT_EQ(next, network.units.size());
    }
  }
}

// What the tuning and training budgets of these two spaces were planned for.
TEST(SmallSpaces, StayCheapToTuneAndTrain) {
  ArchSpace demo = space_of("demo");
  EXPECT_EQ(distinct_units(demo).size(), 66u);
  EXPECT_LT(macs(to_network(demo, smallest(demo))), 400'000);
  EXPECT_GT(macs(to_network(demo, largest(demo))), 2'000'000);
  EXPECT_LT(macs(to_network(demo, largest(demo))), 4'000'000);
  ArchSpace cifar = space_of("cifar-small");
  EXPECT_EQ(distinct_units(cifar).size(), 74u);
  EXPECT_LT(macs(to_network(cifar, smallest(cifar))), 1'000'000);
  EXPECT_GT(macs(to_network(cifar, largest(cifar))), 5'000'000);
  EXPECT_LT(macs(to_network(cifar, largest(cifar))), 6'000'000);
}

TEST(ToNetwork, RatioOneDropsTheExpandConvolution) {
  ArchSpace space = space_of("demo");
  space.expands = {1, 3};
  ASSERT_TRUE(validate(space).ok());
  Network network = to_network(space, smallest(space));
  for (const Unit& unit : network.units) {
    EXPECT_FALSE(unit.expand);
    EXPECT_EQ(unit.c_mid, unit.c_in);
  }
}

TEST(ToNetwork, PartsOfTheHeadAndTheFirstUnitAreOptional) {
  ArchSpace space = space_of("demo");
  size_t units = to_network(space, smallest(space)).units.size();
  space.first_channels = space.head_channels = space.mix_channels = 0;
  ASSERT_TRUE(validate(space).ok());
  Network network = to_network(space, smallest(space));
  EXPECT_EQ(network.units.size(), units - 1);
  EXPECT_EQ(network.head.conv_channels, 0);
  EXPECT_EQ(network.head.mix_channels, 0);
  EXPECT_TRUE(validate(network).ok());
  EXPECT_EQ(distinct_units(space, {32, 1.0}).size(), elastic_units(space, {32, 1.0}).size());
}

TEST(ValidateSpace, NamesTheField) {
  auto message = [](auto edit) {
    ArchSpace space = space_of("paper");
    edit(space);
    Status status = validate(space);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message([](ArchSpace& s) { s.kernels.clear(); }),
            "kernels: found 0 values, expected 1 to 64");
  EXPECT_EQ(message([](ArchSpace& s) {
              s.kernels = {3, 4};
            }),
            "kernels: found 4, expected odd numbers");
  EXPECT_EQ(message([](ArchSpace& s) {
              s.depths = {3, 2};
            }),
            "depths[1]: 2 after 3, expected ascending values without repeats");
  EXPECT_EQ(message([](ArchSpace& s) {
              s.resolutions = {32, 32};
            }),
            "resolutions[1]: 32 after 32, expected ascending values without repeats");
  EXPECT_EQ(message([](ArchSpace& s) { s.widths[0] = std::numeric_limits<double>::quiet_NaN(); }),
            "widths[0]: found nan, expected 0.125 to 8");
  EXPECT_EQ(message([](ArchSpace& s) { s.blocks.clear(); }), "blocks: found 0, expected 1 to 63");
  EXPECT_EQ(message([](ArchSpace& s) { s.blocks[4].channels = 4000; }),
            "largest network: units[17]: out is 5200, expected 1 to 4096");
  EXPECT_EQ(message([](ArchSpace& s) { s.blocks[1].act = Activation::kSigmoid; }),
            "largest network: units[5]: act is sigmoid, expected none, relu, relu6 or hswish");
  EXPECT_EQ(message([](ArchSpace& s) { s.name = "my space"; }),
            "name may hold letters, digits and . _ - + only, because it becomes a file name");
}

}  // namespace
}  // namespace chanas
