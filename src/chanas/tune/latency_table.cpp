#include "chanas/tune/latency_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace chanas {
namespace {

using Summaries = std::map<std::string, TuningSummary>;

StatusOr<Summaries> read_summaries(Store& store, const RecordKey& key) {
  CHANAS_ASSIGN_OR_RETURN(std::vector<TuningSummary> list, store.summaries(key));
  Summaries summaries;
  for (TuningSummary& summary : list) summaries.emplace(summary.workload, std::move(summary));
  return summaries;
}

StatusOr<TableRow> make_row(const Store& store, const RecordKey& key, const Element& element,
                            const Summaries& summaries) {
  TableRow row;
  row.key = element.key;
  std::set<std::string> counted;
  std::string failing;
  for (const Cut& cut : element.cuts) {
    ElementChoice best{cut.name, {}}, untuned{cut.name, {}};
    double best_us = 0, default_us = 0;
    int64_t oldest_s = 0;
    std::vector<TableRow::Stage> stages, default_stages;
    for (const Group& group : cut.groups) {
      const std::string fingerprint = group.workload.fingerprint();
      const auto found = summaries.find(fingerprint);
      if (found == summaries.end()) {
        return absl::NotFoundError(fmt::format(
            "store '{}' has no record of {} ({}, of \"{}\") for {}; measure it with: "
            "chanas tune",
            store.path(), group.workload.describe(), fingerprint, element.key, describe(key)));
      }
      const TuningSummary& summary = found->second;
      if (counted.insert(fingerprint).second) row.trials += summary.trials;
      if (summary.best_us == 0) {
        failing = fmt::format("{} schedules of {} failed, the last one with {}", summary.trials,
                              group.workload.describe(), summary.failure);
        break;
      }
      const bool has_default = summary.default_us > 0;
      best.schedules.push_back(summary.best);
      best_us += summary.best_us;
      untuned.schedules.push_back(has_default ? summary.default_schedule : summary.best);
      const double untuned_us = has_default ? summary.default_us : summary.best_us;
      default_us += untuned_us;
      oldest_s = stages.empty() ? summary.time_s : std::min(oldest_s, summary.time_s);
      stages.push_back({fingerprint, group.workload.kind(), summary.best_us});
      default_stages.push_back({fingerprint, group.workload.kind(), untuned_us});
    }
    if (stages.size() < cut.groups.size()) continue;
    if (row.stages.empty() || best_us < row.latency_us) {
      row.choice = std::move(best);
      row.latency_us = best_us;
      row.oldest_s = oldest_s;
      row.stages = std::move(stages);
    }
    if (row.default_cut.empty()) {
      row.default_cut = cut.name;
      row.default_us = default_us;
      row.default_choice = std::move(untuned);
      row.default_stages = std::move(default_stages);
    }
  }
  if (row.stages.empty()) {
    return absl::NotFoundError(
        fmt::format("no cut of \"{}\" can be run: all {}; look for the cause with: chanas doctor",
                    element.key, failing));
  }
  return row;
}

}  // namespace

StatusOr<LatencyTable> LatencyTable::build(Store& store, const RecordKey& key, const Target& target,
                                           const std::vector<Element>& elements) {
  CHANAS_CHECK(key.device == target.fingerprint()) << key.device << " is not " << target.name;
  LatencyTable table;
  table.key_ = key;
  table.target_ = target;
  CHANAS_RETURN_IF_ERROR(table.extend(store, elements));
  return table;
}

const TableRow* LatencyTable::find(const std::string& key) const {
  const auto row = rows_.find(key);
  return row == rows_.end() ? nullptr : &row->second;
}

Status LatencyTable::extend(Store& store, const std::vector<Element>& elements) {
  CHANAS_ASSIGN_OR_RETURN(const Summaries summaries, read_summaries(store, key_));
  std::map<std::string, TableRow> added;
  for (const Element& element : elements) {
    if (find(element.key) != nullptr || added.contains(element.key)) continue;
    CHANAS_ASSIGN_OR_RETURN(TableRow row, make_row(store, key_, element, summaries));
    added.emplace(element.key, std::move(row));
  }
  rows_.merge(added);
  return absl::OkStatus();
}

StatusOr<ExecutionPlan> LatencyTable::plan(const Network& network, bool tuned) const {
  return plan(cut_network(network), network.name, tuned);
}

StatusOr<ExecutionPlan> LatencyTable::plan(const CutNetwork& cut, const std::string& name,
                                           bool tuned) const {
  std::vector<ElementChoice> choices;
  for (const Element& element : cut.elements) {
    const TableRow* row = find(element.key);
    if (row == nullptr) {
      return absl::NotFoundError(
          fmt::format("the latency table has no row for {} of network '{}' (\"{}\"); tune the "
                      "network first: chanas tune",
                      element.name, name, element.key));
    }
    choices.push_back(tuned ? row->choice : row->default_choice);
  }
  CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, make_plan(cut, target_, key_.threads, choices));
  plan.network = name;
  return plan;
}

std::vector<Element> space_elements(const ArchSpace& space, const SubSpace& cell) {
  const Network network = to_network(space, smallest(space, cell));
  const Unit& first = network.units.front();
  std::vector<Element> elements = {stem_element(network)};
  for (const Unit& unit : distinct_units(space, cell)) {
    elements.push_back(unit_element(unit));
    Network start = network;
    start.units = {unit};
    if (unit.h_in == first.h_in && unit.c_in == first.c_in && stem_joins(start))
      elements.push_back(chanas::elements(start).front());
  }
  elements.push_back(head_element(network));
  return elements;
}

std::vector<Element> space_elements(const ArchSpace& space) {
  std::vector<Element> elements;
  std::set<std::string> seen;
  for (const SubSpace& cell : space.cells()) {
    for (Element& element : space_elements(space, cell)) {
      if (seen.insert(element.key).second) elements.push_back(std::move(element));
    }
  }
  return elements;
}

int64_t typical_weight_bytes(const ArchSpace& space) {
  const auto small = static_cast<double>(params(to_network(space, smallest(space))));
  const auto large = static_cast<double>(params(to_network(space, largest(space))));
  return static_cast<int64_t>(std::sqrt(small * large)) * int64_t{sizeof(float)};
}

}  // namespace chanas
