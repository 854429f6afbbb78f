#include "chanas/measure/drift.h"

#include <fmt/format.h>

#include <cmath>

namespace chanas {
namespace {

std::string in_words(double change) {
  return fmt::format("{} by {:.0f} %", change > 0 ? "slower" : "faster", 100 * std::abs(change));
}

}  // namespace

void DriftWatch::begin(double canary_us) {
  if (first_us_ == 0) first_us_ = canary_us;
  before_us_ = canary_us;
}

bool DriftWatch::accept(double canary_us) {
  change_ = canary_us / before_us_ - 1;
  before_us_ = canary_us;
  return std::abs(change_) <= kRejected;
}

std::string DriftWatch::describe() const { return in_words(change_); }

std::string DriftWatch::news() {
  const double change = before_us_ / first_us_ - 1;
  const bool away = std::abs(change) > kAnotherDevice;
  if (away == away_) return "";
  away_ = away;
  if (!away) return "the device is as fast again as when measuring began";
  return fmt::format(
      "the device is {} than when measuring began (its clock changed, or something else runs); "
      "what "
      "is measured now does not compare with what was measured then: look with chanas lut check",
      in_words(change));
}

}  // namespace chanas
