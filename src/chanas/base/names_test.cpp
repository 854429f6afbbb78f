#include "chanas/base/names.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace chanas {
namespace {

const std::vector<std::string> kCommands = {"search", "tune", "deploy", "report", "measure"};

TEST(NearestName, OneSlipAway) {
  EXPECT_EQ(nearest_name("serach", kCommands), "search");
  EXPECT_EQ(nearest_name("tun", kCommands), "tune");
  EXPECT_EQ(nearest_name("deployy", kCommands), "deploy");
  EXPECT_EQ(nearest_name("raport", kCommands), "report");
}

TEST(NearestName, ExactAndCase) {
  EXPECT_EQ(nearest_name("tune", kCommands), "tune");
  EXPECT_EQ(nearest_name("TUNE", kCommands), "tune");
}

TEST(NearestName, NothingNear) {
  EXPECT_EQ(nearest_name("xyzzy", kCommands), "");
  EXPECT_EQ(nearest_name("", kCommands), "");
  EXPECT_EQ(nearest_name("tune", {}), "");
  // Two of three letters is more than half, one of two is not.
  EXPECT_EQ(nearest_name("abc", {"axy"}), "");
  EXPECT_EQ(nearest_name("ab", {"ax"}), "ax");
}

TEST(NearestName, FirstOfATie) { EXPECT_EQ(nearest_name("mb3", {"mb1", "mb2"}), "mb1"); }

TEST(Join, PutsSeparatorsBetween) {
  EXPECT_EQ(join({"a", "b", "c"}), "a, b, c");
  EXPECT_EQ(join({"a", "", "c"}, "/"), "a//c");
  EXPECT_EQ(join({"a"}), "a");
  EXPECT_EQ(join({}), "");
}

}  // namespace
}  // namespace chanas
