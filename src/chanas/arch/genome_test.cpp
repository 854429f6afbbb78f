#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/arch/space.h"
#include "chanas/arch/testing.h"

namespace chanas {
namespace {

class Genome : public testing::TestWithParam<std::string> {
 protected:
  ArchSpace space_ = space_of(GetParam());
};

TEST_P(Genome, EveryRandomOperationStaysInTheSpace) {
  Rng rng(1);
  std::vector<SubSpace> cells = space_.cells();
  Arch a = smallest(space_);
  for (int i = 0; i < 10000; ++i) {
    SubSpace cell = rng.choose(cells);
    Arch b = sample(space_, cell, rng);
    Arch child = crossover(space_, mutate(space_, b, rng.uniform01(), rng), a, rng);
    EXPECT_EQ(child.cell, cell);
    Status status = validate(space_, child);
    ASSERT_TRUE(status.ok()) << status;
    status = validate(to_network(space_, child));
    ASSERT_TRUE(status.ok()) << status << " " << arch_id(space_, child);
    a = child;
  }
}

TEST_P(Genome, NetworksStayBetweenSmallestAndLargest) {
  Rng rng(2);
  for (const SubSpace& cell : space_.cells()) {
    int64_t low = macs(to_network(space_, smallest(space_, cell)));
    int64_t high = macs(to_network(space_, largest(space_, cell)));
    EXPECT_LT(low, high);
    for (int i = 0; i < 200; ++i) {
      int64_t found = macs(to_network(space_, sample(space_, cell, rng)));
      EXPECT_GE(found, low);
      EXPECT_LE(found, high);
    }
  }
}

TEST_P(Genome, IdNamesTheNetwork) {
  Rng rng(3);
  std::vector<SubSpace> cells = space_.cells();
  std::map<std::string, Arch> by_id;
  for (int i = 0; i < 10000; ++i) {
    Arch arch = sample(space_, rng.choose(cells), rng);
    Arch plain = canonical(space_, arch);
    ASSERT_TRUE(validate(space_, plain).ok());
    std::string id = arch_id(space_, arch);
    EXPECT_EQ(id, arch_id(space_, plain));
    EXPECT_EQ(to_network(space_, arch), to_network(space_, plain));
    EXPECT_EQ(canonical(space_, plain), plain);
    // Different canonical archs never share an id.
    auto [known, inserted] = by_id.emplace(id, plain);
    EXPECT_EQ(known->second, plain) << (inserted ? "" : id);
  }
  EXPECT_GT(by_id.size(), 1000u);
}

TEST_P(Genome, JsonRoundTrip) {
  Rng rng(4);
  for (const SubSpace& cell : space_.cells()) {
    Arch arch = sample(space_, cell, rng);
    StatusOr<Json> text = parse_json(to_json(arch).dump());
    ASSERT_TRUE(text.ok());
    StatusOr<Arch> back = arch_from_json(space_, *text);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, arch);
  }
}

TEST_P(Genome, EncodingIsOneHotOfTheActiveGenes) {
  Rng rng(5);
  std::vector<SubSpace> cells = space_.cells();
  const size_t slots = space_.blocks.size() * space_.max_depth();
  std::vector<float> code(encoding_size(space_), 7.0f);
  std::map<std::vector<float>, std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    Arch arch = sample(space_, rng.choose(cells), rng);
    encode(space_, arch, code.data());
    // Decoded independently, straight from the documented layout.
    size_t at = 0;
    for (bool kernel : {true, false}) {
      const std::vector<int>& choices = kernel ? space_.kernels : space_.expands;
      for (size_t slot = 0; slot < slots; ++slot) {
        bool active =
            static_cast<int>(slot % space_.max_depth()) < arch.depth[slot / space_.max_depth()];
        int gene = kernel ? arch.units[slot].kernel : arch.units[slot].expand;
        for (int choice : choices) EXPECT_EQ(code[at++], active && choice == gene ? 1.0f : 0.0f);
      }
    }
    for (int choice : space_.resolutions) {
      EXPECT_EQ(code[at++], choice == arch.cell.resolution ? 1.0f : 0.0f);
    }
    for (double choice : space_.widths) {
      EXPECT_EQ(code[at++], choice == arch.cell.width ? 1.0f : 0.0f);
    }
    EXPECT_EQ(at, code.size());
    auto [known, inserted] = ids.emplace(code, arch_id(space_, arch));
    EXPECT_EQ(known->second, arch_id(space_, arch));
  }
}

TEST_P(Genome, SameSeedSameArchs) {
  auto run = [&](uint64_t seed) {
    Rng rng(seed);
    std::string ids;
    Arch a = sample(space_, space_.cells().front(), rng);
    for (int i = 0; i < 20; ++i) {
      a = crossover(space_, mutate(space_, a, 0.3, rng), sample(space_, a.cell, rng), rng);
      ids += arch_id(space_, a) + "\n";
    }
    return ids;
  };
  EXPECT_EQ(run(9), run(9));
  EXPECT_NE(run(9), run(10));
}

