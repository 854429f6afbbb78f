#include "chanas/predict/lut_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/base/stats.h"

namespace chanas {
Agreement agreement(std::span<const double> predicted, std::span<const double> measured) {
  CHANAS_CHECK(predicted.size() == measured.size());
  std::vector<double> ratios;
  for (size_t i = 0; i < measured.size(); ++i) ratios.push_back(predicted[i] / measured[i]);
  return {.count = static_cast<int>(measured.size()),
          .error = mean_absolute_percentage_error(predicted, measured),
          .bias = ratios.empty() ? 0 : median(ratios) - 1,
          .spearman = spearman(predicted, measured),
          .kendall = kendall_tau_b(predicted, measured),
          .within_5 = hit_rate(predicted, measured, 0.05),
          .within_10 = hit_rate(predicted, measured, 0.10)};
}

Agreement agreement(std::span<const NetworkCheck> networks, const BoundaryTerm& term) {
  std::vector<double> predicted, measured;
  for (const NetworkCheck& network : networks) {
    predicted.push_back(apply(term, network.rows));
    measured.push_back(network.measured_us);
  }
  return agreement(predicted, measured);
}

Json to_json(const Agreement& agreement) {
  return {{"count", agreement.count},        {"error", agreement.error},
          {"bias", agreement.bias},          {"spearman", agreement.spearman},
          {"kendall", agreement.kendall},    {"within_5", agreement.within_5},
          {"within_10", agreement.within_10}};
}

StatusOr<std::vector<RowCheck>> check_rows(Runner& runner, Store& store, const LatencyTable& table,
                                           const MeasurePlan& plan,
                                           const RowCheckOptions& options) {
  CHANAS_CHECK(record_key(runner.target(), plan) == table.key())
      << "the plan is that of " << describe(record_key(runner.target(), plan)) << ", the table of "
      << describe(table.key());
  std::set<std::string> distinct;
  for (const auto& [key, row] : table.rows()) {
    for (const TableRow::Stage& stage : row.stages) distinct.insert(stage.workload);
  }
  std::vector<std::string> drawn(distinct.begin(), distinct.end());
  Rng rng(options.seed, "check rows");
  rng.shuffle(drawn);
  drawn.resize(std::min(drawn.size(), static_cast<size_t>(std::max(0, options.rows))));

  std::vector<RowCheck> checks;
  MeasurePlan careful = plan;
  careful.passes = kCarefulPasses;
  constexpr auto kBatch = size_t{kCarefulBatch};
  for (size_t begin = 0; begin < drawn.size(); begin += kBatch) {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    std::vector<Candidate> candidates;
    std::vector<Record> records;
    for (size_t i = begin; i < std::min(drawn.size(), begin + kBatch); ++i) {
      CHANAS_ASSIGN_OR_RETURN(const auto workload, store.workload(drawn[i]));
      CHANAS_ASSIGN_OR_RETURN(const auto best, store.best(drawn[i], table.key()));
      if (!workload || !best) {
        return absl::NotFoundError(fmt::format("store '{}' no longer holds the row of workload {}",
                                               store.path(), drawn[i]));
      }
      candidates.push_back({*workload, best->schedule});
      records.push_back(*best);
      RowCheck& check = checks.emplace_back();
      check.workload = drawn[i];
      check.description = workload->describe();
      check.recorded_us = best->result.latency_us;
    }
    CHANAS_ASSIGN_OR_RETURN(const auto results, runner.measure(candidates, careful));
    for (size_t i = 0; i < results.size(); ++i) {
      RowCheck& check = checks[begin + i];
      if (results[i].ok()) {
        check.measured_us = results[i].latency_us;
      } else {
        check.failure =
            fmt::format("{}: {}", trial_error_name(results[i].error), results[i].message);
      }
      records[i].result = results[i];
      records[i].time_s = static_cast<int64_t>(std::time(nullptr));
    }
    if (!options.record) continue;
    // An unstable one tells of the machine, not of the schedule: the earlier one stays.
    std::erase_if(records, [](const Record& r) { return r.result.error == TrialError::kUnstable; });
    CHANAS_RETURN_IF_ERROR(store.add_records(records));
  }
  return checks;
}

Agreement agreement(const std::vector<RowCheck>& rows) {
  std::vector<double> recorded, measured;
  for (const RowCheck& row : rows) {
    if (row.measured_us <= 0) continue;
    recorded.push_back(row.recorded_us);
    measured.push_back(row.measured_us);
  }
  return agreement(recorded, measured);
}

std::vector<Network> random_networks(const ArchSpace& space, const std::vector<SubSpace>& cells,
                                     int count, uint64_t seed) {
  CHANAS_CHECK(!cells.empty());
  Rng rng(seed, "random networks");
  std::vector<Network> networks;
  std::set<std::string> seen;
  // Small spaces may hold fewer than asked for.
  for (int draw = 0; draw < 20 * count && static_cast<int>(networks.size()) < count; ++draw) {
    const SubSpace& cell = cells[static_cast<size_t>(draw) % cells.size()];
    const Arch arch = sample(space, cell, rng);
    if (seen.insert(arch_id(space, arch)).second) networks.push_back(to_network(space, arch));
  }
  return networks;
}

StatusOr<std::vector<NetworkCheck>> measure_networks(Runner& runner, const LatencyTable& table,
                                                     const std::vector<Network>& networks,
                                                     const NetworkCheckOptions& options,
                                                     const std::function<void(int)>& progress) {
  CHANAS_CHECK(options.rounds > 0);
  std::vector<ExecutionPlan> plans;
  for (const Network& network : networks) {
    CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, table.plan(network));
    plans.push_back(std::move(plan));
  }
  std::vector<size_t> turns;
  const size_t half = (networks.size() + 1) / 2;
  for (size_t i = 0; i < half; ++i) {
    turns.push_back(i);
    if (half + i < networks.size()) turns.push_back(half + i);
  }
  std::vector<std::vector<NetworkMeasurement>> rounds(networks.size());  // by network
  int done = 0;
  for (int round = 0; round < options.rounds; ++round) {
    for (const size_t i : turns) {
      CHANAS_RETURN_IF_ERROR(check_cancelled());
      StatusOr<NetworkMeasurement> measured = runner.measure_network(plans[i], options.samples);
      if (!measured.ok()) return annotate(measured.status(), networks[i].name);
      rounds[i].push_back(*std::move(measured));
      if (progress) progress(++done);
    }
  }
  std::vector<NetworkCheck> checks;
  for (size_t i = 0; i < networks.size(); ++i) {
    const auto over_rounds = [&](auto&& value) {
      std::vector<double> values;
      for (const NetworkMeasurement& measured : rounds[i]) values.push_back(value(measured));
      return values;
    };
    NetworkCheck check;
    check.name = networks[i].name;
    CHANAS_ASSIGN_OR_RETURN(check.rows, table_sum(table, networks[i]));
    check.rounds_us = over_rounds([](const auto& measured) { return measured.median_us; });
    check.measured_us = percentile(check.rounds_us, kUndisturbed);
    check.spread = percentile(check.rounds_us, 1) / percentile(check.rounds_us, 0) - 1;
    check.p10_us = median(over_rounds([](const auto& measured) { return measured.p10_us; }));
    check.p90_us = median(over_rounds([](const auto& measured) { return measured.p90_us; }));
    // A device without a clock inside its runs stamps no stages.
    if (!rounds[i].front().stage_us.empty()) {
      for (const std::string& key : element_keys(networks[i])) {
        for (const TableRow::Stage& row : table.find(key)->stages) {
          const size_t s = check.stages.size();
          check.stages.push_back({row.workload, row.kind, row.us,
                                  percentile(over_rounds([s](const auto& measured) {
                                               return measured.stage_us.at(s);
                                             }),
                                             kUndisturbed)});
        }
      }
      CHANAS_CHECK(check.stages.size() == plans[i].stages.size()) << check.name;
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<KindCheck> check_kinds(std::span<const NetworkCheck> networks) {
  std::map<std::string, KindCheck> kinds;
  for (const NetworkCheck& network : networks) {
    for (const NetworkCheck::Stage& stage : network.stages) {
      KindCheck& kind = kinds[stage.kind];
      kind.kind = stage.kind;
      ++kind.stages;
      kind.row_us += stage.row_us;
      kind.inside_us += stage.inside_us;
    }
  }
  std::vector<KindCheck> result;
  for (auto& [name, kind] : kinds) result.push_back(std::move(kind));
  std::stable_sort(result.begin(), result.end(), [](const KindCheck& a, const KindCheck& b) {
    return a.inside_us > b.inside_us;
  });
  return result;
}

namespace {

// BoundaryTerm::kinds; none where the device stamps no stages.
std::map<std::string, double> kind_factors(std::span<const NetworkCheck> networks) {
  const std::vector<KindCheck> kinds = check_kinds(networks);
  double row_us = 0, inside_us = 0;
  for (const KindCheck& kind : kinds) {
    row_us += kind.row_us;
    inside_us += kind.inside_us;
  }
  std::map<std::string, double> factors;
  for (const KindCheck& kind : kinds) {
    if (kind.row_us > 0 && kind.inside_us > 0)
      factors[kind.kind] = kind.inside_us / kind.row_us / (inside_us / row_us);
  }
  return factors;
}

}  // namespace

BoundaryCheck check_boundary(const std::vector<NetworkCheck>& networks, int fitted) {
  CHANAS_CHECK(fitted >= 0);
  const size_t split = std::min(networks.size(), static_cast<size_t>(fitted));
  const auto own = std::span(networks).first(split), others = std::span(networks).subspan(split);
  std::vector<BoundarySample> samples;
  for (const NetworkCheck& network : own) samples.push_back({network.rows, network.measured_us});
  BoundaryCheck check;
  check.term = fit_boundary(samples, kind_factors(own));
  check.plain = agreement(others, {});
  check.corrected = agreement(others, check.term);
  return check;
}

}  // namespace chanas
