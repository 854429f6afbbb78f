#pragma once
// Internal to tune: what a workload's records say, in the form that a search asks for.

#include <map>
#include <string>
#include <vector>

#include "chanas/store/store.h"

namespace chanas::internal {

// A distinct schedule with its last measurement.
struct Trial {
  Schedule schedule;
  std::string origin;
  bool ok = false;
  double latency_us = 0;
  int measurements = 0;  // of which the last one counts
};

Trial trial_of(const Record& record);

// Trials in the order in which they were first measured: H of paper section 4.
class History {
 public:
  History() = default;
  explicit History(const std::vector<Record>& records);
  void add(const Record& record);

  const std::vector<Trial>& trials() const { return trials_; }
  bool contains(const Schedule& schedule) const { return index_.contains(schedule); }
  bool has_default() const { return has_default_; }
  int count() const { return static_cast<int>(trials_.size()); }
  int failures() const { return failures_; }
  // 0: no valid one.
  double best_us() const { return best_us_; }
  double best_us(size_t first_trials) const;
  // The fastest valid trial, where there are others to choose from, until it has been measured
  // twice. The smallest of many noisy times is too small, and another schedule may be the best:
  // only the second time is free of having been chosen. nullptr: the best one can be relied on.
  const Trial* unconfirmed() const;
  double default_us() const { return default_us_; }
  // Class and message of the last failure.
  const std::string& failure() const { return failure_; }

 private:
  std::vector<Trial> trials_;
  std::map<Schedule, size_t> index_;
  // Of all trials, kept because the choice among thousands of workloads asks often.
  bool has_default_ = false;
  int failures_ = 0;
  double best_us_ = 0, default_us_ = 0;
  std::string failure_;
};

// Microseconds that the next trial of a workload is expected to gain: the best latency times the
// share by which it fell during the later half of the trials, plus 1 / trials for what is not known
// yet. Needs a valid trial.
double expected_gain(const History& history);

}  // namespace chanas::internal