INSTANTIATE_TEST_SUITE_P(Spaces, Genome, testing::ValuesIn(space_names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(ArchId, IsReadable) {
  ArchSpace paper = space_of("paper");
  Arch arch = smallest(paper, {192, 1.0});
  arch.depth = {2, 3, 4, 2, 2};
  arch.units[0] = {7, 6};
  EXPECT_EQ(arch_id(paper, arch), "r192-w1.0-d2.3.4.2.2-k73.333.3333.33.33-e63.333.3333.33.33");
  arch.units[3] = {5, 4};  // beyond the depth of block 0
  EXPECT_EQ(arch_id(paper, arch), "r192-w1.0-d2.3.4.2.2-k73.333.3333.33.33-e63.333.3333.33.33");
}

TEST(ArchId, LargeChoicesStaySingleCharacters) {
  ArchSpace space = space_of("demo");
  space.kernels = {1, 11};
  space.expands = {1, 16};
  ASSERT_TRUE(validate(space).ok());
  EXPECT_EQ(arch_id(space, largest(space)), "r32-w1.1-d2.2.2-kbb.bb.bb-egg.gg.gg");
}

TEST(Sample, IsUniformOverGenes) {
  ArchSpace paper = space_of("paper");
  Rng rng(6);
  const int n = 9000;
  std::map<int, int> kernels, expands, depths;
  for (int i = 0; i < n; ++i) {
    Arch arch = sample(paper, {224, 1.0}, rng);
    ++kernels[arch.units[7].kernel];
    ++expands[arch.units[19].expand];
    ++depths[arch.depth[3]];
  }
  // Binomial(9000, 1/3): standard deviation 45; five of them.
  for (const auto& counts : {kernels, expands, depths}) {
    ASSERT_EQ(counts.size(), 3u);
    for (const auto& [value, count] : counts) EXPECT_NEAR(count, n / 3, 225) << value;
  }
}

TEST(Mutate, ProbabilityIsPerGene) {
  ArchSpace paper = space_of("paper");
  Rng rng(7);
  Arch arch = largest(paper, {176, 1.3});
  EXPECT_EQ(mutate(paper, arch, 0.0, rng), arch);
  int changed = 0;
  const int n = 2000;
  for (int i = 0; i < n; ++i) {
    Arch child = mutate(paper, arch, 0.1, rng);
    EXPECT_EQ(child.cell, arch.cell);
    for (size_t u = 0; u < arch.units.size(); ++u) changed += child.units[u] != arch.units[u];
  }
  // A redrawn gene differs in 8 of 9 cases: 20 * 0.1 * 8/9 per child, standard deviation 1.27.
  EXPECT_NEAR(static_cast<double>(changed) / n, 20 * 0.1 * 8 / 9, 5 * 1.27 / std::sqrt(n));
}

TEST(Crossover, TakesEveryGeneFromAParent) {
  ArchSpace paper = space_of("paper");
  Rng rng(8);
  Arch a = smallest(paper, {224, 1.0}), b = largest(paper, {224, 1.0});
  int from_a = 0, total = 0;
  for (int i = 0; i < 200; ++i) {
    Arch child = crossover(paper, a, b, rng);
    for (size_t u = 0; u < child.units.size(); ++u, ++total) {
      bool of_a = child.units[u] == a.units[u];
      EXPECT_TRUE(of_a || child.units[u] == b.units[u]);
      from_a += of_a;
    }
    for (int depth : child.depth) EXPECT_TRUE(depth == 2 || depth == 4);
  }
  EXPECT_NEAR(from_a, total / 2, 5 * std::sqrt(total) / 2);
}

TEST(ValidateArch, NamesTheGene) {
  ArchSpace paper = space_of("paper");
  auto message = [&](auto edit) {
    Arch arch = smallest(paper, {224, 1.0});
    edit(arch);
    Status status = validate(paper, arch);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message([](Arch& a) { a.cell.resolution = 200; }),
            "resolution: found 200, expected one of 160, 176, 192, 208, 224");
  EXPECT_EQ(message([](Arch& a) { a.cell.width = 1.05; }),
            "width: found 1.05, expected one of 1, 1.1, 1.2, 1.3");
  EXPECT_EQ(message([](Arch& a) { a.depth[2] = 5; }), "depth[2]: found 5, expected one of 2, 3, 4");
  EXPECT_EQ(message([](Arch& a) { a.units[11].kernel = 9; }),
            "kernel[11]: found 9, expected one of 3, 5, 7");
  EXPECT_EQ(message([](Arch& a) { a.units[3].expand = 5; }),
            "expand[3]: found 5, expected one of 3, 4, 6");
  EXPECT_EQ(message([](Arch& a) { a.units.pop_back(); }),
            "found 5 depths and 19 unit genes, expected 5 and 20");
}

TEST(ArchFromJson, RefusesWhatTheSpaceDoesNotHold) {
  ArchSpace paper = space_of("paper");
  Json good = to_json(smallest(paper, {224, 1.0}));
  auto message = [&](auto edit) {
    Json json = good;
    edit(json);
    StatusOr<Arch> arch = arch_from_json(paper, json);
    EXPECT_FALSE(arch.ok());
    return std::string(arch.status().message());
  };
  EXPECT_EQ(message([](Json& j) { j["width"] = "wide"; }),
            "arch: width: found a string, expected a number");
  EXPECT_EQ(message([](Json& j) { j.erase("depth"); }), "arch: depth is missing");
  EXPECT_EQ(message([](Json& j) { j["depth"][0] = 7; }),
            "arch: depth[0]: found 7, expected one of 2, 3, 4");
  EXPECT_EQ(message([](Json& j) { j["kernel"].erase(0); }),
            "arch: expand: found 20 values beside 19 kernels, expected as many");
  EXPECT_EQ(message([](Json& j) { j["kernels"] = 3; }),
            "arch: kernels: unknown key, did you mean \"kernel\"?");
  EXPECT_EQ(message([](Json& j) { j = Json::array(); }), "arch: found an array, expected a table");
}

}  // namespace
}  // namespace chanas
