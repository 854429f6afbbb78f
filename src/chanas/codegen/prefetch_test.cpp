#include "chanas/codegen/prefetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace chanas {
namespace {

using namespace Halide::Internal;

// A loop of eight steps with that name, and what the pass makes of it.
std::string prefetched(const std::string& loop, const PrefetchRange& range) {
  const Stmt body = Evaluate::make(Variable::make(Halide::Int(32), loop));
  const Stmt statement = For::make(loop, 0, 8, ForType::Serial, Halide::Partition::Auto,
                                   Halide::DeviceAPI::None, body);
  std::ostringstream text;
  text << PrefetchAhead({"op1_sums"}, "weights", range).mutate(statement);
  return text.str();
}

TEST(Prefetch, SpreadsTheRangeOverTheStepsOfAReduction) {
  // 4,096 bytes in 8 steps: 128 floats a step, from float 250,000 on.
  const std::string text = prefetched("op1_sums.s1.r4$x", {1'000'000, 4096});
  EXPECT_THAT(text, testing::HasSubstr("llvm.prefetch"));
  EXPECT_THAT(text, testing::HasSubstr("250000"));
  EXPECT_THAT(text, testing::HasSubstr("*128"));
  EXPECT_THAT(prefetched("op1_sums.s1.r4$x", {2'000'000, 4096}), testing::HasSubstr("500000"));
}

TEST(Prefetch, LeavesOtherLoopsAlone) {
  EXPECT_THAT(prefetched("op2_sums.s1.r4$x", {0, 4096}), testing::Not(testing::HasSubstr("llvm")));
  EXPECT_THAT(prefetched("op1_sums.s0.x", {0, 4096}), testing::Not(testing::HasSubstr("llvm")));
}

}  // namespace
}  // namespace chanas
