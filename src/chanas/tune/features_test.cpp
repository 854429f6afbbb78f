#include "chanas/tune/features.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "chanas/graph/workload.h"
#include "chanas/schedule/tiling.h"

namespace chanas::internal {
namespace {

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
  // Rows at the seams are computed twice, and those of a last strip that is shifted inwards.
  EXPECT_LT(draft_us(space, strips), draft_us(space, changed(strips, "op3.strip", 1)));
  const int rows = tiles.back().view.h;
  ASSERT_EQ(rows % 16, 8);
  EXPECT_LT(draft_us(space, changed(strips, "op3.strip", 28)),
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
    const StatusOr<Schedule> schedule = parse_schedule(space, text);
    CHANAS_CHECK(schedule.ok()) << schedule.status();
    return draft_us(space, *schedule);
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
    const StatusOr<Schedule> schedule = parse_schedule(space, text);
    CHANAS_CHECK(schedule.ok()) << schedule.status();
    return draft_us(space, *schedule);
  };
  EXPECT_GT(draft(2) - draft(3), 1);  // us
}

}  // namespace
}  // namespace chanas::internal
