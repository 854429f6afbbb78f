#pragma once
// Small workloads and made-up records for tests of the store.

#include <vector>

#include "chanas/store/store.h"

namespace chanas {

// A pointwise convolution of a 4x4 map with c_in -> c_out channels.
Workload small_workload(int c_in, int c_out);
RecordKey small_key();
// A valid record whose latency is `us`, or with `error` a failed one.
Record small_record(const Workload& workload, const Schedule& schedule, double us,
                    TrialError error = TrialError::kNone);
// Puts the simulated device and the workload.
Status put_small(Store& store, const Workload& workload);

}  // namespace chanas
