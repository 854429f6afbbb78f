#pragma once
// Independent jobs on several threads.

#include <cstddef>
#include <functional>

#include "chanas/base/status.h"

namespace chanas {

// Calls work(job, worker) for every job in [0, jobs), in their order, on `workers` threads of which
// the caller's is one; each worker has one job at a time. After an error no further job begins;
// those begun are finished, and the error of the lowest job is returned. `work` must not throw.
Status for_each(size_t jobs, size_t workers,
                const std::function<Status(size_t job, size_t worker)>& work);

}  // namespace chanas
