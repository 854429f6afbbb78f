#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "chanas/measure/measure.h"
#include "chanas/measure/protocol.h"

namespace chanas {
namespace {

using testing::HasSubstr;

TEST(MeasurePlan, IdNamesThreadsAndColdBytes) {
  auto id = [](int threads, int64_t cold) {
    return MeasurePlan{.threads = threads, .cold_bytes = cold}.id();
  };
  EXPECT_EQ(id(1, 0), "threads1-cold0-produced-large-cold-rounded-hugepages-ahead");
  EXPECT_EQ(id(2, 1), "threads2-cold1-produced-large-cold-rounded-hugepages-ahead");
  EXPECT_EQ(id(2, 1000), "threads2-cold1024-produced-large-cold-rounded-hugepages-ahead");
  EXPECT_EQ(id(2, 1024), "threads2-cold1024-produced-large-cold-rounded-hugepages-ahead");
  EXPECT_EQ(id(2, 1025), "threads2-cold2048-produced-large-cold-rounded-hugepages-ahead");
  // What is read is what the id says: rows of one key are measured alike.
  EXPECT_EQ((MeasurePlan{.cold_bytes = 1025}.rounded_cold_bytes()), 2048);
  EXPECT_EQ((MeasurePlan{.cold_bytes = 1024}.rounded_cold_bytes()), 1024);
  EXPECT_EQ(MeasurePlan{}.rounded_cold_bytes(), 0);
  EXPECT_EQ((MeasurePlan{.samples = 99, .pin = false}.id()), MeasurePlan{}.id());
}

TEST(TrialError, NamesThereAndBack) {
  for (int i = 0; i <= static_cast<int>(TrialError::kUnstable); ++i) {
    auto error = static_cast<TrialError>(i);
    EXPECT_EQ(parse_trial_error(trial_error_name(error)).value(), error);
  }
  Status status = parse_trial_error("krash").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(status)), HasSubstr("wrong_result"));
}

TEST(MeasureResult, JsonThereAndBack) {
  MeasureResult result{.error = TrialError::kTimeout,
                       .message = "too \"slow\"",
                       .latency_us = 12.5,
                       .samples_us = {12, 12.5, 14.25},
                       .warm_us = 11,
                       .compile_s = 0.25,
                       .relative_error = 1e-6};
  auto back = measure_result_from_json(to_json(result));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(to_json(*back), to_json(result));
  EXPECT_EQ(back->samples_us, result.samples_us);
  EXPECT_FALSE(back->ok());
}

TEST(MeasureResult, JsonIsStrict) {
  for (auto [key, value] : std::vector<std::pair<std::string, Json>>{{"error", "krash"},
                                                                     {"error", 1},
                                                                     {"message", Json()},
                                                                     {"latency_us", "12"},
                                                                     {"latency_us", Json()},
                                                                     {"samples_us", 3},
                                                                     {"samples_us", {1, "x"}},
                                                                     {"relative_error", Json()}}) {
    Json json = to_json(MeasureResult{});
    json[key] = value;
    EXPECT_EQ(measure_result_from_json(json).status().code(), absl::StatusCode::kInvalidArgument)
        << key << " " << value;
  }
  EXPECT_FALSE(measure_result_from_json(Json()).ok());
  EXPECT_FALSE(measure_result_from_json(Json::array()).ok());
}

TEST(NetworkMeasurement, JsonThereAndBack) {
  NetworkMeasurement m{.median_us = 5,
                       .p10_us = 4,
                       .p90_us = 7,
                       .min_us = 3.5,
                       .samples_us = {5, 4, 7},
                       .stage_us = {2, 3},
                       .scratch_bytes = int64_t{5} << 33};
  auto back = network_measurement_from_json(to_json(m));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(to_json(*back), to_json(m));
  EXPECT_EQ(back->scratch_bytes, m.scratch_bytes);
  EXPECT_FALSE(network_measurement_from_json(Json::object()).ok());
}

}  // namespace
}  // namespace chanas
