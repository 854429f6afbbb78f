#include "chanas/codegen/pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "chanas/codegen/codegen.h"

namespace chanas {
namespace {

using namespace Halide::Internal;
using testing::HasSubstr;
using testing::Not;

// Eight floats, every other one of the sum of two vectors of 16 that start at `first` and `second`.
std::string after(const std::string& first_buffer, int first, int second) {
  const auto load = [](const std::string& buffer, int at) {
    return Load::make(Halide::Float(32, 16), buffer, Ramp::make(at, 1, 16), {}, {}, const_true(16),
                      ModulusRemainder());
  };
  AddPairs pass;
  std::ostringstream text;
  text << pass.mutate(
      Shuffle::make_slice(load(first_buffer, first) + load("sums", second), 0, 2, 8));
  return text.str();
}

TEST(Pairs, AreTakenFromOneVector) {
  EXPECT_THAT(after("sums", 32, 33), Not(HasSubstr("ramp(33")));
  EXPECT_THAT(after("sums", 32, 33), HasSubstr("sums[ramp(32, 1, 16)], 1, 2, 8)"));
}

TEST(Pairs, OtherSumsStayAsTheyAre) {
  EXPECT_THAT(after("sums", 32, 34), HasSubstr("ramp(34"));
  EXPECT_THAT(after("others", 32, 33), HasSubstr("ramp(33"));
}

// What the pass looks for is what a convolution with half vectors becomes.
TEST(Pairs, AreWhatHalfVectorsEndWith) {
  Target target = simulated_target();
  target.triple = "x86-64-linux-avx-avx2-avx512-avx512_skylake-f16c-fma";
  target.vector_floats = 16;
  target.vector_registers = 32;
  const Element element = unit_element({.h_in = 14, .c_in = 24, .c_mid = 64, .c_out = 40});
  const ScheduleSpace space = schedule_space(element.cuts[0].groups.back().workload, target, 1);
  const Schedule schedule = default_schedule(space);
  ASSERT_EQ(space.value(schedule, space.fields[0].name), 8);
  const auto program = dump_lowered(space, schedule);
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_THAT(*program, HasSubstr("[ramp(0, 1, 16)], 1, 2, 8)"));
  EXPECT_THAT(*program, Not(HasSubstr("_sums[ramp(1, 1, 16)]")));
  EXPECT_THAT(*program, HasSubstr("llvm.arithmetic.fence"));
}

}  // namespace
}  // namespace chanas
