// Prints how many latencies are evaluated per second, and checks that none of them allocates. Does
// not judge the speed.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "chanas/predict/latency.h"
#include "chanas/tune/testing_tune.h"

namespace {
std::atomic<int64_t> allocations = 0;
}

// AddressSanitizer has operators of its own; that build checks the rest.
#ifndef __SANITIZE_ADDRESS__
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace chanas {
namespace {

TEST(LatencyPerf, EvaluationsPerSecond) {
  // The paper's space at its last cell: five blocks of up to four units.
  const auto space = load_space("paper");
  ASSERT_TRUE(space.ok()) << space.status();
  const SubSpace cell = space->cells().back();
  const auto store = *Store::open(":memory:");
  const LatencyTable table = tuned_table(*store, space_elements(*space, cell), 1);
  const auto latency = LatencyPredictor::build(*space, table, {}, true, {cell});
  ASSERT_TRUE(latency.ok()) << latency.status();
  Rng rng(1);
  std::vector<Arch> archs;
  for (int i = 0; i < 1000; ++i) archs.push_back(sample(*space, cell, rng));

  constexpr int kRounds = 2000;
  const int64_t before = allocations;
  double sum = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round) {
    for (const Arch& arch : archs) sum += latency->latency_us(arch);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(allocations, before);
  EXPECT_GT(sum, 0);
  std::printf("latency predictor: %.1f million evaluations per second (goal 5)\n",
              1e-6 * kRounds * static_cast<double>(archs.size()) / seconds.count());
}

}  // namespace
}  // namespace chanas
