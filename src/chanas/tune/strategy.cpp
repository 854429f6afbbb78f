// Strategies without a model.

#include "chanas/tune/strategy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "chanas/base/names.h"

namespace chanas::internal {
namespace {

constexpr double kCrossoverShare = 0.25;  // of children
constexpr int kAttempts = 32;             // to draw a point that is new
constexpr int kIllegalPoints = 1 << 16;   // passed over before a space counts as exhausted

// The first legal point, in the order of the choices, that is not taken.
std::optional<Schedule> first_free_point(const SearchState& state) {
  const std::vector<Field>& fields = state.space.fields;
  std::vector<size_t> choice(fields.size(), 0);
  Schedule schedule;
  for (const Field& field : fields) schedule.values.push_back(field.choices[0]);
  for (int illegal = 0; illegal < kIllegalPoints;) {
    if (!state.taken(schedule)) {
      if (check_legal(state.space, schedule).ok()) return schedule;
      ++illegal;
    }
    size_t i = 0;
    for (; i < fields.size(); ++i) {
      choice[i] = (choice[i] + 1) % fields[i].choices.size();
      schedule.values[i] = fields[i].choices[choice[i]];
      if (choice[i] != 0) break;
    }
    if (i == fields.size()) break;
  }
  return std::nullopt;
}

class GridStrategy : public SearchStrategy {
 public:
  std::optional<Proposal> propose(const SearchState& state) override {
    if (auto first = default_proposal(state)) return first;
    if (auto schedule = first_free_point(state)) return Proposal{*std::move(schedule), "grid"};
    return std::nullopt;
  }
};

class RandomStrategy : public SearchStrategy {
 public:
  std::optional<Proposal> propose(const SearchState& state) override {
    if (auto first = default_proposal(state)) return first;
    Rng rng = state.rng();
    return random_proposal(state, rng);
  }
};

// The paper's search without its cost model.
class EvolutionStrategy : public SearchStrategy {
 public:
  std::optional<Proposal> propose(const SearchState& state) override {
    if (auto first = default_proposal(state)) return first;
    Rng rng = state.rng();
    const StartPoints starts(state.history);
    const bool is_start = state.tried() < 1 + static_cast<size_t>(state.options.random_starts);
    if (!starts.empty() && !is_start && !rng.bernoulli(state.options.random_share)) {
      for (int attempt = 0; attempt < kAttempts; ++attempt) {
        Proposal child = starts.child(state.space, state.options.gamma, rng);
        if (!state.taken(child.schedule)) return child;
      }
    }
    return random_proposal(state, rng);
  }
};

}  // namespace

size_t start_point(const std::vector<double>& times, double gamma, Rng& rng) {
  const auto best =
      static_cast<size_t>(std::min_element(times.begin(), times.end()) - times.begin());
  const size_t drawn = rng.uniform(times.size());
  const double excess = (times[drawn] - times[best]) / times[best];
  return rng.bernoulli(std::exp(-gamma * excess)) ? drawn : best;
}

StartPoints::StartPoints(const History& history) {
  for (const Trial& trial : history.trials()) {
    if (!trial.ok) continue;
    valid_.push_back(&trial.schedule);
    times_.push_back(trial.latency_us);
  }
}

const Schedule& StartPoints::draw(double gamma, Rng& rng) const {
  return *valid_[start_point(times_, gamma, rng)];
}

Proposal StartPoints::child(const ScheduleSpace& space, double gamma, Rng& rng) const {
  const Schedule& a = draw(gamma, rng);
  if (valid_.size() > 1 && rng.bernoulli(kCrossoverShare)) {
    return {crossover(space, a, draw(gamma, rng), rng), "crossover"};
  }
  return {mutate(space, a, rng), "mutation"};
}

std::optional<Proposal> default_proposal(const SearchState& state) {
  if (state.history.has_default()) return std::nullopt;
  Schedule schedule = default_schedule(state.space);
  if (state.taken(schedule)) return std::nullopt;
  return Proposal{std::move(schedule), "default"};
}

std::optional<Proposal> structured_proposal(const SearchState& state) {
  for (Schedule& schedule : structured_schedules(state.space))
    if (!state.taken(schedule)) return Proposal{std::move(schedule), "structure"};
  return std::nullopt;
}

std::optional<Proposal> random_proposal(const SearchState& state, Rng& rng) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Schedule schedule = random_schedule(state.space, rng);
    if (!state.taken(schedule)) return Proposal{std::move(schedule), "random"};
  }
  if (auto schedule = first_free_point(state)) return Proposal{*std::move(schedule), "random"};
  return std::nullopt;
}

StatusOr<std::unique_ptr<SearchStrategy>> make_strategy(std::string_view name) {
  if (name == "gp") return make_gp_strategy();
  if (name == "evolution") return std::make_unique<EvolutionStrategy>();
  if (name == "random") return std::make_unique<RandomStrategy>();
  if (name == "grid") return std::make_unique<GridStrategy>();
  const std::string near = nearest_name(name, strategy_names());
  return absl::InvalidArgumentError(fmt::format(
      "unknown search strategy \"{}\", expected one of {}{}", name, join(strategy_names()),
      near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
}

}  // namespace chanas::internal
