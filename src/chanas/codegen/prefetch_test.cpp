#include "chanas/codegen/prefetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>

namespace chanas {
namespace {

using namespace Halide::Internal;
using testing::HasSubstr;
using testing::Not;

constexpr char kReduction[] = "op1_sums.s1.r4$x";

// What the pass makes of a loop of eight steps with that name, which reads data[100 + step] first.
std::string prefetched(const std::string& loop, const std::vector<PrefetchRange>& ranges,
                       const TileInput& input = {}) {
  const Halide::Expr step = Variable::make(Halide::Int(32), loop);
  const auto load = [&](const Halide::Expr& at) {
    return Evaluate::make(
        Load::make(Halide::Float(32), "data", at, {}, {}, const_true(), ModulusRemainder()));
  };
  const Halide::Expr first = Variable::make(Halide::Int(32), "first");
  const Stmt body = LetStmt::make("first", step + 100, Block::make(load(first), load(first + 24)));
  const Stmt statement = For::make(loop, 0, 8, ForType::Serial, Halide::Partition::Auto,
                                   Halide::DeviceAPI::None, body);
  std::ostringstream text;
  text << PrefetchAhead({{"op1", {input}}}, "weights", ranges, 1).mutate(statement);
  return text.str();
}

TEST(Prefetch, SpreadsTheRangeOverTheStepsOfAReduction) {
  // 4,096 bytes in 8 steps: 128 floats a step, from float 250,000 on.
  const std::string text = prefetched(kReduction, {{1'000'000, 4096}});
  EXPECT_THAT(text, HasSubstr("llvm.prefetch"));
  EXPECT_THAT(text, HasSubstr("250000"));
  EXPECT_THAT(text, HasSubstr("*128"));
  EXPECT_THAT(prefetched(kReduction, {{2'000'000, 4096}}), HasSubstr("500000"));
}

TEST(Prefetch, GivesEveryThreadItsPart) {
  const Halide::Expr task = Variable::make(Halide::Int(32), "task");
  const Stmt reduction =
      For::make(kReduction, 0, 8, ForType::Serial, Halide::Partition::Auto, Halide::DeviceAPI::None,
                Evaluate::make(Variable::make(Halide::Int(32), kReduction)));
  const Stmt statement = For::make("task", 0, 7, ForType::Parallel, Halide::Partition::Auto,
                                   Halide::DeviceAPI::None, reduction);
  // Seven tasks of two threads: four and three. 8,192 bytes in the 32 steps of a thread, the second
  // one 10,000 floats further on.
  std::ostringstream text;
  text << PrefetchAhead({{"op1", {}}}, "weights", {{400, 8192, 40'000}}, 2).mutate(statement);
  EXPECT_THAT(text.str(), HasSubstr("((task - 0)/4)*10000"));
  EXPECT_THAT(text.str(), HasSubstr("((task - 0) % 4))*8"));
  EXPECT_THAT(text.str(), HasSubstr("*64"));
}

// The first strip of those that keep rows makes more of them than the others.
TEST(Prefetch, CountsTheRowsOfALoopWithoutAConstantLength) {
  const Stmt reduction =
      For::make(kReduction, 0, 8, ForType::Serial, Halide::Partition::Auto, Halide::DeviceAPI::None,
                Evaluate::make(Variable::make(Halide::Int(32), kReduction)));
  const auto text = [&](const char* rows) {
    const Halide::Expr extent = Variable::make(Halide::Int(32), "extent");
    const Stmt statement = For::make(rows, 0, extent, ForType::Serial, Halide::Partition::Auto,
                                     Halide::DeviceAPI::None, reduction);
    std::ostringstream out;
    out << PrefetchAhead({{"op1", {{}, 4}}}, "weights", {{400, 8192, 0}}, 1).mutate(statement);
    return out.str();
  };
  // 8,192 bytes in 4 x 8 steps.
  EXPECT_THAT(text("op1.s1.y.rebased"), HasSubstr("*64"));
  EXPECT_THAT(text("op1$3.s1.y.rebased"), HasSubstr("*64"));
  EXPECT_THAT(text("op2.s1.y.rebased"), HasSubstr("*256"));
}

TEST(Prefetch, FetchesWhatTheNextTileReads) {
  // A tile of 3,000 floats from data[100] on: 375 of the next one in each of the 8 steps.
  const std::string text = prefetched(kReduction, {}, {"data", 3000});
  EXPECT_THAT(text, HasSubstr("llvm.prefetch"));
  EXPECT_THAT(text, HasSubstr("0 + 100) + 3000"));
  EXPECT_THAT(text, HasSubstr("*375"));
  EXPECT_THAT(prefetched(kReduction, {}, {"other", 3000}), Not(HasSubstr("llvm")));
  EXPECT_THAT(prefetched(kReduction, {}), Not(HasSubstr("llvm")));
}

// Two steps of the reduction that lie beside each other are one load.
TEST(Prefetch, FindsTheInputOfPairsOfSteps) {
  const Halide::Expr step = Variable::make(Halide::Int(32), kReduction);
  const auto text = [&](int lanes) {
    const Halide::Expr at = Ramp::make(2 * step + 700, 1, lanes);
    const Stmt body = Evaluate::make(Load::make(Halide::Float(32, lanes), "data", at, {}, {},
                                                const_true(lanes), ModulusRemainder()));
    const Stmt loop = For::make(kReduction, 0, 8, ForType::Serial, Halide::Partition::Auto,
                                Halide::DeviceAPI::None, body);
    std::ostringstream out;
    out << PrefetchAhead({{"op1", {{"data", 3000}}}}, "weights", {}, 2).mutate(loop);
    return out.str();
  };
  EXPECT_THAT(text(2), HasSubstr("700) + 3000"));
  EXPECT_THAT(text(16), Not(HasSubstr("llvm")));
}

TEST(Prefetch, LeavesOtherLoopsAlone) {
  for (const char* loop : {"op2_sums.s1.r4$x", "op1_sums.s0.x"})
    EXPECT_THAT(prefetched(loop, {{0, 4096}}, {"data", 3000}), Not(HasSubstr("llvm")));
}

}  // namespace
}  // namespace chanas
