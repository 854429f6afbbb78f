#include "chanas/measure/worker/timing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <functional>
#include <memory>

namespace chanas {
namespace {

class Timing : public testing::Test {
 protected:
  // A call that takes what `us` says, by a clock that only it moves.
  MeasureResult time(std::function<double()> us, int samples = 15, bool cold = false) {
    TimedCall timed{.call = [this, us] { return clock_ += us(), ++calls_ == fail_at_ ? -3 : 0; },
                    .prepare = [this] { ++prepared_; },
                    .now_us = [this] { return clock_; }};
    return time_call(timed, runtime_.get(), samples, cold);
  }
  std::unique_ptr<chanas_runtime, decltype(&chanas_runtime_destroy)> runtime_{
      chanas_runtime_create(2), chanas_runtime_destroy};
  ColdMemory cold_;
  double clock_ = 0;
  int calls_ = 0, prepared_ = 0, fail_at_ = -1;
};

TEST_F(Timing, TakesTheMedianOfTheSamples) {
  MeasureResult result = time([] { return 200; });
  EXPECT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.latency_us, 200);
  EXPECT_EQ(result.warm_us, 200);
  EXPECT_EQ(result.samples_us, std::vector<double>(15, 200));
  EXPECT_EQ(prepared_, 15);
}

TEST_F(Timing, OneSlowCallDoesNotMoveTheMedian) {
  MeasureResult result = time([this] { return calls_ % 10 == 0 ? 3000 : 100; });
  EXPECT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.latency_us, 100);
}

TEST_F(Timing, ShortCallsAreTimedInBunches) {
  EXPECT_DOUBLE_EQ(time([] { return 0.25; }, 10).latency_us, 0.25);
  EXPECT_GE(calls_, 10 * 48);
  calls_ = 0;
  EXPECT_DOUBLE_EQ(time([] { return 0.25; }, 10, true).latency_us, 0.25);
  EXPECT_LE(calls_, 1 + 15 + 10) << "cold samples are single calls";
}

TEST_F(Timing, SlowCallsAreSampledLess) {
  EXPECT_EQ(time([] { return 50'000; }, 1000).samples_us.size(), 5u);
  EXPECT_EQ(time([] { return 10'000; }, 1000).samples_us.size(), 11u);
}

TEST_F(Timing, SpreadIsUnstableAfterARetry) {
  MeasureResult result = time([this] { return calls_ % 2 ? 20 : 200; }, 20);
  EXPECT_EQ(result.error, TrialError::kUnstable);
  EXPECT_EQ(calls_, 1 + 15 + 2 * 20);
  EXPECT_EQ(result.samples_us.size(), 20u);
}

TEST_F(Timing, ASteadyRetryCounts) {
  MeasureResult result = time([this] { return calls_ < 30 && calls_ % 2 ? 20 : 200; }, 20);
  EXPECT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.latency_us, 200);
}

TEST_F(Timing, JitterOfTheClockIsForgiven) {
  EXPECT_TRUE(time([this] { return calls_ % 2 ? 0.5 : 1.4; }, 20, true).ok());
}

TEST_F(Timing, AFailingCallIsAnError) {
  for (int at : {1, 5, 20}) {
    fail_at_ = at;
    calls_ = 0;
    EXPECT_EQ(time([] { return 10; }).error, TrialError::kCrash);
    EXPECT_EQ(calls_, at);
  }
}

TEST_F(Timing, ColdMemoryTakesAnySize) {
  for (int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{1} << 20, int64_t{100}}) {
    cold_.stream(runtime_.get(), bytes);
  }
}

TEST_F(Timing, PreparingMemoryKeepsWhatIsInIt) {
  std::vector<float> values(1001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const std::vector<float> before = values;
  rewrite(runtime_.get(), values.data(), values.size());
  EXPECT_EQ(values, before);
  rewrite(runtime_.get(), nullptr, 0);
  // Up to the last float that two threads are given; sanitizers watch the end.
  fetch(runtime_.get(), values.data(), {{0, 4004, 0}, {4, 2000, 2000}, {4004, 0, 0}});
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{100'000}}) use_scratch(runtime_.get(), bytes);
  EXPECT_GE(chanas_runtime_scratch_used(runtime_.get()), 100'000u);
}

TEST(BestCores, CoresOfTheirOwnThenFastOnesThenTheLast) {
  using ::testing::ElementsAre;
  EXPECT_THAT(best_cores({{0, "", 0}, {1, "", 0}, {2, "", 0}}), ElementsAre(2, 1, 0));
  // Siblings side by side, or half of all apart.
  EXPECT_THAT(best_cores({{0, "0-1", 0}, {1, "0-1", 0}, {2, "2-3", 0}, {3, "2-3", 0}}),
              ElementsAre(2, 0, 3, 1));
  EXPECT_THAT(best_cores({{0, "0,2", 0}, {1, "1,3", 0}, {2, "0,2", 0}, {3, "1,3", 0}}),
              ElementsAre(1, 0, 3, 2));
  // Two fast cores with two threads each, two slow ones; the first core is another's.
  EXPECT_THAT(
      best_cores(
          {{1, "0-1", 5000}, {2, "2-3", 5000}, {3, "2-3", 5000}, {4, "4", 3900}, {5, "5", 3900}}),
      ElementsAre(2, 1, 5, 4, 3));
  EXPECT_THAT(best_cores({}), ElementsAre());
}

TEST_F(Timing, PinningIsTakenBack) {
  cpu_set_t before, during, after;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  {
    Pinned pinned(runtime_.get());
    sched_getaffinity(0, sizeof during, &during);
  }
  sched_getaffinity(0, sizeof after, &after);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  EXPECT_EQ(CPU_COUNT(&during), CPU_COUNT(&before) >= 2 ? 1 : CPU_COUNT(&before));
}

}  // namespace
}  // namespace chanas
