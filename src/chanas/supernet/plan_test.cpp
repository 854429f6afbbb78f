// Stages of a training, learning rates, drawn networks; curves for other programs.

#include "chanas/supernet/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "chanas/base/file.h"
#include "chanas/supernet/curves.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names(const std::vector<TrainStage>& stages) {
  std::vector<std::string> out;
  for (const TrainStage& stage : stages) out.push_back(stage.name);
  return out;
}

TEST(PlanTest, ProgressiveStages) {
  TrainConfig config;
  config.trainer = "progressive";
  const ArchSpace space = *load_space("paper");
  const std::vector<TrainStage> stages = make_stages(space, config);
  EXPECT_THAT(names(stages),
              ElementsAre("largest", "kernel 3,5,7", "depth 3,4", "depth 2,3,4", "expand 4,6",
                          "expand 3,4,6", "width 1.2,1.3", "width 1,1.1,1.2,1.3"));
  EXPECT_EQ(stages.front().begin, 0);
  EXPECT_EQ(stages.back().end, 1);
  for (size_t i = 1; i < stages.size(); ++i) {
    EXPECT_EQ(stages[i].begin, stages[i - 1].end);
    EXPECT_TRUE(stages[i].taught);
    EXPECT_EQ(stages[i].sort_channels, i >= 4) << stages[i].name;
    // Nothing that was trained is dropped again.
    EXPECT_EQ(stages[i].space.max_depth(), space.max_depth());
    EXPECT_GE(stages[i].space.kernels.size(), stages[i - 1].space.kernels.size());
    EXPECT_GE(stages[i].space.widths.size(), stages[i - 1].space.widths.size());
  }
  EXPECT_FALSE(stages.front().taught);
  EXPECT_EQ(draw_networks(stages[0], config, 3), std::vector{draw_networks(stages[0], config, 3)});
  EXPECT_EQ(draw_networks(stages[0], config, 3).size(), size_t{1});
  EXPECT_EQ(draw_networks(stages[5], config, 3).size(), size_t{4});
  for (int64_t step = 0; step < 50; ++step) {
    for (const Arch& arch : draw_networks(stages[2], config, step)) {
      EXPECT_TRUE(validate(space, arch).ok());
      for (const int depth : arch.depth) EXPECT_GE(depth, 3);
      for (const UnitGene& gene : arch.units) EXPECT_EQ(gene.expand, 6);
    }
  }
}

TEST(PlanTest, SandwichStages) {
  const ArchSpace space = testing_supernet::tiny_space();
  TrainConfig config;
  EXPECT_THAT(names(make_stages(space, config)), ElementsAre("sandwich"));
  config.sort_share = 0.25;
  const std::vector<TrainStage> stages = make_stages(space, config);
  EXPECT_THAT(names(stages), ElementsAre("largest", "sandwich"));
  EXPECT_TRUE(stages[1].sort_channels);
  EXPECT_EQ(stage_at(stages, 0.24), size_t{0});
  EXPECT_EQ(stage_at(stages, 0.25), size_t{1});
  EXPECT_EQ(stage_at(stages, 1), size_t{1});
  const std::vector<Arch> archs = draw_networks(stages[1], config, 7);
  ASSERT_EQ(archs.size(), size_t{4});
  EXPECT_EQ(archs.front(), largest(space));
  EXPECT_EQ(archs.back(), smallest(space));
  // Random ones do not share theirs.
  int mixed = 0;
  for (int64_t step = 0; step < 50; ++step) {
    const std::vector<Arch> drawn = draw_networks(stages[1], config, step);
    mixed += drawn[1].cell.resolution != drawn[2].cell.resolution;
  }
  EXPECT_GT(mixed, 10);
}

TEST(PlanTest, RatesWarmUpAndDecayInEachStage) {
  EXPECT_EQ(rate_at(0, 0.1), 0);
  EXPECT_NEAR(rate_at(0.05, 0.1), 0.5, 1e-12);
  EXPECT_NEAR(rate_at(0.1, 0.1), 1, 1e-12);
  EXPECT_NEAR(rate_at(0.55, 0.1), 0.5, 1e-12);
  EXPECT_NEAR(rate_at(1, 0.1), 0, 1e-12);
  EXPECT_EQ(rate_at(0, 0), 1);
  std::vector<TrainStage> stages(2);
  stages[0].end = stages[1].begin = 0.5;
  stages[1].rate = 0.1;
  EXPECT_NEAR(rate_in(stages, 0.25, 0), 0.5, 1e-12);
  EXPECT_NEAR(rate_in(stages, 0.5, 0), 0.1, 1e-12);
  EXPECT_NEAR(rate_in(stages, 1, 0), 0, 1e-12);
}

