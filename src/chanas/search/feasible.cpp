#include "chanas/search/feasible.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace chanas {

Status check_feasible(const ArchSpace& space, const Evaluators& evaluators,
                      const std::vector<SubSpace>& cells, double limit_us) {
  CHANAS_CHECK(!cells.empty());
  if (std::isnan(limit_us)) {
    return absl::InvalidArgumentError("latency limit: found nan, expected microseconds");
  }
  auto fastest = std::min_element(cells.begin(), cells.end(), [&](const auto& a, const auto& b) {
    return evaluators.minimum_us(a) < evaluators.minimum_us(b);
  });
  const Arch arch = evaluators.minimum_arch(*fastest);
  // Not minimum_us(): that may differ in the last bit, and the limit holds for what latency_us
  // says.
  const double smallest_us = evaluators.latency_us(arch);
  if (smallest_us <= limit_us) return absl::OkStatus();
  return absl::OutOfRangeError(fmt::format(
      "latency limit {:.6g} us: no network of space {} ({}) is that fast; the smallest latency is "
      "{:.6g} us, with {}; raise the limit, use more threads or choose a smaller space",
      limit_us, space.name, cells.size() == 1 ? describe(*fastest) : "all sub-spaces", smallest_us,
      arch_id(space, arch)));
}

StatusOr<std::vector<double>> checked_accuracy(const ArchSpace& space, const Evaluators& evaluators,
                                               std::span<const Arch> archs) {
  std::vector<double> accuracies = evaluators.accuracy(archs);
  if (accuracies.size() != archs.size()) {
    return absl::InternalError(fmt::format("accuracy evaluator gave {} values for {} networks",
                                           accuracies.size(), archs.size()));
  }
  for (size_t i = 0; i < archs.size(); ++i) {
    if (!std::isfinite(accuracies[i])) {
      return absl::InternalError(fmt::format("accuracy evaluator gave {} for {}, expected a number",
                                             accuracies[i], arch_id(space, archs[i])));
    }
  }
  return accuracies;
}

}  // namespace chanas
