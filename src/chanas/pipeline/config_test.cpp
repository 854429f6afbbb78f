#include "chanas/pipeline/config.h"

#include <gtest/gtest.h>

namespace chanas {
namespace {

std::string error_of(std::string_view toml) {
  StatusOr<RunConfig> config = parse_config(toml, "run.toml");
  return config.ok() ? "" : std::string(config.status().message());
}

TEST(Config, ResolvedConfigReadsBackTheSame) {
  RunConfig config;
  config.space = "a \"quoted\" \\ name.toml";
  config.limit_ms = 0.125;
  config.threads = 3;
  config.seed = 12345678901234;
  config.budget_s = 1200.5;
  config.rule = "acc";
  StatusOr<RunConfig> again = parse_config(to_toml(config), "run.toml");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(to_toml(*again), to_toml(config));
  EXPECT_EQ(again->space, config.space);
  EXPECT_EQ(again->seed, config.seed);
}

TEST(Config, ErrorsNameFileLineAndNearestKey) {
  EXPECT_EQ(error_of("[run]\nlimt_ms = 3\n"),
            "run.toml:2: unknown key \"limt_ms\"; did you mean \"limit_ms\"?");
  EXPECT_EQ(error_of("[tuen]\n"), "run.toml:1: unknown key \"tuen\"; did you mean \"tune\"?");
  EXPECT_EQ(error_of("[run]\nthreads = 0\n"), "run.toml:2: run.threads is 0, expected 1 to 256");
  EXPECT_EQ(error_of("[run]\nlimit_ms = nan\n"),
            "run.toml:2: run.limit_ms is nan, expected 0 to 1000000");
  EXPECT_NE(error_of("[run]\nthreads = 1.5\n").find("run.threads: expected a whole number"),
            std::string::npos);
  EXPECT_NE(error_of("[run]\nspace = 3\n").find("run.space: expected text"), std::string::npos);
  EXPECT_NE(error_of("[train]\naugment = \"heavy\"\n").find("expected none, light or crop"),
            std::string::npos);
  EXPECT_NE(error_of("[run\n").find("run.toml:1: "), std::string::npos);
}

// Flags set fields without a file: the same bounds hold, so that no run directory gets a config
// that cannot be read again.
TEST(Config, ValidateHoldsTheBoundsOfTheFile) {
  RunConfig config;
  EXPECT_TRUE(validate(config).ok());
  config.threads = 900;
  EXPECT_EQ(validate(config).message(), "run.threads is 900, expected 1 to 256");
  config = {};
  config.limit_ms = -1;
  EXPECT_FALSE(validate(config).ok());
  config = {};
  config.symbol = "My Net";
  EXPECT_TRUE(std::string(validate(config).message()).starts_with("export.symbol: \"My Net\""));
  config = {};
  config.rule = "acc";
  config.probes = 0;
  EXPECT_FALSE(validate(config).ok());
}

TEST(Config, Durations) {
  EXPECT_EQ(*parse_duration("90"), 90);
  EXPECT_EQ(*parse_duration("90 s"), 90);
  EXPECT_EQ(*parse_duration("20min"), 1200);
  EXPECT_EQ(*parse_duration("1.5 h"), 5400);
  for (const char* wrong : {"", "min", "5 parsecs", "-3 s", "inf", "nan", "1e999"}) {
    EXPECT_FALSE(parse_duration(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace chanas
