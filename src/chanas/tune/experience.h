#pragma once
// Internal to tune: what has been measured of all workloads of one kind, as the cost model sees it.

#include <map>
#include <string>
#include <vector>

#include "chanas/tune/features.h"
#include "chanas/tune/history.h"

namespace chanas::internal {

// A schedule in numbers, and what it took.
struct Sample {
  ScheduleFeatures features;
  bool ok = false;
  double value = 0;  // log(latency / roofline); 0 after a failure
};

// All trials of one kind in the order in which they were made; the order is part of the value: what
// a search does next is a function of it.
class Experience {
 public:
  struct Entry {
    int workload;  // index into shapes()
    Sample sample;
  };

  // A space of the same kind as all before (checked), so that its fields and shape are known. What
  // is known should not depend on when trials come in: make all spaces known first.
  void know(const ScheduleSpace& space);
  // A schedule that was measured again takes the place of
  // its earlier trial.
  // `space` is made known.
  void add(const ScheduleSpace& space, const Trial& trial);

  const std::vector<Entry>& entries() const { return entries_; }
  // shape_features of each workload, in the order in which they came.
  const std::vector<std::vector<double>>& shapes() const { return shapes_; }
  // Index of a space's workload, or -1. The same work on another device or number of threads counts
  // as another workload.
  int find(const ScheduleSpace& space) const;
  // Over all spaces seen.
  const std::vector<ChoiceType>& types() const { return types_; }

 private:
  std::string kind_;
  std::vector<Entry> entries_;
  std::vector<std::vector<double>> shapes_;
  std::vector<ChoiceType> types_;
  std::map<std::string, int> workloads_;
  std::map<std::pair<int, Schedule>, size_t> index_;
};

Sample make_sample(const ScheduleSpace& space, const Trial& trial);
// A candidate, not measured yet.
Sample make_sample(const ScheduleSpace& space, const Schedule& schedule);

}  // namespace chanas::internal
