#include "chanas/codegen/halves.h"

#include <gtest/gtest.h>

#include <sstream>

namespace chanas {
namespace {

using namespace Halide::Internal;

// A vector of `lanes`, x in the lanes before `seam` and y in the others, after the pass.
std::string after(int lanes, const Halide::Expr& seam) {
  const auto value = [&](const char* name) {
    return Broadcast::make(Variable::make(Halide::Float(32), name), lanes);
  };
  HideHalves pass;
  std::ostringstream text;
  text << pass.mutate(
      Select::make(Ramp::make(0, 1, lanes) < Broadcast::make(seam, lanes), value("x"), value("y")));
  return text.str();
}

TEST(Halves, AConstantSeamIsHiddenFromTheCompiler) {
  EXPECT_NE(after(16, 8).find("fence"), std::string::npos) << after(16, 8);
  EXPECT_NE(after(16, 8).find("8.0"), std::string::npos) << after(16, 8);
}

TEST(Halves, OtherSelectionsStayAsTheyAre) {
  EXPECT_EQ(after(8, 4).find("fence"), std::string::npos);
  EXPECT_EQ(after(16, Variable::make(Halide::Int(32), "n")).find("fence"), std::string::npos);
}

}  // namespace
}  // namespace chanas
