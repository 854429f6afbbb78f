#include "chanas/measure/drift.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chanas {
namespace {

using testing::HasSubstr;

TEST(Drift, ASteadyDeviceIsAccepted) {
  DriftWatch watch;
  EXPECT_EQ(watch.begin(100, 0), 0);
  for (double us : {101.0, 99.0, 103.0, 100.0}) EXPECT_TRUE(watch.accept(us)) << us;
  EXPECT_EQ(watch.news(0), "");
}

TEST(Drift, AMoveRejectsWhatWasMeasuredMeanwhileOnly) {
  DriftWatch watch;
  EXPECT_EQ(watch.begin(100, 0), 0);
  EXPECT_FALSE(watch.accept(114));
  EXPECT_EQ(watch.describe(), "slower by 14 %");
  EXPECT_EQ(watch.begin(114, 1), 0);
  EXPECT_TRUE(watch.accept(115));  // steady again, at another speed
  EXPECT_FALSE(watch.accept(100));
  EXPECT_EQ(watch.describe(), "faster by 12 %");
}

TEST(Drift, ANeighbourThatGoesIsWaitedFor) {
  DriftWatch watch;
  EXPECT_EQ(watch.begin(100, 0), 0);
  double now = 1;
  while (now < 5) {
    const double wait = watch.begin(150, now);
    ASSERT_GT(wait, 0);
    now += wait;
  }
  EXPECT_EQ(watch.begin(101, now), 0);
  EXPECT_EQ(watch.news(now), "");
}

// The seconds waited until a batch may begin at this speed.
double waited(DriftWatch& watch, double us, double& now) {
  const double from = now;
  while (const double wait = watch.begin(us, now)) now += wait;
  return now - from;
}

TEST(Drift, AnotherClockIsTheUsualOneAfterAWhileAndSaidOnce) {
  DriftWatch watch;
  EXPECT_EQ(watch.begin(100, 0), 0);
  double now = 100;
  EXPECT_NEAR(waited(watch, 117, now), DriftWatch::kPatience, 0.5);
  EXPECT_THAT(watch.news(now), HasSubstr("slower by 17 % than it was"));
  EXPECT_EQ(waited(watch, 118, now), 0);
  EXPECT_EQ(watch.news(now), "");
  // Nobody waits for a device to become slow again.
  now += 100;
  EXPECT_EQ(waited(watch, 99, now), 0);
  EXPECT_THAT(watch.news(now), HasSubstr("faster by 15 % than it was"));
}

TEST(Drift, WaitingTakesItsShareAtMostAndNewsAreRare) {
  DriftWatch watch;
  double now = 0, all = 0;
  int said = 0;
  EXPECT_EQ(watch.begin(100, now), 0);
  while (now < 1000) {  // a second at each of two speeds
    all += waited(watch, 150, now);
    said += watch.news(now).empty() ? 0 : 1;
    now += 1;
    all += waited(watch, 100, now);
    said += watch.news(now).empty() ? 0 : 1;
    now += 1;
  }
  EXPECT_LT(all, DriftWatch::kPatience + DriftWatch::kWaitShare * now + 1);
  EXPECT_GT(all, 0.8 * DriftWatch::kWaitShare * now);
  EXPECT_LE(said, 1000 / 60 + 1);
  EXPECT_GE(said, 10);
}

}  // namespace
}  // namespace chanas
