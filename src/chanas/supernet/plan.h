#pragma once
// What a training does when: its stages, the networks and losses of each step, the learning rate.
// Pure functions of the space, the settings and the step.

#include <string>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/supernet/client.h"
#include "chanas/supernet/supernet.h"

namespace chanas {

struct TrainStage {
  std::string name;            // for people: "depth 3,4"
  double begin = 0, end = 1;   // in [0, 1] of the training
  double rate = 1;             // its peak, as a share of TrainConfig::learning_rate
  ArchSpace space;             // networks are drawn from it
  bool sandwich = false;       // the largest network of all first, the smallest of all last
  int networks = 0;            // random ones per step
  bool taught = false;         // by the network that the first stage ends with
  bool sort_channels = false;  // at its begin; networks of the stage before stay as they are
};

// sandwich: one stage over the whole space; with sort_share one before it on the largest network.
// progressive (OFA, arXiv 1908.09791): largest network, then kernels, depths, ratios and widths
// join; a list of three or more joins in two stages, as there. Their lengths and rates are OFA's
// in proportion. A dimension with a single choice has no stage.
std::vector<TrainStage> make_stages(const ArchSpace& space, const TrainConfig& config);

// Index of the stage at a position in [0, 1].
size_t stage_at(const std::vector<TrainStage>& stages, double position);

// Learning rate as a share of TrainConfig::learning_rate, at a position of the training.
double rate_in(const std::vector<TrainStage>& stages, double position, double warmup_share);
// Of one stage, at `position` in [0, 1] of it: linear warm-up, then half a cosine.
double rate_at(double position, double warmup_share);

// The networks of a step, each of a resolution of its own (as BigNAS has it, arXiv 2003.11142): so
// the one that teaches the others sees the most. With "macs" sampling each random one lies in (or
// near) a random eighth of the range of multiply-adds of its resolution, which favours small and
// large ones over uniform genes (that gather in the middle).
std::vector<Arch> draw_networks(const TrainStage& stage, const TrainConfig& config, int64_t step);

// How a step's losses are computed over `ranks` (null: no others).
LossOptions loss_options(const TrainConfig& config, int64_t step, Collective* ranks);

// kInvalidArgument names the setting.
Status validate(const TrainConfig& config);

}  // namespace chanas
