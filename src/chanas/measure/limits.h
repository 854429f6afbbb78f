#pragma once
// What this machine could do at best, measured: the two lines of a roofline, and where a stage of a
// network stands under them.

#include "chanas/schedule/plan.h"

namespace chanas {

struct MachineLimits {
  double gflops = 0;          // float32 multiply-adds from registers, two operations each
  double cache_gb_per_s = 0;  // reading memory that fits the last-level cache
};

// Of `threads` threads together; takes about a quarter of a second. The best of several turns, so
// that other programs' work lowers neither. Zeros on a CPU without AVX2.
MachineLimits measure_limits(const Target& target, int threads);

// One stage of a plan: its multiply-adds (none on padding), its operands (each read or written
// once), and the time of the slower of the two at the limits, in microseconds; 0 where the limits
// are not known.
struct StageCost {
  double macs = 0, bytes = 0, roofline_us = 0;
};
StageCost stage_cost(const ExecutionPlan& plan, const Stage& stage, const MachineLimits& limits);

}  // namespace chanas
