#include "chanas/predict/latency.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "chanas/base/stats.h"

namespace chanas {
namespace {

// The largest part of an average row, in the fitted network where that is smallest, which a stage
// may be said to cost less inside a network: predictions stay positive.
constexpr double kLargestSaving = 0.5;

void add(RowSum& sum, const RowSum& other, int sign = 1) {
  for (const auto& [kind, us] : other.us) sum.us[kind] += sign * us;
  sum.stages += sign * other.stages;
}

// Of one row.
StatusOr<RowSum> row_sum(const LatencyTable& table, const std::string& key, bool tuned) {
  const TableRow* row = table.find(key);
  if (row == nullptr) {
    return absl::NotFoundError(
        fmt::format("the latency table has no row for \"{}\"; tune it first: chanas tune", key));
  }
  RowSum sum;
  for (const TableRow::Stage& stage : tuned ? row->stages : row->default_stages) {
    sum.us[stage.kind] += stage.us;
    ++sum.stages;
  }
  return sum;
}

// What the first unit of `network` adds to its stem, which it may be one element with.
StatusOr<RowSum> first_unit_sum(const LatencyTable& table, const Network& network, bool tuned) {
  if (!stem_joins(network)) return row_sum(table, unit_key(network.units.front()), tuned);
  CHANAS_ASSIGN_OR_RETURN(RowSum sum, row_sum(table, element_keys(network).front(), tuned));
  CHANAS_ASSIGN_OR_RETURN(const RowSum stem, row_sum(table, stem_element(network).key, tuned));
  add(sum, stem, -1);
  return sum;
}

// Of rows: what a term makes of them, without its constant.
double corrected_us(const BoundaryTerm& term, const RowSum& rows) {
  double us = 0;
  for (const auto& [kind, row_us] : rows.us) {
    const auto factor = term.kinds.find(kind);
    us += (factor == term.kinds.end() ? 1.0 : factor->second) * row_us;
  }
  return term.scale * us + term.per_stage_us * rows.stages;
}

// Solves the symmetric positive definite system over the unknowns in `active` (bit i: unknown i);
// the others are 0.
using Vector = std::array<double, 3>;
using Matrix = std::array<Vector, 3>;
Vector solve(Matrix a, Vector b, unsigned active) {
  for (unsigned i = 0; i < 3; ++i) {
    if (active >> i & 1) continue;
    for (unsigned j = 0; j < 3; ++j) a[i][j] = a[j][i] = 0;
    a[i][i] = 1;
    b[i] = 0;
  }
  for (unsigned i = 0; i < 3; ++i) {  // no pivoting needed: positive definite
    for (unsigned row = i + 1; row < 3; ++row) {
      const double factor = a[row][i] / a[i][i];
      for (unsigned j = i; j < 3; ++j) a[row][j] -= factor * a[i][j];
      b[row] -= factor * b[i];
    }
  }
  for (unsigned i = 3; i-- > 0;) {
    for (unsigned j = i + 1; j < 3; ++j) b[i] -= a[i][j] * b[j];
    b[i] /= a[i][i];
  }
  return b;
}

std::vector<int8_t> choice_index(const std::vector<int>& choices) {
  std::vector<int8_t> index(static_cast<size_t>(choices.back()) + 1, -1);
  for (size_t i = 0; i < choices.size(); ++i) {
    index[static_cast<size_t>(choices[i])] = static_cast<int8_t>(i);
  }
  return index;
}

}  // namespace

double RowSum::total_us() const {
  double sum = 0;
  for (const auto& [kind, kind_us] : us) sum += kind_us;
  return sum;
}

Json to_json(const BoundaryTerm& term) {
  return {{"scale", term.scale},
          {"per_stage_us", term.per_stage_us},
          {"constant_us", term.constant_us},
          {"networks", term.networks},
          {"kinds", term.kinds}};
}

StatusOr<BoundaryTerm> boundary_from_json(const Json& json) {
  BoundaryTerm term;
  try {
    term = {.scale = json.at("scale").get<double>(),
            .per_stage_us = json.at("per_stage_us").get<double>(),
            .constant_us = json.at("constant_us").get<double>(),
            .networks = json.at("networks").get<int>(),
            .kinds = json.value("kinds", std::map<std::string, double>())};
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("bad boundary term: {}", error.what()));
  }
  const auto in_range = [](double value) { return std::isfinite(value) && value >= 0; };
  if (!in_range(term.scale) || term.scale == 0) {
    return absl::InvalidArgumentError(
        fmt::format("bad boundary term: scale is {}, expected > 0", term.scale));
  }
  if (!std::isfinite(term.per_stage_us)) {
    return absl::InvalidArgumentError("bad boundary term: per_stage_us is not finite");
  }
  if (!in_range(term.constant_us) || term.networks < 0) {
    return absl::InvalidArgumentError(
        fmt::format("bad boundary term: constant_us is {}, networks {}, expected >= 0",
                    term.constant_us, term.networks));
  }
  for (const auto& [kind, factor] : term.kinds) {
    if (!in_range(factor) || factor == 0) {
      return absl::InvalidArgumentError(
          fmt::format("bad boundary term: factor of {} is {}, expected > 0", kind, factor));
    }
  }
  return term;
}

