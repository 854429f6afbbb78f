#include "chanas/codegen/halves.h"

#include <gtest/gtest.h>

#include <sstream>

#include "chanas/codegen/codegen.h"

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

// What the pass looks for is what a convolution with fused pixels becomes.
TEST(Halves, FusedPixelsAreWhatThePassLooksFor) {
  Target target = simulated_target();
  target.triple = "x86-64-linux-avx-avx2-avx512-avx512_skylake-f16c-fma";
  target.vector_floats = 16;
  target.vector_registers = 32;
  const Element element = unit_element({.h_in = 14, .c_in = 24, .c_mid = 64, .c_out = 40});
  const ScheduleSpace space = schedule_space(element.cuts[0].groups.back().workload, target, 1);
  Schedule schedule = default_schedule(space);
  const std::string name = space.fields[0].name.substr(0, 4);
  for (const auto& [what, value] :
       {std::pair{"channel_vectors", 3}, std::pair{"pixels", 4}, std::pair{"fuse", 2}}) {
    const int field = space.find(name + what);
    ASSERT_GE(field, 0) << what;
    schedule.values[field] = value;
  }
  const auto program = dump_lowered(space, schedule);
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_NE(program->find("llvm.arithmetic.fence"), std::string::npos) << *program;
  EXPECT_EQ(program->find("select(ramp(0, 1"), std::string::npos) << *program;
}

}  // namespace
}  // namespace chanas
