#pragma once
// How a call is timed: single calls on cold weights, and the spread that tells a bad measurement.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "chanas/measure/measure.h"
#include "chanas/runtime/runtime.h"

namespace chanas {

// Memory that other memory is pushed out of the caches with.
class ColdMemory {
 public:
  // Reads `bytes` of it on every thread of `runtime`, as the rest of a network would.
  void stream(chanas_runtime* runtime, int64_t bytes);

 private:
  std::vector<uint64_t> words_;
};

// Reads on every thread what the stage before has fetched for it of the weights at `weights`.
void fetch(chanas_runtime* runtime, const float* weights, const std::vector<PrefetchRange>& ranges);

struct TimedCall {
  std::function<int()> call;      // 0, or an error code
  std::function<void()> prepare;  // leaves memory as the rest of a network would
  std::function<double()> now_us = [] { return static_cast<double>(chanas_now_ns()) * 1e-3; };
};

// Writes every cache line of a buffer, values unchanged, each thread its own part: a stage before
// this one has just made it.
void rewrite(chanas_runtime* runtime, float* data, size_t size);
// The same of the top `bytes` of every thread's scratch memory, where earlier stages kept theirs.
void use_scratch(chanas_runtime* runtime, size_t bytes);

// Fills samples_us, latency_us and warm_us; kUnstable when the middle half of the samples spreads
// too much twice, kCrash when the call fails. `cold`: never two calls in a row, the second of which
// would find warm what the first has used.
MeasureResult time_call(const TimedCall& timed, chanas_runtime* runtime, int samples, bool cold);

// What decides on which cores is measured.
struct CoreFacts {
  int core = 0;
  std::string siblings;  // all hardware threads of its core, as the system writes them
  int64_t speed = 0;     // higher is faster; 0: not known
};
// The cores in the order in which threads get them: hardware threads with a core of their own
// before second ones of a core, faster before slower ones (hybrid processors), and of equal ones
// the last, as the system's own work prefers the first.
std::vector<int> best_cores(std::vector<CoreFacts> cores);

// Pins the calling thread and the runtime's own threads to one core each, and lets them go again.
class Pinned {
 public:
  explicit Pinned(chanas_runtime* runtime);
  ~Pinned();
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  chanas_runtime* runtime_;
  std::vector<int> cores_;
};

}  // namespace chanas
