#pragma once
// Internal to tune: what the time of a workload matters to the elements that may be cut into it.

#include <vector>

#include "chanas/tune/tuner.h"

namespace chanas::internal {

// One number per workload: the sum over elements of 1 where one of the best cut's workloads, less
// the further its best cut is behind the best one (by a factor e for every tenth), at least a
// twentieth, because a cut that is behind may have been tried little. `best_us` holds 0 where a
// workload has no valid record yet. 1 for a workload without cuts.
std::vector<double> importance(const std::vector<std::vector<CutOf>>& cuts,
                               const std::vector<double>& best_us);

// Whether the time of a workload is part of a table row: one of its cuts is an element's best, or
// it has none.
std::vector<bool> in_best_cut(const std::vector<std::vector<CutOf>>& cuts,
                              const std::vector<double>& best_us);

}  // namespace chanas::internal
