#pragma once
// Notices a training that fails and takes it back to a state from before.

#include <span>
#include <string>
#include <vector>

#include "chanas/supernet/checkpoint.h"

namespace chanas {

// The loss is followed by a running mean. Back at chance (the loss of equal outputs) after it was
// well below: the training has collapsed.
class Rollback {
 public:
  explicit Rollback(int classes);

  // Takes a step's loss into the state's mean. True: collapsed.
  bool follow(double loss, TrainState& state) const;
  // A state to go back to. Not taken are those on the way to a collapse that shows already, those
  // within 50 steps of the one before, as a collapse takes a while to show, and those of steps that
  // were taken back; the first one always is.
  void remember(const TrainState& state, std::span<const float> values,
                std::span<const float> velocity);
  // Goes back with half the learning rate: to the last one, and from there, if it does not get past
  // the place of the failure, to the one before. kInternal, naming `why`, after ten times.
  Status go_back(const std::string& why, double learning_rate, TrainState& state,
                 std::span<float> values, std::span<float> velocity);

 private:
  struct Point {
    TrainState state;
    std::vector<float> values, velocity;
  };
  const double chance_;
  std::vector<Point> points_;  // at most two, the later one last
  int64_t failed_at_ = -1;     // the last step that was taken back
};

}  // namespace chanas
