#pragma once
// How a whole network runs: its stages in order, one activation arena, one weight arena in
// execution order. The same plan is measured by the worker and exported as a C library.

#include <string>
#include <vector>

#include "chanas/schedule/schedule.h"

namespace chanas {

// A cut of one element and the schedule of each of its groups.
struct ElementChoice {
  std::string cut;  // Cut::name
  std::vector<Schedule> schedules;
};

// What every thread fetches of the weight arena: thread t `bytes` bytes, from t * stride bytes
// behind `begin` on, which counts from the beginning of a stage's own weights. Stride 0: all of
// them the same.
struct PrefetchRange {
  int64_t begin = 0, bytes = 0, stride = 0;
  friend auto operator<=>(const PrefetchRange&, const PrefetchRange&) = default;
};

struct Stage {
  std::string name;  // "units.3/expand+depthwise"
  Workload workload;
  Schedule schedule;
  std::vector<std::string> names;  // parameter prefix of each op (Group::names)
  std::vector<int> inputs;         // buffers, in the order of the workload's kInput ops
  int output = 0;                  // buffer
  int64_t weight_offset = 0;       // floats into the weight arena
  // Weights ahead of those in use that it fetches into the cache while it computes: with one thread
  // what no stage before has fetched of its own, and the next stages'; with several what each of
  // them uses of the next stages'. Empty where it has no time for that.
  std::vector<PrefetchRange> prefetch = {};
};

// A value of the network; buffers whose lives do not overlap share bytes of the arena.
struct Buffer {
  Shape shape;
  int64_t offset_bytes = 0;  // into the activation arena, 64-byte aligned; -1: the caller's memory
};

struct ExecutionPlan {
  std::string network;
  Target target;
  int threads = 1;
  std::vector<Buffer> buffers;
  int input = 0;   // buffer: image [h, w, 3], the caller's memory
  int output = 0;  // buffer: logits [1, 1, classes], the caller's memory
  std::vector<Stage> stages;
  int64_t activation_bytes = 0;
  int64_t weight_floats = 0;
};

// What a stage between two like it would find and do: candidates are measured so.
struct Fetching {
  std::vector<PrefetchRange> fetched;   // of its weights, by the stage before
  std::vector<PrefetchRange> prefetch;  // Stage::prefetch
};
// A pure function of its arguments; the schedule is legal (checked by packing).
Fetching usual_fetching(const ScheduleSpace& space, const Schedule& schedule);

// choices[i] belongs to elements[i]. kInvalidArgument when a cut or schedule does not fit. The name
// of the network is left to the caller.
StatusOr<ExecutionPlan> make_plan(const CutNetwork& network, const Target& target, int threads,
                                  const std::vector<ElementChoice>& choices);
// The first cut ("unfused") of every element under default schedules: the untuned network.
StatusOr<ExecutionPlan> default_plan(const CutNetwork& network, const Target& target, int threads);

// The weight arena: every stage's packed weights, from folded parameters of the fused graph.
StatusOr<std::vector<float>> pack_plan(const ExecutionPlan& plan, const Parameters& parameters);

// Without offsets: reading lays the buffers and weights out again. plan_from_json: kInvalidArgument
// for wrong types, buffers that do not fit, illegal schedules and schedules of another version.
Json to_json(const ExecutionPlan& plan);
StatusOr<ExecutionPlan> plan_from_json(const Json& json);

}  // namespace chanas
