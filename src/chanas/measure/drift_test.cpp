#include "chanas/measure/drift.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chanas {
namespace {

using testing::HasSubstr;

TEST(Drift, ASteadyDeviceIsAccepted) {
  DriftWatch watch;
  watch.begin(100);
  for (double us : {101.0, 99.0, 103.0, 100.0}) EXPECT_TRUE(watch.accept(us)) << us;
  EXPECT_EQ(watch.news(), "");
}

TEST(Drift, AMoveRejectsWhatWasMeasuredMeanwhileOnly) {
  DriftWatch watch;
  watch.begin(100);
  EXPECT_FALSE(watch.accept(110));
  EXPECT_EQ(watch.describe(), "slower by 10 %");
  EXPECT_TRUE(watch.accept(111));  // steady again, at another speed
  EXPECT_FALSE(watch.accept(100));
  EXPECT_EQ(watch.describe(), "faster by 10 %");
}

TEST(Drift, AnotherClockIsSaidOnceAndWhenItIsBack) {
  DriftWatch watch;
  watch.begin(100);
  for (double us : {104.0, 108.0, 112.0}) EXPECT_TRUE(watch.accept(us));  // creeping
  EXPECT_EQ(watch.news(), "");
  EXPECT_TRUE(watch.accept(117));
  EXPECT_THAT(watch.news(), HasSubstr("slower by 17 % than when measuring began"));
  EXPECT_TRUE(watch.accept(118));
  EXPECT_EQ(watch.news(), "");
  watch.begin(101);
  EXPECT_THAT(watch.news(), HasSubstr("as fast again"));
}

}  // namespace
}  // namespace chanas
