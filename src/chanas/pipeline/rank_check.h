#pragma once
// Does the supernet rank networks as training them from scratch would? (Truth of the search.)

#include <span>
#include <string>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/base/json.h"
#include "chanas/pipeline/pipeline.h"

namespace chanas {

struct RankSample {
  double truth = 0;     // test accuracy of the network trained from scratch
  double supernet = 0;  // accuracy with the supernet's weights, BN recalibrated
  double macs = 0, params = 0;
};

struct RankAgreement {
  struct Tau {
    double value = 0, low = 0, high = 0;  // Kendall tau-b, 95 % interval by bootstrap
  };
  struct Band {
    std::string name;  // "all", "8.1-11.9M multiply-adds"
    int networks = 0;
    Tau supernet, macs, params;  // each against the truth
  };
  std::vector<Band> bands;  // the first one is all of them, the others thirds by multiply-adds
  double spearman = 0;
  double mean_difference = 0;  // truth - supernet
};

// Deterministic. Needs at least 6 samples.
RankAgreement rank_agreement(std::span<const RankSample> samples, uint64_t seed);
Json to_json(const RankAgreement& agreement);

// `count` different networks of the space at evenly spaced multiply-adds, ascending. Fewer when the
// space has fewer.
std::vector<Arch> stratified_networks(const ArchSpace& space, int count, uint64_t seed);

struct RankCheckOptions {
  PipelineOptions run;  // its training stage must be finished
  int networks = 30;
  int repeats = 1;    // trainings of each, from other seeds; the truth is their mean
  double epochs = 0;  // from scratch; 0: as the supernet
  int jobs = 0;       // trainings side by side, a thread each; 0: one per core, one with a launcher
};

// How far trainings from scratch agree among themselves: the mean tau-b over all pairs of repeats.
// Chance decides the rest, so a single training cannot be ranked much better than this. `repeats`
// holds accuracies of the same networks in the same order, at least two lists.
double repeat_agreement(std::span<const std::vector<double>> repeats);

// Trains each network from scratch by the run's recipe, in "<run dir>/rank-check", and compares.
// Every finished network is kept: the same call goes on after an interruption, whatever its `jobs`.
// Writes "rank_check.json" in the run directory and returns it ("among_repeats" with repeats > 1).
// kFailedPrecondition: not trained yet.
StatusOr<Json> rank_check(const RankCheckOptions& options);

}  // namespace chanas
