#pragma once
// Serves the requests of one parent, one after the other (README.md lists them).

#include <map>
#include <memory>

#include "chanas/base/json.h"
#include "chanas/measure/worker/kernel.h"
#include "chanas/measure/worker/network.h"
#include "chanas/measure/worker/timing.h"

namespace chanas {

class Worker {
 public:
  // The reply, without "id". A request that makes no sense gets {"message": ...}.
  Json serve(const Json& request);

 private:
  StatusOr<Json> dispatch(const Json& request);
  StatusOr<Json> hello(const Json& request);
  StatusOr<Json> build(const Json& request);
  StatusOr<Json> run(const Json& request);
  StatusOr<Json> canary(const Json& request);
  StatusOr<Json> network(const Json& request);
  StatusOr<Json> object(const Json& request);
  StatusOr<Json> dump(const Json& request);
  struct Task {
    ScheduleSpace space;
    Schedule schedule;
  };
  StatusOr<Task> task(const Json& request) const;

  Target target_ = simulated_target();
  Runtimes runtimes_;
  References references_;
  ColdMemory cold_;
  std::map<int64_t, std::unique_ptr<Kernel>> kernels_;
  std::map<int, std::unique_ptr<Kernel>> canaries_;  // by threads
  NetworkRunner networks_{runtimes_};
};

}  // namespace chanas
