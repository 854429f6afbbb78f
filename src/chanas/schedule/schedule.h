#pragma once
// The schedule of one workload as a vector of decisions (paper section 4, Table 1). The outermost
// loop is the parallel one (a field may make it serial) and the innermost is always vectorised;
// everything else is a field. The
// vector is what the store keeps, the cost model sees, mutation edits, and the trace prints.

#include <string>
#include <string_view>
#include <vector>

#include "chanas/base/rng.h"
#include "chanas/graph/workload.h"
#include "chanas/target/target.h"

namespace chanas {

// Changes whenever the meaning of a vector or the generated code changes: rows of other versions
// are never used.
inline constexpr int kScheduleVersion = 5;

// Table 1 of the paper.
enum class Primitive {
  kSplit,
  kFuse,
  kReorder,
  kUnroll,
  kVectorize,
  kParallel,
  kInline,
  kComputeAt,
  kCache,
  kBind
};
std::string_view primitive_name(Primitive primitive);

// One decision: a named position of the vector and the values that it may take.
struct Field {
  std::string name;  // "<op>.<what>": "op0.vector", "op1.pixels"
  Primitive primitive = Primitive::kSplit;
  std::vector<int> choices;  // ascending
  int extent = 0;            // of the loop that a split factor cuts; 0: the value is not a factor
};
// What a field does, when it helps, what it costs; by the part of the name after the dot.
std::string_view field_help(std::string_view name);

// One value per field of the workload's space, in its order.
struct Schedule {
  std::vector<int> values;
  friend bool operator==(const Schedule&, const Schedule&) = default;
  friend auto operator<=>(const Schedule&, const Schedule&) = default;
};

// The fields of a workload on a target with `threads` threads; a pure function of its arguments.
struct ScheduleSpace {
  Workload workload;
  Target target;
  int threads = 1;
  std::vector<Field> fields;

  int find(std::string_view name) const;  // index, or -1
  // Value of a named field; CHECKs that it exists.
  int value(const Schedule& schedule, std::string_view name) const;
};
ScheduleSpace schedule_space(const Workload& workload, const Target& target, int threads);

// OK, or kInvalidArgument with the rule that the vector breaks (length, value not offered, register
// budget, unrolled body too large, tile larger than the loop, forbidden combination).
Status check_legal(const ScheduleSpace& space, const Schedule& schedule);

// The untuned schedule: a good fixed rule per op kind, no fusion across ops beyond the cut itself.
// Always legal.
Schedule default_schedule(const ScheduleSpace& space);
// What few steps of a search lead to from the default: its register tiles in other orders of work
// (rows in strips that fit into the near caches, and a reduction that the threads share), and those
// of the other vector width where that may be as fast. Legal; none where the workload offers none
// of them.
std::vector<Schedule> structured_schedules(const ScheduleSpace& space);
// A random legal point.
Schedule random_schedule(const ScheduleSpace& space, Rng& rng);
// One to three fields redrawn (neighbouring choices likelier than distant ones; split factors that
// divide the extent likelier than others, paper Fig. 9); legal and different from `schedule` unless
// the space has one point.
Schedule mutate(const ScheduleSpace& space, const Schedule& schedule, Rng& rng);
Schedule crossover(const ScheduleSpace& space, const Schedule& a, const Schedule& b, Rng& rng);

// "op0.vector=16 op0.channel_vectors=2 ..." and back. parse: kInvalidArgument.
std::string to_text(const ScheduleSpace& space, const Schedule& schedule);
StatusOr<Schedule> parse_schedule(const ScheduleSpace& space, std::string_view text);
Json to_json(const Schedule& schedule);
StatusOr<Schedule> schedule_from_json(const Json& json);

}  // namespace chanas
