#pragma once
// Channel sorting: smaller networks are leading channels of larger ones, so the important channels
// are moved to the front before networks with fewer of them are trained.

#include <span>
#include <string>
#include <vector>

#include "chanas/supernet/supernet.h"

namespace chanas {

// One channel axis of the network and everything that runs along it: all these tensors take the
// same permutation, and then the network computes the same.
struct ChannelGroup {
  struct Axis {
    std::string parameter;
    int dimension = 0;
    bool reads = false;  // a weight that reads the channels: its size tells their importance
  };
  std::vector<Axis> axes;
  // Channel counts of the networks that must stay as they are, ascending; the last one is all.
  // A channel stays between the same two of them.
  std::vector<int64_t> counts;
};

// All groups of a supernet whose networks in `trained` must stay as they are. `trained` has the
// supernet's structure and some of its widths and ratios, the largest of both included. Inner
// channels (between expansion and projection, and SE's hidden ones) are groups of one unit; the
// outer ones of a block belong to all units that are tied by residuals, to the next block and to
// the head.
std::vector<ChannelGroup> channel_groups(const ArchSpace& trained);

// Sorts each group by importance (sum of |w| over the weights that read a channel), most important
// first, stable. Networks of `trained` keep their function up to rounding; others change. `values`
// as Supernet::values().
void sort_channels(const ArchSpace& trained, const std::vector<Supernet::Parameter>& parameters,
                   std::span<float> values);

}  // namespace chanas
