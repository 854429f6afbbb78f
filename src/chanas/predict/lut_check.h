#pragma once
// Is the latency table true? Rows are measured again (drift of the device), and whole networks are
// compared with the sum of their rows (additivity). Behind `chanas lut check`, and the pipeline's
// source of samples for the boundary term.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "chanas/measure/measure.h"
#include "chanas/predict/latency.h"
#include "chanas/store/store.h"

namespace chanas {

// How well predictions agree with measurements.
struct Agreement {
  int count = 0;
  double error = 0;  // mean |predicted - measured| / measured
  double bias = 0;   // median of predicted / measured - 1
  double spearman = 0, kendall = 0;
  double within_5 = 0, within_10 = 0;  // share inside 5 % and 10 % of the measured one
};
// Sizes must be equal, measured values > 0.
Agreement agreement(std::span<const double> predicted, std::span<const double> measured);
Json to_json(const Agreement& agreement);

// --- Rows ---------------------------------------------------------------------------------------

struct RowCheck {
  std::string workload, description;
  double recorded_us = 0;
  double measured_us = 0;  // 0 after a failure
  std::string failure;     // its class and message
};
struct RowCheckOptions {
  int rows = 20;  // distinct workloads drawn from the rows' best cuts; all when there are fewer
  uint64_t seed = 1;
  bool record = false;  // the new measurements become the rows' own
};
// Measures the best schedules of a random sample of workloads again. `plan` must be the one that
// the table was measured under (checked). kCancelled, kUnavailable, or a store error.
StatusOr<std::vector<RowCheck>> check_rows(Runner& runner, Store& store, const LatencyTable& table,
                                           const MeasurePlan& plan, const RowCheckOptions& options);
// Recorded against measured again; failures are left out.
Agreement agreement(const std::vector<RowCheck>& rows);

// --- Networks -----------------------------------------------------------------------------------

// Of each network, and of the stages inside it, kUndisturbed of the rounds: a term that was fitted
// in one minute holds in another.
struct NetworkCheck {
  std::string name;
  RowSum rows;
  double measured_us = 0;         // end to end
  double p10_us = 0, p90_us = 0;  // of the calls of a round, as they came; medians over the rounds
  std::vector<double> rounds_us;  // as they were measured
  double spread = 0;              // slowest over fastest of them - 1
  struct Stage {
    std::string workload, kind;
    double row_us = 0, inside_us = 0;  // alone, and stamped inside the network
  };
  std::vector<Stage> stages;
};
// Distinct random networks of a space, the cells in turn; fewer when the cells hold fewer.
std::vector<Network> random_networks(const ArchSpace& space, const std::vector<SubSpace>& cells,
                                     int count, uint64_t seed);
struct NetworkCheckOptions {
  int samples = 30;  // calls of a network in a round, of which the median counts
  // All networks are measured this many times, so that most are met undisturbed.
  int rounds = 10;
};
// Measures each network end to end under its rows' choices. The halves of the list are measured in
// turns: a term that is fitted on one of them and judged on the other one saw the same device.
// `progress` (may be null) hears how many measurements, of networks * rounds, are done. kNotFound
// when the table misses a row, kCancelled, kUnavailable.
StatusOr<std::vector<NetworkCheck>> measure_networks(Runner& runner, const LatencyTable& table,
                                                     const std::vector<Network>& networks,
                                                     const NetworkCheckOptions& options,
                                                     const std::function<void(int)>& progress = {});

// Where sums of rows and networks part: rows against the same stages inside the networks.
struct KindCheck {
  std::string kind;  // Workload::kind
  int stages = 0;
  double row_us = 0, inside_us = 0;  // sums
};
// By kind, largest time first.
std::vector<KindCheck> check_kinds(std::span<const NetworkCheck> networks);

// Sums of rows with the term ({}: as they are) against the networks.
Agreement agreement(std::span<const NetworkCheck> networks, const BoundaryTerm& term);

// A boundary term fitted on the first `fitted` networks (its kinds on the stages inside them), and
// judged on the others alone.
struct BoundaryCheck {
  BoundaryTerm term;
  Agreement plain;      // sums of rows on the networks it is judged on
  Agreement corrected;  // with the term, on the same networks
};
BoundaryCheck check_boundary(const std::vector<NetworkCheck>& networks, int fitted);

}  // namespace chanas
