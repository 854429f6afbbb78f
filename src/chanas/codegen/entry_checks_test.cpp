// What the compiler proves about a schedule, and what it leaves to the run.

#include "chanas/codegen/entry_checks.h"

#include <gtest/gtest.h>

#include "chanas/codegen/kernel_check.h"

namespace chanas {
namespace {

using Halide::Func;
using Halide::ImageParam;
using Halide::Var;

// Assertions left in out(i) = in(i + shift) over 16 elements of a buffer of 16 (known: bounds are
// given), split by `factor`.
int left_of(int shift, bool known, int factor = 4) {
  ImageParam in(Halide::Float(32), 1, "in");
  if (known) in.dim(0).set_bounds(0, 16);
  Var i("i"), inner("inner");
  Func out("out");
  out(i) = in(i + shift) * 2.0f;
  out.split(i, i, inner, factor, Halide::TailStrategy::RoundUp);
  out.output_buffer().dim(0).set_bounds(0, 16);
  int left = 0;
  RemoveEntryChecks remove(&left);
  Halide::Pipeline pipeline(out);
  pipeline.add_custom_lowering_pass(&remove, nullptr);
  pipeline.compile_to_callable(
      {in}, Halide::get_host_target().with_feature(Halide::Target::NoBoundsQuery));
  return left;
}

TEST(EntryChecks, WhatIsProvenIsNotAsserted) { EXPECT_EQ(left_of(0, true), 0); }

TEST(EntryChecks, ReadingOverTheEndStays) { EXPECT_GT(left_of(1, true), 0); }

TEST(EntryChecks, ARoundedSplitThatLeavesTheBufferStays) {
  EXPECT_GT(left_of(0, true, 5), 0);  // 20 elements
}

TEST(EntryChecks, WithoutConstraintsNothingIsProven) { EXPECT_GT(left_of(0, false), 0); }

TEST(EntryChecks, KernelsOfEveryKindNeedNone) {
  for (int index = 0; index < kExampleKinds; ++index) {
    const Workload workload = example_workload(2, index);
    const ScheduleSpace space = schedule_space(workload, *local_target(), 2);
    const auto kernel = compile_jit(space, default_schedule(space), {.assertions = true}, nullptr);
    ASSERT_TRUE(kernel.ok()) << kernel.status();
    EXPECT_EQ((*kernel)->assertions(), 0) << workload.describe();
  }
}

}  // namespace
}  // namespace chanas
