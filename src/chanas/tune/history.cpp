#include "chanas/tune/history.h"

#include <fmt/format.h>

namespace chanas::internal {

Trial trial_of(const Record& record) {
  return {.schedule = record.schedule,
          .origin = record.origin,
          .ok = record.result.ok(),
          .latency_us = record.result.latency_us,
          .measurements = 1};
}

History::History(const std::vector<Record>& records) {
  for (const Record& record : records) add(record);
}

void History::add(const Record& record) {
  const auto [entry, is_new] = index_.emplace(record.schedule, trials_.size());
  if (is_new) trials_.push_back({.schedule = record.schedule, .origin = record.origin});
  Trial& trial = trials_[entry->second];
  trial.ok = record.result.ok();
  trial.latency_us = record.result.latency_us;
  ++trial.measurements;
  if (!trial.ok) {
    failure_ = fmt::format("{}: {}", trial_error_name(record.result.error), record.result.message);
  }
  best_us_ = best_us(trials_.size());
  failures_ = 0;
  default_us_ = 0;
  for (const Trial& each : trials_) {
    failures_ += !each.ok;
    has_default_ |= each.origin == "default";
    if (each.ok && each.origin == "default") default_us_ = each.latency_us;
  }
}

double History::best_us(size_t first_trials) const {
  double best = 0;
  for (size_t i = 0; i < first_trials; ++i) {
    const Trial& trial = trials_[i];
    if (trial.ok && (best == 0 || trial.latency_us < best)) best = trial.latency_us;
  }
  return best;
}

const Trial* History::unconfirmed() const {
  const Trial* best = nullptr;
  int valid = 0;
  for (const Trial& trial : trials_) {
    if (!trial.ok) continue;
    ++valid;
    if (best == nullptr || trial.latency_us < best->latency_us) best = &trial;
  }
  return valid > 1 && best->measurements < 2 ? best : nullptr;
}

double expected_gain(const History& history) {
  const double best = history.best_us();
  CHANAS_CHECK(best > 0);
  const size_t count = history.trials().size();
  const double before = history.best_us(count / 2);
  const double fell = before > 0 ? 1 - best / before : 1;
  return best * (fell + 1.0 / static_cast<double>(count));
}

}  // namespace chanas::internal
