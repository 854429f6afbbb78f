#pragma once
// Notices a training that fails and takes it back to a state from before.

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
  // The state to go back to. One on the way to a collapse is not taken, except the first.
  void remember(const TrainState& state, std::span<const float> values,
                std::span<const float> velocity);
  // Goes back with half the learning rate. kInternal, naming `why`, after ten times.
  Status go_back(const std::string& why, double learning_rate, TrainState& state,
                 std::span<float> values, std::span<float> velocity) const;

 private:
  const double chance_;
  TrainState state_;
  std::vector<float> values_, velocity_;
};

}  // namespace chanas
