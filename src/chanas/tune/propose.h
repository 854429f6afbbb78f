#pragma once
// Internal to tune: the search strategy of one workload.

#include <optional>
#include <set>
#include <vector>

#include "chanas/base/rng.h"
#include "chanas/tune/history.h"
#include "chanas/tune/tuner.h"

namespace chanas::internal {

// The paper's rule for start points (section 4 step 1) on times, as FlexTensor does it: a random
// point is accepted with exp(-gamma (t - t*) / t*), else the best one is taken. Returns an index.
size_t start_point(const std::vector<double>& times, double gamma, Rng& rng);

// As propose() in tuner.h; `pending` are candidates that are being measured and not to be proposed
// again.
std::optional<Proposal> propose(const ScheduleSpace& space, const History& history,
                                const std::set<Schedule>& pending, const TuneOptions& options);

}  // namespace chanas::internal
