#pragma once
// What a training tells: progress for people, a hundred points with losses and accuracies for the
// curves, the result.

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "chanas/supernet/checkpoint.h"
#include "chanas/supernet/collective.h"
#include "chanas/supernet/curves.h"
#include "chanas/supernet/evaluate.h"
#include "chanas/supernet/trainer.h"

namespace chanas {

// Not thread safe; the arguments must outlive it. All ranks make the same calls; the first one
// takes the accuracies and writes the curves.
class History {
 public:
  History(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
          const std::string& folder, const TrainHooks& hooks, Collective& ranks, const Arch* alone);

  // Curves anew with the state's points. Errors of Curves::start.
  Status start(const TrainState& state);
  // After a step that has moved the state from position `before`: a point, each hundredth of the
  // training, else word for people now and then. `progress` is asked only when it is needed; `loss`
  // is that of the step.
  Status after_step(double before, double loss, const std::function<TrainProgress()>& progress,
                    const Supernet& supernet, TrainState& state);
  // The accuracies of the whole training. kCancelled.
  Status conclude(const Supernet& supernet, TrainState& state) const;

 private:
  Status add_point(TrainProgress point, const Supernet& supernet, TrainState& state);

  const Dataset& dataset_;
  const std::string& folder_;
  const TrainHooks& hooks_;
  Collective& ranks_;
  const bool alone_;
  const Arch largest_, smallest_, random_;  // of which accuracies are taken
  Evaluator quick_;
  std::optional<Curves> curves_;
  std::chrono::steady_clock::time_point reported_;
};

// Sums over the points since the last one and over all steps; the gradient's norm before clipping.
void count_step(const StepLoss& loss, double gradient_norm, TrainState& state);
// What the state knows of the result.
TrainResult summary(const TrainState& state);

}  // namespace chanas
