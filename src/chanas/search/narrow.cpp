// Which sub-space: statistics of random networks of every cell, and the three rules that read them.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "chanas/base/names.h"
#include "chanas/base/rng.h"
#include "chanas/base/stats.h"
#include "chanas/search/feasible.h"
#include "chanas/search/search.h"

namespace chanas {
namespace {

struct RuleName {
  NarrowRule rule;
  std::string_view name;
};
constexpr RuleName kRuleNames[] = {{NarrowRule::kPaper, "paper"},
                                   {NarrowRule::kTinyNas, "tinynas"},
                                   {NarrowRule::kAccuracy, "acc"}};

// Fills everything but accuracy_q90; returns the networks inside the limit that speak for the cell:
// its samples, or its fastest network when no sample is inside.
std::vector<Arch> measure_cell(const ArchSpace& space, const Evaluators& evaluators,
                               double limit_us, int delta, Rng rng, CellStatistics& cell) {
  const Arch fastest = evaluators.minimum_arch(cell.cell);
  cell.minimum_us = evaluators.latency_us(fastest);
  std::vector<Arch> inside;
  for (int i = 0; i < delta; ++i) {
    Arch arch = sample(space, cell.cell, rng);
    const double latency = evaluators.latency_us(arch);
    cell.latencies_us.push_back(latency);
    if (latency <= limit_us) inside.push_back(std::move(arch));
  }
  std::sort(cell.latencies_us.begin(), cell.latencies_us.end());
  cell.sampled = delta;
  cell.inside = static_cast<int>(inside.size());
  if (inside.empty() && cell.minimum_us <= limit_us) inside.push_back(fastest);
  for (const Arch& arch : inside) {
    cell.mean_latency_us += evaluators.latency_us(arch) / static_cast<double>(inside.size());
    cell.mean_macs +=
        static_cast<double>(macs(to_network(space, arch))) / static_cast<double>(inside.size());
  }
  return inside;
}

// The first cell with the highest score among those that can meet the limit; -1: there is none.
template <typename Score>
int best_cell(const std::vector<CellStatistics>& cells, double limit_us, Score score) {
  int best = -1;
  for (int i = 0; i < static_cast<int>(cells.size()); ++i) {
    if (cells[i].minimum_us > limit_us && cells[i].inside == 0) continue;
    if (best < 0 || score(cells[i]) > score(cells[best])) best = i;
  }
  return best;
}

// Accuracy of up to `probes` different networks of each cell, in one call.
Status probe_accuracy(const ArchSpace& space, const Evaluators& evaluators, int probes,
                      const std::vector<std::vector<Arch>>& inside,
                      std::vector<CellStatistics>& cells) {
  std::vector<Arch> archs;
  std::vector<size_t> counts;
  for (const std::vector<Arch>& candidates : inside) {
    std::set<std::string> seen;
    for (const Arch& arch : candidates) {
      if (static_cast<int>(seen.size()) == probes) break;
      if (seen.insert(arch_id(space, arch)).second) archs.push_back(arch);
    }
    counts.push_back(seen.size());
  }
  CHANAS_ASSIGN_OR_RETURN(std::vector<double> accuracies,
                          checked_accuracy(space, evaluators, archs));
  auto next = accuracies.begin();
  for (size_t i = 0; i < cells.size(); ++i) {
    auto last = next + static_cast<ptrdiff_t>(counts[i]);
    cells[i].accuracy_q90 = percentile({next, last}, 0.9);
    next = last;
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<NarrowRule> parse_narrow_rule(std::string_view name) {
  std::vector<std::string> names;
  for (const RuleName& known : kRuleNames) {
    if (known.name == name) return known.rule;
    names.emplace_back(known.name);
  }
  return absl::InvalidArgumentError(
      fmt::format("narrow rule: found '{}', expected one of {}", name, join(names)));
}

std::string_view narrow_rule_name(NarrowRule rule) {
  for (const RuleName& known : kRuleNames) {
    if (known.rule == rule) return known.name;
  }
  CHANAS_CHECK(false) << "rule " << static_cast<int>(rule);
  return "";
}

int NarrowResult::chosen(NarrowRule rule) const {
  switch (rule) {
    case NarrowRule::kPaper:
      return by_paper;
    case NarrowRule::kTinyNas:
      return by_tinynas;
    case NarrowRule::kAccuracy:
      return by_accuracy;
  }
  return -1;
}

StatusOr<NarrowResult> narrow(const ArchSpace& space, const Evaluators& evaluators, double limit_us,
                              const NarrowOptions& options) {
  if (options.delta < 1 || options.probes < 0) {
    return absl::InvalidArgumentError(
        fmt::format("narrow: found delta {} and probes {}, expected at least 1 and 0",
                    options.delta, options.probes));
  }
  CHANAS_RETURN_IF_ERROR(check_feasible(space, evaluators, space.cells(), limit_us));
  NarrowResult result;
  std::vector<std::vector<Arch>> inside;
  for (const SubSpace& cell : space.cells()) {
    CellStatistics& statistics = result.cells.emplace_back();
    statistics.cell = cell;
    inside.push_back(measure_cell(space, evaluators, limit_us, options.delta,
                                  Rng(options.seed, "narrow", inside.size()), statistics));
  }
  using Cell = CellStatistics;
  result.by_paper =
      best_cell(result.cells, limit_us, [](const Cell& c) { return -c.mean_latency_us; });
  result.by_tinynas = best_cell(result.cells, limit_us, [](const Cell& c) { return c.mean_macs; });
  if (evaluators.accuracy && options.probes > 0) {
    CHANAS_RETURN_IF_ERROR(probe_accuracy(space, evaluators, options.probes, inside, result.cells));
    result.by_accuracy =
        best_cell(result.cells, limit_us, [](const Cell& c) { return c.accuracy_q90; });
  }
  return result;
}

}  // namespace chanas
