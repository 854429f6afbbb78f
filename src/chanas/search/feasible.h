#pragma once
// What every search checks before and around its evaluators. Internal to the module.

#include <span>
#include <vector>

#include "chanas/search/search.h"

namespace chanas {

// kOutOfRange when none of `cells` has a network inside the limit: names the smallest latency they
// reach. kInvalidArgument when the limit is not a number.
Status check_feasible(const ArchSpace& space, const Evaluators& evaluators,
                      const std::vector<SubSpace>& cells, double limit_us);

// One finite accuracy per arch, or kInternal: the evaluator gave up.
StatusOr<std::vector<double>> checked_accuracy(const ArchSpace& space, const Evaluators& evaluators,
                                               std::span<const Arch> archs);

}  // namespace chanas
