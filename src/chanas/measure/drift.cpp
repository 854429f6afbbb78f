#include "chanas/measure/drift.h"

#include <fmt/format.h>

#include <cmath>

namespace chanas {
namespace {

constexpr double kLook = 0.05;   // seconds between looks at a device that is slower
constexpr double kSilence = 60;  // seconds between two news

std::string in_words(double change) {
  return fmt::format("{} by {:.0f} %", change > 0 ? "slower" : "faster", 100 * std::abs(change));
}

}  // namespace

double DriftWatch::begin(double canary_us, double now) {
  before_us_ = canary_us;
  if (usual_us_ == 0) {
    usual_us_ = canary_us;
    began_ = now;
  }
  const double change = canary_us / usual_us_ - 1;
  if (std::abs(change) <= kAway) {
    away_since_ = -1;
    return 0;
  }
  if (change > 0) {
    if (away_since_ < 0) away_since_ = now;
    const bool affordable = waited_ < kPatience + kWaitShare * (now - began_);
    if (now - away_since_ < kPatience && affordable) {
      waited_ += kLook;
      return kLook;
    }
  }
  moved_ = change;
  usual_us_ = canary_us;
  away_since_ = -1;
  return 0;
}

bool DriftWatch::accept(double canary_us) {
  change_ = canary_us / before_us_ - 1;
  return std::abs(change_) <= kRejected;
}

std::string DriftWatch::describe() const { return in_words(change_); }

std::string DriftWatch::news(double now) {
  if (moved_ == 0 || (said_ >= 0 && now - said_ < kSilence)) return "";
  const std::string words = in_words(moved_);
  moved_ = 0;
  said_ = now;
  return fmt::format(
      "the device is {} than it was (its clock changed, or something else runs); what is measured "
      "now does not compare with what was measured then: look with chanas lut check",
      words);
}

}  // namespace chanas
