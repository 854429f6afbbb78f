#pragma once
// Runs a whole execution plan in this process.

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "chanas/measure/worker/kernel.h"
#include "chanas/schedule/plan.h"

namespace chanas {

// Kernels of earlier networks are kept, within a share of the memory: the networks of one space
// share most stages.
class NetworkRunner {
 public:
  explicit NetworkRunner(Runtimes& runtimes) : runtimes_(runtimes) {}

  // Random image and weights; `samples` timed calls after warming up. kInvalidArgument names a
  // stage that does not compile.
  StatusOr<NetworkMeasurement> measure(const ExecutionPlan& plan, int samples);

 private:
  // Workload, schedule, threads, what is prefetched.
  using Key = std::tuple<std::string, std::vector<int>, int, std::vector<PrefetchRange>>;
  static Key key_of(const ExecutionPlan& plan, const Stage& stage);
  // Compiles what is missing, on all cores.
  Status compile(const ExecutionPlan& plan, chanas_runtime* runtime);

  Runtimes& runtimes_;
  std::map<Key, std::unique_ptr<JitKernel>> kernels_;
};

}  // namespace chanas
