#pragma once
// What the structure of a workload fixes before any schedule: how each op sees its value, who is
// computed inside whose loops, who shares vectors with whom.

#include <vector>

#include "chanas/graph/workload.h"

namespace chanas {

struct OpRole {
  bool final = false;  // makes the workload's output
  // The op's value as its loops see it: shape, or {1, h * w, c} where rows do not matter, so that
  // one tile may span rows of a small map.
  Shape view;
  // kScale read by one 1x1 convolution alone: the "scale" field may fold it into that convolution.
  bool foldable = false;
  // The op of the workload that makes the data input and is read by this op alone, so that it can
  // be computed inside this op's loops; -1: none.
  int producer = -1;
  // Reads an external value through a window wider than one pixel.
  bool window_on_input = false;
  // First op of those that hand values on lane by lane (convolution -> depthwise, convolution ->
  // pool): they share one vector width. -1 for inputs.
  int lanes = -1;
};

// One per op. The workload's graph must verify.
std::vector<OpRole> op_roles(const Workload& workload);

// Rows (or columns) of the input that a window op reads in one dimension, borders included.
inline int window_extent(int out, const Op& op) { return (out - 1) * op.stride + op.kernel; }

}  // namespace chanas
