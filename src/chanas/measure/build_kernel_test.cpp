#include <gtest/gtest.h>

#include "chanas/graph/workload.h"
#include "chanas/measure/worker/kernel.h"

namespace chanas {

CompileOptions& compiled_with();  // testing_codegen.cpp

namespace {

// What is timed prefetches what it would in a network, out of memory that is there.
TEST(BuildKernel, PrefetchesAsInANetwork) {
  const Unit unit{.h_in = 7, .c_in = 64, .c_mid = 128, .c_out = 64};
  Runtimes runtimes;
  References references;
  for (const int threads : {1, 2}) {
    for (const Cut& cut : unit_element(unit).cuts) {
      const Workload& workload = cut.groups[0].workload;
      const ScheduleSpace space = schedule_space(workload, simulated_target(), threads);
      const Fetching usual = usual_fetching(space, default_schedule(space));
      ASSERT_FALSE(usual.prefetch.empty()) << workload.describe();
      MeasureResult result;
      const auto kernel = build_kernel(space, default_schedule(space), *runtimes.get(threads),
                                       references.get(workload), result);
      ASSERT_TRUE(result.ok()) << result.message;
      EXPECT_EQ(compiled_with().prefetch, usual.prefetch);
      EXPECT_EQ(kernel->fetching.fetched, usual.fetched);
      const PrefetchRange& last = usual.prefetch.back();
      EXPECT_GE(static_cast<int64_t>(kernel->weights.size() * sizeof(float)),
                last.begin + last.bytes + last.stride * (threads - 1));
    }
  }
}

}  // namespace
}  // namespace chanas
