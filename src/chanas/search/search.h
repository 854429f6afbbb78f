#pragma once
// Co-design exploration (paper section 5): which sub-space, then which architectures. Evaluators
// are injected; nothing here knows where an accuracy or a latency comes from.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "chanas/arch/space.h"

namespace chanas {

// Pure functions: the same arch always has the same values. Called from the calling thread only.
struct Evaluators {
  // Fractions, finite, one per arch. Called with whole populations. An evaluator that has to give
  // up returns fewer values; the search then ends with kInternal, and the caller, who knows the
  // reason, reports that instead.
  std::function<std::vector<double>(std::span<const Arch>)> accuracy;
  std::function<double(const Arch&)> latency_us;  // inactive genes make no difference
  // The smallest latency of a cell and the arch that has it: feasibility is known before the
  // search.
  std::function<double(const SubSpace&)> minimum_us;
  std::function<Arch(const SubSpace&)> minimum_arch;
};

// --- Which sub-space (paper section 3.6) --------------------------------------------------------

enum class NarrowRule {
  kPaper,    // lowest mean latency among the sampled networks inside the limit
  kTinyNas,  // highest mean MACs among them
  kAccuracy  // highest 90th percentile of predicted accuracy among them
};
// "paper", "tinynas", "acc"; kInvalidArgument lists them.
StatusOr<NarrowRule> parse_narrow_rule(std::string_view name);
std::string_view narrow_rule_name(NarrowRule rule);

struct CellStatistics {
  SubSpace cell;
  int sampled = 0, inside = 0;       // inside: latency <= limit
  std::vector<double> latencies_us;  // of all samples, ascending
  // Of those inside; when none is, but minimum_us is, of the cell's fastest network; else 0.
  double mean_latency_us = 0, mean_macs = 0;
  double accuracy_q90 = 0;  // 90th percentile of the probed ones, 0 without an evaluator
  double minimum_us = 0;
};
struct NarrowResult {
  std::vector<CellStatistics> cells;  // in the order of ArchSpace::cells()
  // Index into cells by each rule; -1: the rule has no cell (kAccuracy without an evaluator).
  int by_paper = -1, by_tinynas = -1, by_accuracy = -1;
  // That index for one rule. Ties go to the first cell.
  int chosen(NarrowRule rule) const;
};
struct NarrowOptions {
  int delta = 1000;  // samples per cell
  // Up to this many samples inside the limit per cell go to Evaluators::accuracy (which may be a
  // costly supernet evaluation), all cells in one call; 0 or no evaluator: kAccuracy is not
  // offered.
  int probes = 0;
  uint64_t seed = 1;
};
// kOutOfRange when no cell can meet the limit: the message holds the smallest latency that the
// space can reach. Cells whose minimum is inside but whose samples are not stay eligible through
// their minimum arch. kInvalidArgument: options out of range, limit not a number. The same seed
// gives the same result.
StatusOr<NarrowResult> narrow(const ArchSpace& space, const Evaluators& evaluators, double limit_us,
                              const NarrowOptions& options);

// --- Evolution ----------------------------------------------------------------------------------

struct EvolutionOptions {
  int population = 100;               // at least 2; children per generation too
  int generations = 200;              // after the start population; 0: only that
  double parent_ratio = 0.25;         // of the population, the fittest; in (0, 1], at least 2 breed
  double mutation_share = 0.5;        // of children, in [0, 1]; the rest by crossover
  double mutation_probability = 0.1;  // per gene, in [0, 1]
  uint64_t seed = 1;
};

struct Scored {
  Arch arch;              // canonical
  double accuracy = 0;    // predicted
  double latency_us = 0;  // predicted
};
struct Generation {
  int64_t evaluations = 0;  // so far
  // Of the population (random_search: of everything so far).
  double best_accuracy = 0, mean_accuracy = 0;
  double hypervolume = 0;  // of all archs seen: us below the limit x accuracy above 0; never falls
};
struct SearchResult {
  // Never empty, distinct, by accuracy descending (ties: latency, then arch_id): the last
  // population (random_search: the best 100).
  std::vector<Scored> best;
  std::vector<Scored> front;  // Pareto front of everything evaluated, by latency ascending
  std::vector<Generation> history;
  int64_t evaluations = 0;  // archs whose accuracy was asked for, all different
};
// Called after every generation; false ends the search, which returns what it has. May be null.
using SearchProgress = std::function<bool(const Generation&)>;

// Evolution inside one cell. The start population holds the cell's fastest network and, where the
// limit is too tight for sampling, its mutants. Parents survive; a child replaces the worst member
// only if fitter; nothing is evaluated twice. Ends early when breeding finds nothing new (a small
// cell that has been seen whole). The same seed gives the same result.
// Never returns an arch above the limit; kOutOfRange (with the smallest reachable latency) when the
// cell cannot meet it, before anything is evaluated. kInvalidArgument: options out of range, limit
// not a number. kInternal: see Evaluators::accuracy.
StatusOr<SearchResult> evolve(const ArchSpace& space, const SubSpace& cell,
                              const Evaluators& evaluators, double limit_us,
                              const EvolutionOptions& options, const SearchProgress& progress);
// The baseline to compare with: the fastest network and uniform samples inside the limit, as many
// evaluations as asked, fewer where hardly a sample is inside or new (1,000 draws per evaluation).
// Errors as above.
StatusOr<SearchResult> random_search(const ArchSpace& space, const SubSpace& cell,
                                     const Evaluators& evaluators, double limit_us,
                                     int64_t evaluations, uint64_t seed);

// The non-dominated of `points` in any order (lower latency, higher accuracy), by latency
// ascending; of points equal in both, the one with the smallest arch_id.
std::vector<Scored> pareto_front(const ArchSpace& space, std::vector<Scored> points);
// Area in us between the front (as pareto_front gives it), the reference latency and accuracy 0.
double hypervolume(const std::vector<Scored>& front, double reference_latency_us);

}  // namespace chanas
