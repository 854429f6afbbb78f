#pragma once
// Training of a supernet: plan, steps, checkpoints. Everything random in a step is a function of
// (seed, step), so a training that was killed and continued gives the same bits as an undisturbed
// one (with the same plan and number of threads).
//
// Over several ranks a batch is divided, never enlarged: image i of the training is the same, with
// the same augmentation, whatever the number of ranks, so that a training may go on with another
// number. Each rank computes the gradient of its part with BN statistics of the whole batch, the
// parts are added up, and every rank makes the same update.

#include <chrono>
#include <functional>
#include <span>
#include <string>

#include "chanas/data/dataset.h"
#include "chanas/supernet/client.h"
#include "chanas/supernet/collective.h"
#include "chanas/supernet/supernet.h"

namespace chanas {

struct TrainHooks {
  std::function<void(const TrainProgress&)> progress;
  std::function<void(const std::string&)> warn;
  std::function<void(const std::string&)> note;  // lines for people: the plan
  // Sees each step's gradient before it is used; tests damage it.
  std::function<void(int64_t step, std::span<float> gradient)> on_gradient;
  // The processes that train together (null: this one alone). All of them call train() alike; the
  // first one writes to the folder, which all of them read.
  Collective* ranks = nullptr;
  Device device;
  // When the time budget started to run.
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
};

// See train_supernet in client.h for what it does and its errors, and train_subnet for what it does
// with `alone`. kAborted: a peer was lost; rank 0 has saved the last whole step.
StatusOr<TrainResult> train(const ArchSpace& space, const Dataset& dataset,
                            const TrainConfig& config, const std::string& folder,
                            const TrainHooks& hooks, const Arch* alone = nullptr);

// The trained supernet of a folder, for evaluation and export.
StatusOr<Supernet> load_supernet(const ArchSpace& space, const Dataset& dataset,
                                 const std::string& folder,
                                 const std::function<void(const std::string&)>& warn);

}  // namespace chanas