double apply(const BoundaryTerm& term, const RowSum& rows) {
  return corrected_us(term, rows) + term.constant_us;
}

// Minimises sum_i ((scale * sum_i + per_stage * stages_i + constant) / measured_i - 1)^2 plus the
// ridge, over terms above their floors. The unknowns are scaled to shares of a typical network's
// latency, and counted from the floors. The ridge is that of a prior: terms about 10 % around the
// identity, measurements with 2 % noise.
BoundaryTerm fit_boundary(const std::vector<BoundarySample>& samples,
                          const std::map<std::string, double>& kinds) {
  if (samples.empty()) return {};
  constexpr double kRidge = (0.02 * 0.02) / (0.1 * 0.1);
  std::vector<double> sums, measured, stages, stage_us;
  for (const BoundarySample& sample : samples) {
    sums.push_back(corrected_us({.kinds = kinds}, sample.rows));
    CHANAS_CHECK(sums.back() > 0 && sample.measured_us > 0 && sample.rows.stages > 0);
    measured.push_back(sample.measured_us);
    stages.push_back(sample.rows.stages);
    stage_us.push_back(sums.back() / sample.rows.stages);
  }
  const double typical_us = median(measured), typical_stages = median(stages);
  const bool few = samples.size() < 4;
  const Vector identity = {1, 0, 0};
  Vector floors = {0, 0, 0};
  if (!few) {
    floors[1] = -kLargestSaving * *std::min_element(stage_us.begin(), stage_us.end()) *
                typical_stages / typical_us;
  }

  // Normal equations.
  Matrix a = {};
  Vector b = {};
  for (size_t s = 0; s < samples.size(); ++s) {
    const Vector x = {sums[s] / measured[s], stages[s] / typical_stages * typical_us / measured[s],
                      typical_us / measured[s]};
    const double rest = 1 - floors[1] * x[1];
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 3; ++j) a[i][j] += x[i] * x[j];
      b[i] += rest * x[i];
    }
  }
  for (size_t i = 0; i < 3; ++i) {
    a[i][i] += kRidge;
    b[i] += kRidge * (identity[i] - floors[i]);
  }

  // The constrained minimum is the free minimum over some set of non-zero unknowns: try them all.
  Vector best = identity;
  double best_loss = std::numeric_limits<double>::infinity();
  const unsigned sets = few ? 0b001 : 0b111;
  for (unsigned active = 1; active <= sets; ++active) {
    const Vector x = solve(a, b, active);
    if (x[0] <= 0 || x[1] < 0 || x[2] < 0) continue;
    double loss = 0;  // up to a constant
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 3; ++j) loss += x[i] * a[i][j] * x[j];
      loss -= 2 * b[i] * x[i];
    }
    if (loss < best_loss) {
      best = x;
      best_loss = loss;
    }
  }
  return {.scale = best[0],
          .per_stage_us = (best[1] + floors[1]) * typical_us / typical_stages,
          .constant_us = best[2] * typical_us,
          .networks = static_cast<int>(samples.size()),
          .kinds = kinds};
}

