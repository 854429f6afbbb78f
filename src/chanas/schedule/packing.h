#pragma once
// Packed weights: the one flat float buffer that a compiled kernel reads, laid out as its schedule
// consumes it. A pure function of (workload, schedule); the code generator indexes it, deployment
// fills it.

#include <cstdint>
#include <string>
#include <vector>

#include "chanas/schedule/schedule.h"

namespace chanas {

// Where one op's parameters lie in the workload's buffer. Convolution weights are packed
// [lanes / block][k][k][c_in / steps][block][steps] (depthwise: c_in and steps are 1;
// OpTile::steps), biases [lanes]. Lanes are channels filled up to whole blocks: the last vector of
// an op with C channels holds C - vector .. C - 1, and so do any vectors after it, so that no lane
// is empty (lane_channel in tiling.h). A reduction in parts counts the lanes of what it reads in
// place of c_in; those that repeat a channel have weights of zero.
struct PackedOp {
  int op = 0;                                  // index in the workload's graph
  int vector = 1;                              // lanes of one SIMD vector
  int block = 1;                               // lanes per panel, a multiple of `vector`
  int steps = 1;                               // of the reduction that lie beside each other
  int lanes = 0;                               // a multiple of `block`
  int depth = 1;                               // steps of the reduction at one window position
  int depth_vector = 0;                        // its steps are lanes of such vectors; 0: channels
  int64_t weight_offset = 0, weight_size = 0;  // floats; offsets are multiples of 16
  int64_t bias_offset = 0, bias_size = 0;      // size 0: no bias

  // Where the weight of a lane lies for a step of the reduction, which counts [k][k][c_in].
  int64_t weight_at(int lane, int64_t step) const {
    const int64_t panel = weight_size / (lanes / block), beside = step % steps;
    return weight_offset + lane / block * panel + (step - beside) * block + lane % block * steps +
           beside;
  }
};
struct Packing {
  std::vector<PackedOp> ops;  // those with parameters, in graph order
  int64_t size = 0;           // floats, a multiple of 16 (64 bytes)
};
Packing packing(const ScheduleSpace& space, const Schedule& schedule);

// Fills `out` (packing.size floats) from `parameters`, where names[i] is the parameter prefix of
// op i of the workload's graph (Group::names). Parameters were checked (check_parameters).
void pack_weights(const ScheduleSpace& space, const Schedule& schedule,
                  const Parameters& parameters, const std::vector<std::string>& names, float* out);

}  // namespace chanas
