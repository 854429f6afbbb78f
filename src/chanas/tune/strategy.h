#pragma once
// Internal to tune: ways to search one workload's space.

#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "chanas/base/rng.h"
#include "chanas/tune/experience.h"
#include "chanas/tune/tuner.h"

namespace chanas::internal {

// What a proposal depends on, all of it.
struct SearchState {
  const ScheduleSpace& space;
  const History& history;             // of this workload
  const std::set<Schedule>& pending;  // on their way, not to be proposed again
  const Experience& experience;       // of all workloads of its kind, this one's trials included
  const TuneOptions& options;

  bool taken(const Schedule& schedule) const {
    return history.contains(schedule) || pending.contains(schedule);
  }
  size_t tried() const { return history.trials().size() + pending.size(); }
  Rng rng() const { return Rng(options.seed, "propose " + space.workload.fingerprint(), tried()); }
};

// One object may serve any number of workloads, one after the other. What it keeps between calls
// only saves time: a proposal is a function of the state, so that searches replay from records.
class SearchStrategy {
 public:
  virtual ~SearchStrategy() = default;
  // The next candidate to measure, legal and not taken; the default schedule first. A batch is made
  // by asking again with the candidate among the pending ones. nullopt: nothing left worth a trial.
  virtual std::optional<Proposal> propose(const SearchState& state) = 0;
};

// "gp", "evolution", "random" or "grid"; kInvalidArgument names the nearest.
StatusOr<std::unique_ptr<SearchStrategy>> make_strategy(std::string_view name);
std::unique_ptr<SearchStrategy> make_gp_strategy();

// --- Parts that strategies share ----------------------------------------------------------------

// The paper's rule for start points (section 4 step 1) on times, as FlexTensor does it: a random
// point is accepted with exp(-gamma (t - t*) / t*), else the best one is taken. Returns an index.
size_t start_point(const std::vector<double>& times, double gamma, Rng& rng);
// Draws start points among the valid trials of a history, which must have one.
class StartPoints {
 public:
  explicit StartPoints(const History& history);
  bool empty() const { return valid_.empty(); }
  // A mutant of a start point, or a child of two.
  Proposal child(const ScheduleSpace& space, double gamma, Rng& rng) const;

 private:
  const Schedule& draw(double gamma, Rng& rng) const;

  std::vector<const Schedule*> valid_;
  std::vector<double> times_;
};
// The default schedule where it is not taken.
std::optional<Proposal> default_proposal(const SearchState& state);
// The first of structured_schedules that is not taken.
std::optional<Proposal> structured_proposal(const SearchState& state);
// A random legal point that is not taken; where drawing does not find one, the first in the order
// of the choices. nullopt when the space is exhausted.
std::optional<Proposal> random_proposal(const SearchState& state, Rng& rng);

}  // namespace chanas::internal
