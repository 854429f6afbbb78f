#pragma once
// Internal to tune: a schedule and a workload as numbers that a cost model can compare.
//
// Fields are found through schedule/tiling.h, never by name: whatever choice a workload does not
// offer has the value that it always has, so that workloads of one kind line up even where their
// spaces differ.

#include <cstdint>
#include <vector>

#include "chanas/schedule/schedule.h"

namespace chanas::internal {

// Time that no schedule can beat by much: arithmetic at full width against bytes, whichever is
// more. A scale, not a prediction; the same formula on every device.
double roofline_us(const Workload& workload, const Target& target, int threads);

struct ScheduleFeatures {
  // Values of every kind of choice of every op, in the order (op, kind), inputs left out: as many
  // for all workloads of one kind.
  std::vector<int> choices;
  // What they mean together, in octaves: accumulators and waste of each op, working set, parallel
  // grain, and last the draft score.
  std::vector<double> derived;
};
ScheduleFeatures schedule_features(const ScheduleSpace& space, const Schedule& schedule);

// For each choice whether it is ordinal (split factors, widths, unrolling, levels) or a category;
// kUnknown where the space does not offer it.
enum class ChoiceType : int8_t { kUnknown, kOrdinal, kCategory };
std::vector<ChoiceType> choice_types(const ScheduleSpace& space);
// Position among the choices of each field of the space.
std::vector<int> field_slots(const ScheduleSpace& space);

// Octaves of size of the workload; as many for all workloads of one kind.
std::vector<double> shape_features(const Workload& workload);

// The draft model: time by counting vector instructions, spills, recomputation and traffic. Good
// enough to leave out what is clearly poor before the cost model looks at it.
double draft_us(const ScheduleSpace& space, const Schedule& schedule);

}  // namespace chanas::internal