StatusOr<LatencyPredictor> LatencyPredictor::build(const ArchSpace& space,
                                                   const LatencyTable& table,
                                                   const BoundaryTerm& term, bool tuned,
                                                   const std::vector<SubSpace>& cells) {
  LatencyPredictor predictor;
  predictor.space_ = space;
  predictor.cells_ = cells.empty() ? space.cells() : cells;
  predictor.kernels_ = choice_index(space.kernels);
  predictor.expands_ = choice_index(space.expands);
  for (const SubSpace& cell : predictor.cells_) {
    Network network = to_network(space, smallest(space, cell));
    CellRows rows;
    rows.fixed_us = term.constant_us;
    for (const std::string& key : {stem_element(network).key, element_keys(network).back()}) {
      CHANAS_ASSIGN_OR_RETURN(const RowSum sum, row_sum(table, key, tuned));
      rows.fixed_us += corrected_us(term, sum);
    }
    if (space.first_channels > 0) {
      CHANAS_ASSIGN_OR_RETURN(const RowSum sum, first_unit_sum(table, network, tuned));
      rows.fixed_us += corrected_us(term, sum);
    }
    for (size_t block = 0; block < space.blocks.size(); ++block) {
      for (const bool later : {false, true}) {
        if (later && space.max_depth() == 1) continue;  // no such unit
        for (const int kernel : space.kernels) {
          for (const int expand : space.expands) {
            const Unit unit =
                elastic_unit(space, cell, static_cast<int>(block), later, {kernel, expand});
            const bool is_first = space.first_channels == 0 && block == 0 && !later;
            if (is_first) network.units.front() = unit;
            CHANAS_ASSIGN_OR_RETURN(const RowSum sum, is_first
                                                          ? first_unit_sum(table, network, tuned)
                                                          : row_sum(table, unit_key(unit), tuned));
            rows.unit_us.push_back(corrected_us(term, sum));
          }
        }
      }
    }
    predictor.rows_.push_back(std::move(rows));
  }
  return predictor;
}

const LatencyPredictor::CellRows& LatencyPredictor::cell_rows(const SubSpace& cell) const {
  for (size_t i = 0; i < cells_.size(); ++i) {
    if (cells_[i] == cell) return rows_[i];
  }
  CHANAS_CHECK(false) << "no rows of " << describe(cell);
  return rows_.front();
}

double LatencyPredictor::unit_us(const CellRows& rows, size_t block, bool later,
                                 const UnitGene& gene) const {
  const auto kernel = static_cast<size_t>(kernels_[static_cast<size_t>(gene.kernel)]);
  const auto expand = static_cast<size_t>(expands_[static_cast<size_t>(gene.expand)]);
  const size_t role = space_.max_depth() > 1 ? 2 * block + (later ? 1 : 0) : block;
  return rows.unit_us[(role * space_.kernels.size() + kernel) * space_.expands.size() + expand];
}

double LatencyPredictor::latency_us(const Arch& arch) const {
  const CellRows& rows = cell_rows(arch.cell);
  const auto max_depth = static_cast<size_t>(space_.max_depth());
  double us = rows.fixed_us;
  for (size_t block = 0; block < arch.depth.size(); ++block) {
    const auto depth = static_cast<size_t>(arch.depth[block]);
    for (size_t unit = 0; unit < depth; ++unit) {
      us += unit_us(rows, block, unit > 0, arch.units[block * max_depth + unit]);
    }
  }
  return us;
}

double LatencyPredictor::minimum_us(const SubSpace& cell) const {
  return latency_us(minimum_arch(cell));
}

// Blocks and units do not interact, so each takes its own minimum.
Arch LatencyPredictor::minimum_arch(const SubSpace& cell) const {
  const CellRows& rows = cell_rows(cell);
  Arch arch = smallest(space_, cell);
  const auto max_depth = static_cast<size_t>(space_.max_depth());
  for (size_t block = 0; block < space_.blocks.size(); ++block) {
    std::array<double, 2> cheapest_us = {};
    for (const bool later : {false, true}) {
      if (later && max_depth == 1) continue;
      std::optional<UnitGene> cheapest;
      for (const int kernel : space_.kernels) {
        for (const int expand : space_.expands) {
          const UnitGene gene{kernel, expand};
          if (!cheapest ||
              unit_us(rows, block, later, gene) < unit_us(rows, block, later, *cheapest)) {
            cheapest = gene;
          }
        }
      }
      cheapest_us[later] = unit_us(rows, block, later, *cheapest);
      for (size_t unit = later ? 1 : 0; unit < (later ? max_depth : 1); ++unit) {
        arch.units[block * max_depth + unit] = *cheapest;
      }
    }
    const auto block_us = [&](int depth) { return cheapest_us[0] + (depth - 1) * cheapest_us[1]; };
    arch.depth[block] = *std::min_element(space_.depths.begin(), space_.depths.end(),
                                          [&](int a, int b) { return block_us(a) < block_us(b); });
  }
  return canonical(space_, arch);
}

StatusOr<RowSum> table_sum(const LatencyTable& table, const Network& network, bool tuned) {
  RowSum sum;
  for (const std::string& key : element_keys(network)) {
    CHANAS_ASSIGN_OR_RETURN(const RowSum row, row_sum(table, key, tuned));
    add(sum, row);
  }
  return sum;
}

}  // namespace chanas
