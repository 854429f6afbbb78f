#include "chanas/tune/importance.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chanas::internal {
namespace {

constexpr double kBehind = 0.1;  // of the best cut's time, for a factor e
constexpr double kLeast = 0.05;

// By element and cut; infinite where a workload has no valid record.
std::vector<std::vector<double>> times_of_cuts(const std::vector<std::vector<CutOf>>& cuts,
                                               const std::vector<double>& best_us) {
  std::vector<std::vector<double>> cut_us;
  for (size_t i = 0; i < cuts.size(); ++i) {
    for (const CutOf& place : cuts[i]) {
      const auto element = static_cast<size_t>(place.element), cut = static_cast<size_t>(place.cut);
      if (cut_us.size() <= element) cut_us.resize(element + 1);
      if (cut_us[element].size() <= cut) cut_us[element].resize(cut + 1);
      cut_us[element][cut] += best_us[i] > 0 ? best_us[i] : std::numeric_limits<double>::infinity();
    }
  }
  return cut_us;
}

}  // namespace

std::vector<double> importance(const std::vector<std::vector<CutOf>>& cuts,
                               const std::vector<double>& best_us) {
  const std::vector<std::vector<double>> cut_us = times_of_cuts(cuts, best_us);
  std::vector<double> result;
  for (const std::vector<CutOf>& places : cuts) {
    double sum = places.empty() ? 1 : 0;
    int element = -1;
    double most = 0;  // of the element
    for (const CutOf& place : places) {
      if (place.element != element) sum += most, most = 0;
      element = place.element;
      const std::vector<double>& times = cut_us[static_cast<size_t>(element)];
      const double best = *std::min_element(times.begin(), times.end());
      const double us = times[static_cast<size_t>(place.cut)];
      const double share = std::isinf(us) ? 0 : std::exp((1 - us / best) / kBehind);
      most = std::max({most, share, kLeast});
    }
    result.push_back(sum + most);
  }
  return result;
}

std::vector<bool> in_best_cut(const std::vector<std::vector<CutOf>>& cuts,
                              const std::vector<double>& best_us) {
  const std::vector<std::vector<double>> cut_us = times_of_cuts(cuts, best_us);
  std::vector<bool> result;
  for (const std::vector<CutOf>& places : cuts) {
    result.push_back(
        places.empty() || std::any_of(places.begin(), places.end(), [&](const CutOf& place) {
          const auto& times = cut_us[static_cast<size_t>(place.element)];
          return std::min_element(times.begin(), times.end()) - times.begin() == place.cut;
        }));
  }
  return result;
}

}  // namespace chanas::internal
