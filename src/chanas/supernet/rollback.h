#pragma once
// Notices a training that fails and takes it back to a state from before. Which state that is
// depends on the steps alone, and checkpoints hold what may be needed, so that a training that was
// killed goes back to where an undisturbed one does.

#include <span>
#include <string>
#include <vector>

#include "chanas/supernet/checkpoint.h"

namespace chanas {

// The loss is followed by a running mean. Back at chance (the loss of equal outputs) after it was
// well below: the training has collapsed.
class Rollback {
 public:
  // `points`: of the checkpoint that the training goes on from.
  explicit Rollback(int classes, std::vector<RollbackPoint> points = {});

  // Takes a step's loss into the state's mean. True: collapsed.
  bool follow(double loss, TrainState& state) const;
  // After each step: a state to go back to. Not taken are those on the way to a collapse that shows
  // already, those within 50 steps of the one before, as a collapse takes a while to show, and
  // those of steps that were taken back; the first one always is.
  void remember(const TrainState& state, const Supernet& supernet);
  // What came before is not to be gone back to.
  void forget() { points_.clear(); }
  // Goes back with half the learning rate and without momentum: to the last point, and from there,
  // if the training does not get past the place of the failure, to the one before. kInternal,
  // naming `why`, after ten times.
  Status go_back(const std::string& why, double learning_rate, TrainState& state,
                 std::span<float> values, std::span<float> velocity);

  // For the checkpoint.
  std::span<const RollbackPoint> points() const { return points_; }

 private:
  double chance_;
  std::vector<RollbackPoint> points_;  // at most two, the later one last
};

}  // namespace chanas
