#include "chanas/tune/propose.h"

#include <algorithm>
#include <cmath>

namespace chanas {
namespace internal {
namespace {

constexpr double kCrossoverShare = 0.25;  // of later proposals that are not random points
constexpr int kAttempts = 32;             // to draw a point that is new, in each of the two ways
constexpr int64_t kEnumerable = 1 << 16;  // points of a space that is searched to its end

// The first legal point, in the order of the choices, that is not taken; spaces too large to be
// enumerated have none.
template <typename Taken>
std::optional<Schedule> first_free_point(const ScheduleSpace& space, const Taken& taken) {
  int64_t points = 1;
  for (const Field& field : space.fields) {
    points *= static_cast<int64_t>(field.choices.size());
    if (points > kEnumerable) return std::nullopt;
  }
  Schedule schedule;
  schedule.values.resize(space.fields.size());
  for (int64_t point = 0; point < points; ++point) {
    int64_t rest = point;
    for (size_t i = 0; i < space.fields.size(); ++i) {
      const auto choices = static_cast<int64_t>(space.fields[i].choices.size());
      schedule.values[i] = space.fields[i].choices[static_cast<size_t>(rest % choices)];
      rest /= choices;
    }
    if (!taken(schedule) && check_legal(space, schedule).ok()) return schedule;
  }
  return std::nullopt;
}

}  // namespace

size_t start_point(const std::vector<double>& times, double gamma, Rng& rng) {
  const auto best =
      static_cast<size_t>(std::min_element(times.begin(), times.end()) - times.begin());
  const size_t drawn = rng.uniform(times.size());
  const double excess = (times[drawn] - times[best]) / times[best];
  return rng.bernoulli(std::exp(-gamma * excess)) ? drawn : best;
}

std::optional<Proposal> propose(const ScheduleSpace& space, const History& history,
                                const std::set<Schedule>& pending, const TuneOptions& options) {
  const auto taken = [&](const Schedule& schedule) {
    return history.contains(schedule) || pending.contains(schedule);
  };
  if (!history.has_default()) {
    Schedule schedule = default_schedule(space);
    if (!taken(schedule)) return Proposal{std::move(schedule), "default"};
  }
  const size_t tried = history.trials().size() + pending.size();
  Rng rng(options.seed, "propose " + space.workload.fingerprint(), tried);
  std::vector<const Schedule*> valid;
  std::vector<double> times;
  for (const Trial& trial : history.trials()) {
    if (!trial.ok) continue;
    valid.push_back(&trial.schedule);
    times.push_back(trial.latency_us);
  }
  const auto start = [&]() -> const Schedule& {
    return *valid[start_point(times, options.gamma, rng)];
  };
  const bool is_start = tried < 1 + static_cast<size_t>(options.random_starts);
  if (!valid.empty() && !is_start && !rng.bernoulli(options.random_share)) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const Schedule& a = start();
      const bool cross = valid.size() > 1 && rng.bernoulli(kCrossoverShare);
      Proposal proposal{cross ? crossover(space, a, start(), rng) : mutate(space, a, rng),
                        cross ? "crossover" : "mutation"};
      if (!taken(proposal.schedule)) return proposal;
    }
  }
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Schedule schedule = random_schedule(space, rng);
    if (!taken(schedule)) return Proposal{std::move(schedule), "random"};
  }
  if (auto schedule = first_free_point(space, taken)) {
    return Proposal{*std::move(schedule), "random"};
  }
  return std::nullopt;
}

}  // namespace internal

std::optional<Proposal> propose(const ScheduleSpace& space, const std::vector<Record>& records,
                                const TuneOptions& options) {
  return internal::propose(space, internal::History(records), {}, options);
}

}  // namespace chanas
