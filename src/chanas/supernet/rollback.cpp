#include "chanas/supernet/rollback.h"

#include <fmt/format.h>

#include <cmath>

namespace chanas {
namespace {

constexpr int kMost = 10;
constexpr double kMeanWeight = 0.05;
constexpr double kLearnt = 0.85, kCollapsed = 0.99;  // of the loss at chance

}  // namespace

Rollback::Rollback(int classes) : chance_(std::log(classes)) {}

bool Rollback::follow(double loss, TrainState& state) const {
  double& mean = state.mean_loss;
  mean = mean < 0 ? loss : (1 - kMeanWeight) * mean + kMeanWeight * loss;
  if (state.least_loss < 0 || mean < state.least_loss) state.least_loss = mean;
  return state.least_loss < kLearnt * chance_ && mean > kCollapsed * chance_;
}

void Rollback::remember(const TrainState& state, std::span<const float> values,
                        std::span<const float> velocity) {
  const bool rising = state.mean_loss > (state.least_loss + chance_) / 2;
  if (!values_.empty() && rising && state.least_loss < kLearnt * chance_) return;
  state_ = state;
  values_.assign(values.begin(), values.end());
  velocity_.assign(velocity.begin(), velocity.end());
}

Status Rollback::go_back(const std::string& why, double learning_rate, TrainState& state,
                         std::span<float> values, std::span<float> velocity) const {
  const int rollbacks = state.rollbacks + 1;
  const double scale = state.rate_scale / 2;
  if (rollbacks > kMost) {
    return absl::InternalError(fmt::format(
        "{} at step {}, also after {} halvings of the learning rate; lower learning_rate ({}) "
        "in a new folder",
        why, state.step, kMost, learning_rate));
  }
  state = state_;
  state.rollbacks = rollbacks;
  state.rate_scale = scale;
  std::copy(values_.begin(), values_.end(), values.begin());
  std::copy(velocity_.begin(), velocity_.end(), velocity.begin());
  return absl::OkStatus();
}

}  // namespace chanas
