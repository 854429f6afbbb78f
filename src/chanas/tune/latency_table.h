#pragma once
// The latency look-up table (LUT): for every element (stem, unit, head) the best cut and its
// latency, as a view of the store's records under one key.

#include <map>
#include <string>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/schedule/plan.h"
#include "chanas/store/store.h"

namespace chanas {

struct TableRow {
  struct Stage {
    std::string workload;  // its fingerprint
    std::string kind;      // Workload::kind
    double us = 0;
  };
  std::string key;            // Element::key
  ElementChoice choice;       // best cut, best schedules
  double latency_us = 0;      // sum over the stages of the best cut
  std::vector<Stage> stages;  // of that cut, in order
  std::string default_cut;    // the untuned way: the first cut ("unfused") under default schedules
  double default_us = 0;      // its sum; where a default schedule fails, its best one stands in
  ElementChoice default_choice;
  std::vector<Stage> default_stages;
  int trials = 0;        // of all workloads of all cuts
  int64_t oldest_s = 0;  // Unix time of the oldest record behind the row
};

// A value; reading is thread safe.
class LatencyTable {
 public:
  // Rows for the elements given. kNotFound names the first workload without a record and the
  // command that tunes it, or an element of which every cut holds a workload whose schedules all
  // failed (other cuts with such a workload are left out).
  static StatusOr<LatencyTable> build(Store& store, const RecordKey& key, const Target& target,
                                      const std::vector<Element>& elements);
  // nullptr when the table has no such row.
  const TableRow* find(const std::string& key) const;
  // Adds rows of elements that are missing. Same errors as build; the table is then unchanged.
  Status extend(Store& store, const std::vector<Element>& elements);
  const std::map<std::string, TableRow>& rows() const { return rows_; }
  const RecordKey& key() const { return key_; }
  const Target& target() const { return target_; }

  // The plan of a network (or of a graph that is cut) under its rows' choices (tuned) or under
  // default schedules. kNotFound names the element that has no row.
  StatusOr<ExecutionPlan> plan(const Network& network, bool tuned = true) const;
  StatusOr<ExecutionPlan> plan(const CutNetwork& cut, const std::string& name,
                               bool tuned = true) const;

 private:
  RecordKey key_;
  Target target_;
  std::map<std::string, TableRow> rows_;
};

// Every element that networks of a space may contain, each once: stems, units, heads of all cells,
// in a stable order.
std::vector<Element> space_elements(const ArchSpace& space);
std::vector<Element> space_elements(const ArchSpace& space, const SubSpace& cell);

// Bytes of weights of the space's networks (geometric middle of smallest and largest): what
// MeasurePlan::cold_bytes should stand for.
int64_t typical_weight_bytes(const ArchSpace& space);

}  // namespace chanas
