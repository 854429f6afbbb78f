#pragma once
// Network latency from the table: sum of its rows, corrected by a boundary term that is fitted once
// per device on a few whole networks (paper eq. 5 and section 9, weak point 5).

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/tune/latency_table.h"

namespace chanas {

// What the rows of a network say.
struct RowSum {
  std::map<std::string, double> us;  // by Workload::kind
  int stages = 0;
  double total_us() const;
};

// latency = scale * sum over kinds (factor * us) + per_stage_us * stages + constant_us. A stage may
// cost less inside a network than alone (per_stage_us < 0), where the stage before it prefetches
// its weights.
struct BoundaryTerm {
  double scale = 1.0;
  double per_stage_us = 0.0;
  double constant_us = 0.0;
  int networks = 0;  // it was fitted on; 0: identity
  // What rows of a kind take inside a network over what they say, relative to all rows: an image
  // that was not just written, or weights that nothing prefetched, touch some kinds more than
  // others. 1 for a kind that is not named.
  std::map<std::string, double> kinds = {};
};
Json to_json(const BoundaryTerm& term);
// kInvalidArgument names the field; scale and kinds must be > 0, constant_us and networks >= 0.
StatusOr<BoundaryTerm> boundary_from_json(const Json& json);

double apply(const BoundaryTerm& term, const RowSum& rows);

struct BoundarySample {
  RowSum rows;
  double measured_us = 0;
};
// Under the factors given: least squares on relative errors, ridge towards the identity; scale and
// constant_us >= 0, per_stage_us above minus half of what a stage takes on average. With fewer than
// 4 samples only the scale is fitted. Sums and measurements must be > 0 (checked).
BoundaryTerm fit_boundary(const std::vector<BoundarySample>& samples,
                          const std::map<std::string, double>& kinds = {});

// Evaluates archs of one space by adding a few table entries: no allocation, thread safe.
class LatencyPredictor {
 public:
  // kNotFound when the table misses an element of the cells given (all cells of the space when
  // empty).
  static StatusOr<LatencyPredictor> build(const ArchSpace& space, const LatencyTable& table,
                                          const BoundaryTerm& term, bool tuned = true,
                                          const std::vector<SubSpace>& cells = {});
  // The arch must be in the space (not checked, for speed) and in one of the cells (checked).
  double latency_us(const Arch& arch) const;
  // Smallest latency any network of the cell can reach, and the arch that reaches it (exact:
  // minimum over depths of sums of per-unit minima; the first choices on a tie).
  double minimum_us(const SubSpace& cell) const;
  Arch minimum_arch(const SubSpace& cell) const;
  const std::vector<SubSpace>& cells() const { return cells_; }

 private:
  struct CellRows {
    double fixed_us = 0;  // stem, first unit, head, constant
    // What a unit adds, its share of the boundary term included:
    // [block][role: 0 first of its block, 1 later][kernel][expand], flattened.
    std::vector<double> unit_us;
  };
  const CellRows& cell_rows(const SubSpace& cell) const;
  double unit_us(const CellRows& rows, size_t block, bool later, const UnitGene& gene) const;

  ArchSpace space_;
  std::vector<SubSpace> cells_;
  std::vector<CellRows> rows_;             // one per cell
  std::vector<int8_t> kernels_, expands_;  // value -> index of its choice, -1: none
};

// Of any network, zoo included. kNotFound names the element that has no row.
StatusOr<RowSum> table_sum(const LatencyTable& table, const Network& network, bool tuned = true);

}  // namespace chanas
