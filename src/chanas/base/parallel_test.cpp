#include "chanas/base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <set>
#include <vector>

namespace chanas {
namespace {

TEST(ParallelTest, EveryJobRunsOnceOnAWorkerOfItsOwn) {
  for (const size_t workers : {0, 1, 3, 20}) {
    std::vector<std::atomic<int>> runs(10);
    std::vector<std::atomic<int>> busy(20);
    EXPECT_TRUE(for_each(runs.size(), workers, [&](size_t job, size_t worker) {
                  EXPECT_LT(worker, std::max<size_t>(1, workers));
                  EXPECT_EQ(++busy[worker], 1);
                  ++runs[job];
                  --busy[worker];
                  return absl::OkStatus();
                }).ok());
    for (const auto& count : runs) EXPECT_EQ(count, 1);
  }
  EXPECT_TRUE(for_each(0, 4, [](size_t, size_t) { return absl::InternalError("none"); }).ok());
}

TEST(ParallelTest, WorkersRunSideBySide) {
  std::latch all(3);  // opens only when three jobs are there at once
  EXPECT_TRUE(for_each(3, 3, [&](size_t, size_t) {
                all.arrive_and_wait();
                return absl::OkStatus();
              }).ok());
}

TEST(ParallelTest, AnErrorStopsWhatHasNotBegun) {
  std::set<size_t> ran;
  const Status status = for_each(10, 1, [&](size_t job, size_t) -> Status {
    ran.insert(job);
    if (job == 3) return absl::DataLossError("job 3");
    return absl::OkStatus();
  });
  EXPECT_EQ(status.message(), "job 3");
  EXPECT_EQ(ran, (std::set<size_t>{0, 1, 2, 3}));
  EXPECT_EQ(for_each(8, 8, [](size_t, size_t) { return absl::DataLossError("all"); }).message(),
            "all");
}

}  // namespace
}  // namespace chanas
