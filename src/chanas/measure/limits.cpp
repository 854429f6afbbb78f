#include "chanas/measure/limits.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace chanas {
namespace {

constexpr int kTurns = 7;

// Seconds of the slowest of `threads` threads that do `work(thread)` at once: the best turn.
double best_seconds(int threads, const std::function<void(int)>& work) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds(static_cast<size_t>(threads));
  double best = 1e9;
  std::barrier start(threads);
  std::barrier end(threads, [&]() noexcept {
    best = std::min(best, *std::max_element(seconds.begin(), seconds.end()));
  });
  auto run = [&](int thread) {
    for (int turn = 0; turn < kTurns; ++turn) {
      start.arrive_and_wait();
      const Clock::time_point begin = Clock::now();
      work(thread);
      seconds[static_cast<size_t>(thread)] =
          std::chrono::duration<double>(Clock::now() - begin).count();
      end.arrive_and_wait();
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
  run(0);
  for (std::thread& other : others) other.join();
  return best;
}

#ifdef __x86_64__

// Chains enough to hide the latency of a multiply-add (4 cycles, 2 a cycle) with room to spare.
constexpr int kChains = 12;
constexpr int64_t kSteps = 1'000'000;

// Each returns something that depends on all of its work.
__attribute__((target("avx512f"))) float multiply_add_16(int64_t steps) {
  const __m512 b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
  __m512 a[kChains];
  for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_fmadd_ps(a[i], b, c);
  }
  for (int i = 1; i < kChains; ++i) a[0] = _mm512_add_ps(a[0], a[i]);
  return a[0][0] + a[0][15];
}

__attribute__((target("avx2,fma"))) float multiply_add_8(int64_t steps) {
  const __m256 b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
  __m256 a[kChains];
  for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) a[i] = _mm256_fmadd_ps(a[i], b, c);
  }
  for (int i = 1; i < kChains; ++i) a[0] = _mm256_add_ps(a[0], a[i]);
  return a[0][0] + a[0][7];
}

__attribute__((target("avx2"))) float read_all(const float* data, int64_t floats) {
  __m256 sum[8];
  for (__m256& s : sum) s = _mm256_setzero_ps();
  for (int64_t i = 0; i + 64 <= floats; i += 64) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sum[j] = _mm256_add_ps(sum[j], _mm256_loadu_ps(data + i + 8 * j));
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_add_ps(sum[0], sum[j]);
  return sum[0][0] + sum[0][7];
}

#endif

}  // namespace

MachineLimits measure_limits(const Target& target, int threads) {
  MachineLimits limits;
#ifdef __x86_64__
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return limits;
  std::atomic<float> sink = 0;  // keeps the work
  auto rate = [&](int vector, float (*work)(int64_t)) {
    const double seconds = best_seconds(threads, [&](int) { sink = work(kSteps); });
    return 2e-9 * static_cast<double>(vector * kChains * kSteps * threads) / seconds;
  };
  limits.gflops = rate(8, multiply_add_8);
  if (__builtin_cpu_supports("avx512f"))
    limits.gflops = std::max(limits.gflops, rate(16, multiply_add_16));
  // Half of the cache: a network's weights and activations share it with the rest of the machine.
  const int64_t bytes = target.l3_bytes / 2 / threads / 64 * 64;
  const int64_t floats = bytes / int64_t{sizeof(float)};
  const std::vector<float> data(static_cast<size_t>(floats * threads + 16), 1.0f);
  const float* aligned = data.data();
  while (reinterpret_cast<uintptr_t>(aligned) % 64 != 0) ++aligned;
  const double seconds = best_seconds(
      threads, [&](int thread) { sink = read_all(aligned + thread * floats, floats); });
  limits.cache_gb_per_s = 1e-9 * static_cast<double>(bytes * threads) / seconds;
#else
  (void)target;
  (void)threads;
#endif
  return limits;
}

StageCost stage_cost(const ExecutionPlan& plan, const Stage& stage, const MachineLimits& limits) {
  StageCost cost;
  const Graph& graph = stage.workload.graph;
  cost.macs = static_cast<double>(macs_without_padding(graph));
  int64_t floats = plan.buffers[static_cast<size_t>(stage.output)].shape.elements();
  for (int input : stage.inputs)
    floats += plan.buffers[static_cast<size_t>(input)].shape.elements();
  cost.bytes = static_cast<double>(floats * int64_t{sizeof(float)} + weight_bytes(graph));
  if (limits.gflops > 0) {
    cost.roofline_us =
        std::max(2e-3 * cost.macs / limits.gflops, 1e-3 * cost.bytes / limits.cache_gb_per_s);
  }
  return cost;
}

}  // namespace chanas
