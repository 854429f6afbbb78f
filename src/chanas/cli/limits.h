#pragma once
// What this machine could do at best, measured: the two lines of a roofline.

namespace chanas {

struct Target;

struct MachineLimits {
  double gflops = 0;          // float32 multiply-adds from registers, two operations each
  double cache_gb_per_s = 0;  // reading memory that fits the last-level cache
};

// Of `threads` threads together; takes about a quarter of a second. The best of several turns, so
// that other programs' work lowers neither. Zeros on a CPU without AVX2.
MachineLimits measure_limits(const Target& target, int threads);

}  // namespace chanas
