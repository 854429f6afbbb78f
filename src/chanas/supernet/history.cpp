#include "chanas/supernet/history.h"

#include <cmath>

#include "chanas/base/cancellation.h"
#include "chanas/base/rng.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPoints = 100;
constexpr int kAccuracyPoints = 5;  // of them, with accuracies
constexpr int64_t kQuickImages = 500;
constexpr int64_t kRecalibrationImages = 2000;
constexpr auto kReportEvery = std::chrono::milliseconds(250);

Arch random_network(const ArchSpace& space, uint64_t seed) {
  Rng rng(seed, "probe");
  return sample(space, rng.choose(space.cells()), rng);
}

// Points by position: their number does not depend on how the plan came about.
double points_until(double position) { return std::floor(position * kPoints + 1e-9); }

}  // namespace

History::History(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
                 const std::string& folder, const TrainHooks& hooks, Collective& ranks,
                 const Arch* alone)
    : dataset_(dataset),
      folder_(folder),
      hooks_(hooks),
      ranks_(ranks),
      alone_(alone != nullptr),
      largest_(alone_ ? *alone : largest(space)),
      smallest_(alone_ ? *alone : smallest(space)),
      random_(alone_ ? *alone : random_network(space, config.seed)),
      quick_(dataset, Part::kRanking, kQuickImages, kQuickImages) {}

Status History::start(const TrainState& state) {
  Status status;
  if (ranks_.first()) {
    StatusOr<Curves> curves = Curves::start(folder_, state.history);
    status = curves.status();
    if (curves.ok()) curves_ = *std::move(curves);
  }
  return ranks_.agree(status);
}

void count_step(const StepLoss& loss, double gradient_norm, TrainState& state) {
  state.gap += loss.gap;
  state.negative_gaps += loss.negative_gaps;
  state.point_loss += loss.loss;
  state.point_gap += loss.gap;
  state.point_negative_gaps += loss.negative_gaps;
  state.point_gradient_norm += gradient_norm;
  ++state.point_steps;
  ++state.step;
}

TrainResult summary(const TrainState& state) {
  TrainResult r;
  r.steps = state.step;
  r.seconds = state.seconds;
  r.accuracy_largest = state.accuracy_largest;
  r.accuracy_smallest = state.accuracy_smallest;
  r.accuracy_test = state.accuracy_test;
  const auto steps = static_cast<double>(std::max<int64_t>(1, state.step));
  r.mean_gap = state.gap / steps;
  r.negative_gap_share = state.negative_gaps / steps;
  r.rollbacks = state.rollbacks;
  r.history = state.history;
  return r;
}

Status History::after_step(double before, double loss,
                           const std::function<TrainProgress()>& progress, const Supernet& supernet,
                           TrainState& state) {
  if (points_until(state.position()) > points_until(before)) {
    CHANAS_RETURN_IF_ERROR(add_point(progress(), supernet, state));
  }
  if (!hooks_.progress || Clock::now() - reported_ < kReportEvery) return absl::OkStatus();
  TrainProgress p = progress();
  if (state.point_steps == 0) p.loss = loss;
  hooks_.progress(p);
  reported_ = Clock::now();
  return absl::OkStatus();
}

Status History::add_point(TrainProgress point, const Supernet& supernet, TrainState& state) {
  if ((state.history.size() + 1) % (kPoints / kAccuracyPoints) == 0 && ranks_.first()) {
    point.accuracy_largest = quick_.accuracy(supernet, largest_);
    point.accuracy_smallest = quick_.accuracy(supernet, smallest_);
    point.accuracy_random = quick_.accuracy(supernet, random_);
    const double mean = (point.accuracy_largest + point.accuracy_smallest) / 2;
    if (mean > state.best_accuracy) {
      state.best_accuracy = mean;
      state.best_step = state.step;
    }
  }
  state.history.push_back(point);
  state.point_loss = state.point_gap = state.point_negative_gaps = state.point_gradient_norm = 0;
  state.point_steps = 0;
  if (hooks_.progress) hooks_.progress(point);
  reported_ = Clock::now();
  return ranks_.agree(curves_ ? curves_->add(point) : absl::OkStatus());
}

Status History::conclude(const Supernet& supernet, TrainState& state) const {
  Evaluator evaluator(dataset_, Part::kRanking, 0, kRecalibrationImages);
  state.accuracy_largest = evaluator.accuracy(supernet, largest_);
  CHANAS_RETURN_IF_ERROR(check_cancelled());
  state.accuracy_smallest = evaluator.accuracy(supernet, smallest_);
  if (alone_) {
    state.accuracy_test =
        Evaluator(dataset_, Part::kTest, 0, kRecalibrationImages).accuracy(supernet, largest_);
  }
  return absl::OkStatus();
}

}  // namespace chanas
