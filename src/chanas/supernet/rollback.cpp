#include "chanas/supernet/rollback.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace chanas {
namespace {

constexpr int kMost = 10;
constexpr size_t kPoints = 2;
constexpr int kApart = 50;  // steps; the mean shows a collapse within about 20
constexpr double kMeanWeight = 0.05;
constexpr double kLearnt = 0.85, kCollapsed = 0.99;  // of the loss at chance

}  // namespace

Rollback::Rollback(int classes, std::vector<RollbackPoint> points)
    : chance_(std::log(classes)), points_(std::move(points)) {}

bool Rollback::follow(double loss, TrainState& state) const {
  double& mean = state.mean_loss;
  mean = mean < 0 ? loss : (1 - kMeanWeight) * mean + kMeanWeight * loss;
  if (state.least_loss < 0 || mean < state.least_loss) state.least_loss = mean;
  return state.least_loss < kLearnt * chance_ && mean > kCollapsed * chance_;
}

void Rollback::remember(const TrainState& state, const Supernet& supernet) {
  if (!points_.empty()) {
    const bool rising = state.mean_loss > (state.least_loss + chance_) / 2;
    if (rising && state.least_loss < kLearnt * chance_) return;
    if (state.step < points_.back().state.step + kApart || state.step <= state.failed_at) return;
  }
  if (points_.size() == kPoints) points_.erase(points_.begin());
  const std::span<const float> values = supernet.values();
  points_.push_back({state, {values.begin(), values.end()}});
}

Status Rollback::go_back(const std::string& why, double learning_rate, TrainState& state,
                         std::span<float> values, std::span<float> velocity) {
  const int rollbacks = state.rollbacks + 1;
  const double scale = state.rate_scale / 2;
  const int64_t failed_at = std::max(state.failed_at, state.step);
  if (rollbacks > kMost) {
    return absl::InternalError(fmt::format(
        "{} at step {}, also after {} halvings of the learning rate; lower learning_rate ({}) "
        "in a new folder",
        why, state.step, kMost, learning_rate));
  }
  // Where the last one failed again, it may have been failing already.
  if (state.step <= state.failed_at && points_.size() > 1) points_.pop_back();
  const RollbackPoint& point = points_.back();
  state = point.state;
  state.rollbacks = rollbacks;
  state.rate_scale = scale;
  state.failed_at = failed_at;
  std::copy(point.values.begin(), point.values.end(), values.begin());
  std::ranges::fill(velocity, 0.0f);
  return absl::OkStatus();
}

}  // namespace chanas