// Uniform genes gather in the middle; bands do not.
TEST(PlanTest, BandsOfMacsReachTheEnds) {
  const ArchSpace space = *load_space("cifar-small");
  TrainConfig config;
  TrainStage stage{.name = "", .space = space, .networks = 1};
  stage.space.resolutions = {space.resolutions.back()};
  const auto low = static_cast<double>(
      macs(to_network(space, smallest(space, {space.resolutions.back(), space.widths.front()}))));
  const auto high = static_cast<double>(macs(to_network(space, largest(space))));
  const auto outside = [&](const std::string& sampling) {
    config.sampling = sampling;
    int count = 0;
    for (int64_t step = 0; step < 200; ++step) {
      const Arch arch = draw_networks(stage, config, step).front();
      EXPECT_TRUE(validate(space, arch).ok());
      const double place =
          (static_cast<double>(macs(to_network(space, arch))) - low) / (high - low);
      count += place < 0.2 || place > 0.7;
    }
    return count;
  };
  EXPECT_GT(outside("macs"), 1.5 * outside("uniform"));
}

TEST(PlanTest, NamesAllBadSettings) {
  const auto refused = [](const TrainConfig& config) {
    return std::string(validate(config).message());
  };
  TrainConfig config;
  EXPECT_TRUE(validate(config).ok());
  config.trainer = "progresive";
  EXPECT_THAT(refused(config), HasSubstr("trainer is \"progresive\", expected sandwich"));
  config = {};
  config.loss = "gapp";
  EXPECT_THAT(refused(config), HasSubstr("gap_one_sided"));
  config = {};
  config.distillation = "hard";
  EXPECT_THAT(refused(config), HasSubstr("expected soft"));
  config = {};
  config.sort_share = 1;
  EXPECT_THAT(refused(config), HasSubstr("sort_share is 1"));
}

// --- Curves ---

TEST(CurvesTest, ChecksumsOfThePublishedVectors) {
  // RFC 3720, B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

// Reads records back: "<length> <crc> <bytes> <crc>".
std::vector<std::string> records(const std::string& file) {
  std::vector<std::string> out;
  for (size_t at = 0; at < file.size();) {
    uint64_t length = 0;
    std::memcpy(&length, &file[at], 8);
    const std::string bytes = file.substr(at + 12, length);
    EXPECT_EQ(file.substr(at, 16 + length), tf_record(bytes));
    out.push_back(bytes);
    at += 16 + length;
  }
  return out;
}

TEST(CurvesTest, EventsAreAsTensorBoardReadsThem) {
  // wall_time 1.5, step 300, one value "loss" 0.25: written by hand from event.proto.
  const std::string summary = std::string("\x0a\x0b\x0a\x04loss\x15\x00\x00\x80\x3e", 13);
  const std::string expected =
      std::string("\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x10\xac\x02\x2a\x0d", 14) + summary;
  EXPECT_EQ(scalar_event(1.5, 300, {{"loss", 0.25}}), expected);
}

TEST(CurvesTest, FilesHoldEachPointOnce) {
  const TemporaryFolder folder("curves");
  TrainProgress first, second;
  first.step = 10;
  first.loss = 2;
  first.gradient_norm = 3;
  second.step = 20;
  second.loss = 1.5;
  second.accuracy_random = 0.5;
  for (int attempt = 0; attempt < 2; ++attempt) {
    auto curves = Curves::start(folder.path(), {first});
    ASSERT_TRUE(curves.ok()) << curves.status();
    ASSERT_TRUE(curves->add(second).ok());
    const std::string csv = *read_file(join_path(folder.path(), "history.csv"));
    EXPECT_EQ(csv,
              "step,epoch,loss,gap,negative_gap_share,gradient_norm,learning_rate,images_per_s,"
              "accuracy_largest,accuracy_smallest,accuracy_random\n10,0,2,0,0,3,0,0,,,\n20,0,1.5,"
              "0,0,0,0,0,,,0.5\n");
    std::vector<std::string> events;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) {
        events.push_back(entry.path().string());
      }
    }
    ASSERT_EQ(events.size(), size_t{1});
    const std::vector<std::string> messages = records(*read_file(events[0]));
    ASSERT_EQ(messages.size(), size_t{3});
    EXPECT_THAT(messages[0], HasSubstr("brain.Event:2"));
    EXPECT_THAT(messages[2], HasSubstr("accuracy_random"));
    EXPECT_EQ(messages[1].find("accuracy"), std::string::npos);
  }
}

}  // namespace
}  // namespace chanas
