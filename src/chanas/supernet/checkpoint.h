#pragma once
// Saved training: two files, the second one written last and pointing to the first by checksum.
//   checkpoint-<step>-<stage>.safetensors   weights, momentum.<weight>, and teacher.<weight> if
//                                           there is one, and point.<i>.<weight> of the states to
//                                           go back to
//   checkpoint-<step>-<stage>.json          version, identity, state, SHA-256 of the other file
// The last three of them are kept, and the one of best_step. Numbers in JSON read back to the same
// bits.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/supernet/client.h"
#include "chanas/supernet/supernet.h"

namespace chanas {

struct TrainState {
  int64_t step = 0;      // finished ones
  int64_t steps = 0;     // planned in all
  bool planned = false;  // the plan does not change any more
  // The learning rate's schedule runs from base_position at base_step to 1 at `steps`.
  int64_t base_step = 0;
  double base_position = 0;
  int64_t stage = 0;      // that the step belongs to; its teacher and sorting are in the weights
  double seconds = 0;     // spent on it so far
  double rate_scale = 1;  // halved by each rollback
  int rollbacks = 0;
  int64_t failed_at = -1;  // the last step that a rollback took back
  bool complete = false;
  // Sums over all steps.
  double gap = 0, negative_gaps = 0;
  // Since the last point of the history.
  double point_loss = 0, point_gap = 0, point_negative_gaps = 0, point_gradient_norm = 0;
  int64_t point_steps = 0;
  // Mean of the last losses, and its least value; < 0: none yet.
  double mean_loss = -1, least_loss = -1;
  // Where the mean of the largest and the smallest network's accuracy was highest.
  int64_t best_step = -1;
  double best_accuracy = -1;
  double accuracy_largest = 0, accuracy_smallest = 0, accuracy_test = -1;  // when complete
  std::vector<TrainProgress> history;

  // In [0, 1] of the training.
  double position() const;
};

// A state that a training may go back to (rollback.h). Its momentum is not kept.
struct RollbackPoint {
  TrainState state;
  std::vector<float> values;  // as Supernet::values()
};

struct Checkpoint {
  TrainState state;
  std::vector<float> values, momentum, teacher;  // as Supernet::values(); teacher may be empty
  std::vector<RollbackPoint> points;             // earlier ones first
  std::string path;                              // its JSON file
};

// `identity` is what a checkpoint belongs to, compared key by key: kInvalidArgument names the first
// key that differs. Saving fails with the errors of write_file_atomic (disk full:
// kResourceExhausted); older checkpoints stay as they were, those of later steps (before a
// rollback) are removed first.
Status save_checkpoint(const std::string& folder, const Json& identity,
                       const std::vector<Supernet::Parameter>& parameters, const TrainState& state,
                       std::span<const float> values, std::span<const float> momentum,
                       std::span<const float> teacher, std::span<const RollbackPoint> points);

// The newest checkpoint that is whole; each one that is not is told to `warn`. kNotFound: there is
// none and never was. kDataLoss: there are some, and none can be read. kInvalidArgument: of another
// version or identity (keys that `identity` lacks are not compared).
StatusOr<Checkpoint> load_checkpoint(const std::string& folder, const Json& identity,
                                     const std::vector<Supernet::Parameter>& parameters,
                                     const std::function<void(const std::string&)>& warn);

// The identity in the newest readable checkpoint.
StatusOr<Json> checkpoint_identity(const std::string& folder);

}  // namespace chanas
