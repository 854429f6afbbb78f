#include "chanas/tune/features.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "chanas/graph/workload.h"
#include "chanas/schedule/tiling.h"

namespace chanas::internal {
namespace {

double draft_of(const ScheduleSpace& space, const std::string& text) {
  const StatusOr<Schedule> schedule = parse_schedule(space, text);
  CHANAS_CHECK(schedule.ok()) << schedule.status();
  return draft_us(space, *schedule);
}

// A unit whose expanded map is larger than the caches, made strip by strip: the depthwise
// convolution holds all channels in one slice and hands the strips on to the expansion.
TEST(Draft, KnowsOfStripsThroughAnUnslicedOp) {
  const Unit unit{.h_in = 112, .c_in = 16, .c_mid = 48, .c_out = 24, .kernel = 3, .stride = 2};
  const auto element = unit_element(unit);
  const auto cut = std::ranges::find(element.cuts, "all", &Cut::name);
  ASSERT_NE(cut, element.cuts.end());
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  target.l2_bytes = 1 << 20;
  const ScheduleSpace space = schedule_space(cut->groups[0].workload, target, 1);
  const std::vector<OpRole> roles = op_roles(space.workload);
  const auto changed = [&](Schedule schedule, const char* field, int value) {
    const int found = space.find(field);
    CHANAS_CHECK(found >= 0) << field;
    schedule.values[static_cast<size_t>(found)] = value;
    return schedule;
  };
  Schedule whole = changed(default_schedule(space), "op3.strip", 0), strips;
  for (const int slice : space.fields[static_cast<size_t>(space.find("op2.slice"))].choices) {
    if (slice == 0) continue;
    whole = changed(whole, "op2.slice", slice);
    strips = changed(whole, "op3.strip", 8);
    if (!resolve(space, roles, strips)[2].sliced()) break;
  }
  const std::vector<OpTile> tiles = resolve(space, roles, strips);
  ASSERT_TRUE(tiles[2].inside && !tiles[2].sliced() && tiles[2].in_strips);
  // The expanded map does not leave the second cache any more.
  EXPECT_LT(draft_us(space, strips), 0.8 * draft_us(space, whole));
  // Rows at the seams are kept, those of a last strip that is shifted inwards computed twice.
  EXPECT_TRUE(tiles[2].keeps_rows);
  // 56 rows are 4 strips of 14, of 16 as well, in which the last is shifted.
  ASSERT_EQ(tiles.back().view.h, 56);
  EXPECT_LT(draft_us(space, changed(strips, "op3.strip", 14)),
            draft_us(space, changed(strips, "op3.strip", 16)));
}

// Two threads share 7 blocks of channels as 4 and 3, and one that does all takes twice as long.
TEST(Draft, KnowsOfUnequalSharesOfThreads) {
  const Unit unit{.h_in = 14, .c_in = 64, .c_mid = 112, .c_out = 64};
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  const ScheduleSpace space =
      schedule_space(unit_element(unit).cuts[0].groups[0].workload, target, 2);
  const auto draft = [&](int parallel) {
    const std::string text = fmt::format(
        "op1.vector=16 op1.channel_vectors=1 op1.pixels=14 op1.unroll=1 op1.order=0 "
        "op1.parallel={}",
        parallel);
    return draft_of(space, text);
  };
  const double even = draft(2);  // 7 blocks on 14 tiles of pixels
  EXPECT_LT(even, draft(1));
  EXPECT_LT(draft(1), 8.0 / 7 * even + 1e-9);
  EXPECT_GT(draft(0), 1.7 * even);
}

// What the threads make of a wide map for each other passes from core to core; sums of a narrow one
// are less.
TEST(Draft, KnowsWhatPassesFromCoreToCore) {
  const Unit unit{.h_in = 14, .c_in = 64, .c_mid = 384, .c_out = 64};
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  const auto cuts = unit_element(unit).cuts;
  const auto whole = std::ranges::find(cuts, std::string("all"), &Cut::name);
  ASSERT_NE(whole, cuts.end());
  const ScheduleSpace space = schedule_space(whole->groups[0].workload, target, 2);
  const auto draft = [&](int parallel) {
    const std::string text = fmt::format(
        "op1.vector=16 op1.channel_vectors=3 op1.pixels=7 op1.unroll=1 op1.order=0 op1.parallel=1 "
        "op2.channel_vectors=1 op2.pixels=14 op2.unroll=0 op2.order=0 op2.border=0 op2.slice=1 "
        "op2.parallel=1 op3.vector=16 op3.channel_vectors=4 op3.pixels=7 op3.unroll=1 op3.order=0 "
        "op3.strip=0 op3.parallel={}",
        parallel);
    return draft_of(space, text);
  };
  EXPECT_GT(draft(2) - draft(3), 1);  // us
}

// A tile of few pixels waits for weights that the first cache does not hold until they repeat: a
// block's are 43 kB, those of all blocks, which rows outermost goes through, 129 kB.
TEST(Draft, KnowsOfWeightsThatLeaveTheFirstCache) {
  const Unit unit{.h_in = 14, .c_in = 168, .c_mid = 192, .c_out = 64};
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  target.l1_bytes = 96 << 10;
  const ScheduleSpace space =
      schedule_space(unit_element(unit).cuts[0].groups[0].workload, target, 1);
  const auto draft = [&](int pixels, int order) {
    return draft_of(space, fmt::format("op1.vector=16 op1.channel_vectors=4 op1.pixels={} "
                                       "op1.unroll=1 op1.order={}",
                                       pixels, order));
  };
  EXPECT_GT(draft(2, 1), 1.1 * draft(2, 0));
  EXPECT_EQ(draft(7, 1), draft(7, 0));  // enough multiply-adds for each weight
}

// An input of 376 kB is read once; a zero-bordered copy of it is written and read.
TEST(Draft, KnowsOfInputsAndTheirCopies) {
  const Unit unit{.h_in = 28, .c_in = 40, .c_mid = 120, .c_out = 40, .kernel = 5};
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  const auto element = unit_element(unit);
  const auto depthwise = std::ranges::find_if(element.cuts[0].groups, [](const Group& group) {
    return group.workload.kind() == "depthwise";
  });
  ASSERT_NE(depthwise, element.cuts[0].groups.end());
  const auto draft = [&](int border, int64_t l1_bytes) {
    target.l1_bytes = l1_bytes;
    const ScheduleSpace space = schedule_space(depthwise->workload, target, 1);
    return draft_of(space, fmt::format("op1.vector=16 op1.channel_vectors=1 op1.pixels=14 "
                                       "op1.unroll=0 op1.order=0 op1.border={} op1.slice=0 "
                                       "op1.strip=0",
                                       border));
  };
  const int64_t all = 1 << 20, little = 32 << 10;
  const double read = draft(0, little) - draft(0, all);  // us
  EXPECT_GT(read, 1);
  EXPECT_NEAR(draft(1, little) - draft(0, little), 2 * read, 1e-6);
}

}  // namespace
}  // namespace chanas::internal
