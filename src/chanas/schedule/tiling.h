#pragma once
// A schedule's numbers resolved against the shapes of its workload: what packing, legality and the
// code generator read.

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "chanas/schedule/roles.h"
#include "chanas/schedule/schedule.h"

namespace chanas {

// Loops over vectors of channels ("lanes"), pixels of a row and rows. Splits never leave a
// remainder: the last part of a loop that the factor does not divide is shifted inwards and
// computes a few elements again. The same holds for channels: the last vector of an op with C
// channels covers C - vector .. C - 1, so that no loop needs a mask.
// The values of one op's fields; what the space does not offer stays at the default.
struct OpChoices {
  int vector = 1;           // lanes of a SIMD vector, at most the channels
  int channel_vectors = 1;  // vectors held in registers by one tile
  int pixels = 1;           // neighbours in a row held in registers by one tile
  int unroll = 1;           // reduction steps per loop iteration; depthwise: 1 unrolls window rows
  int order = 0;            // 0 channel blocks outermost, 1 rows
  int slice = 0;            // common tiles of channels per slice; 0: no slices
  int strip = 0;            // rows per strip; 0: no strips
  // 1: reads its data input from a buffer with zero borders, into which an external input is
  // copied. 0: the taps of a window that lie outside the image are left out.
  int border = 0;
  int scale = 0;     // kScale: 0 in the reduction, 1 a value of its own, 2 into the weights
  int bind = 1;      // on a GPU: iterations of the innermost loop outside the tile that are threads
  int parallel = 0;  // 0 serial, 1 outermost loop, 2 the two outermost fused, 3 the reduction
};
// One kind of field: its name behind the op, its place above, its help.
struct ChoiceKind {
  std::string_view name;
  int OpChoices::*value;
  std::string_view help;
};
std::span<const ChoiceKind> choice_kinds();
// The op that a field of a space belongs to, and its kind.
struct FieldKey {
  int op;
  const ChoiceKind& kind;
};
FieldKey field_key(const Field& field);

// Whether half vectors of an op hold two steps of its reduction (OpTile::steps).
bool pairs_steps(const Op& op, const Graph& graph, const Target& target);

// channel_vectors and pixels count within `view`.
struct OpTile : OpChoices {
  Shape view;             // the value as the op's loops see it: that of its role
  int vectors = 1;        // of the whole op, a multiple of channel_vectors and slice_vectors
  int slice_vectors = 1;  // == vectors: not sliced
  int strip_rows = 1;     // == view.h: not stripped
  bool in_strips =
      false;            // made strip by strip: its own strips, or those of the op that it is inside
  bool inside = false;  // producer (or copied input) is computed per slice and strip, not before
  int rows = 1;         // of its value that are there at a time: all, or what a strip needs
  // Rows of what is inside that two strips read are kept from the first of them: one thread makes
  // both, slices are not inside, and the map is higher than two strips; else they are computed
  // twice.
  bool keeps_rows = false;
  bool folded = false;  // has no loops of its own
  // parallel=3: parts of the reduction, one per thread. Of a convolution's, the steps of each:
  // lanes of what is made inside the parts.
  int parts = 1, part_steps = 0;
  // Neighbouring steps of the reduction in the vectors of a convolution's sums. Half vectors leave
  // room for two: a full register holds each of their lanes for both, and their inputs are one
  // load.
  int steps = 1;
  // Zero border around the op's own value, for its readers: before row and column 0, and the size
  // with the borders on both sides.
  int pad = 0, padded_h = 0, padded_w = 0;

  int block() const { return vector * channel_vectors; }
  bool sliced() const { return slice_vectors < vectors; }
};

// One per op of the workload; those of inputs mean nothing. The schedule has the space's length
// (checked).
std::vector<OpTile> resolve(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                            const Schedule& schedule);

// A loop around the register tile of the op that makes the output.
// kRuns: runs of neighbouring strips, one for each thread that shares them.
enum class OutputLoop { kRuns, kSlices, kStrips, kBlocks, kRows, kTiles };
struct OutputLoops {
  // Outermost first, with their iterations; loops of one iteration are left out. Runs, slices and
  // strips, in which the producer is computed, come before the others.
  std::vector<std::pair<OutputLoop, int>> loops;
  int around_producer = 0;  // runs, slices and strips
  int parallel = 0;         // so many of the outermost ones together are the parallel loop
  // Which of the loops it is, from outside; -1: none.
  int find(OutputLoop loop) const;
};
OutputLoops output_loops(const Op& op, const OpTile& tile, int threads);

// Iterations of the parallel loop in which each op is computed; 1: by one thread.
std::vector<int> parallel_tasks(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                                const std::vector<OpTile>& tiles);

// Whether each thread computes a part of an op's channels, thread by thread in their order; else
// all of them need all of its weights.
std::vector<bool> channels_shared(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                                  const std::vector<OpTile>& tiles);

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

// Estimated cycles in which a register tile loads `vectors` vectors of weights, of which `bytes`
// are read again before they repeat: more where these do not stay in the first cache.
inline double weight_cycles(int vectors, int64_t bytes, const Target& target) {
  return (2 * bytes <= target.l1_bytes ? 0.5 : 1.3) * vectors;
}

// Vectors that `channels` fill.
inline int needed_vectors(int channels, int vector) { return ceil_div(channels, vector); }
// The channel in lane `lane` of an op with `channels` channels.
inline int lane_channel(int channels, int vector, int lane) {
  const int first = lane / vector * vector;
  return (first + vector > channels ? channels - vector : first) + lane % vector;
}

}  // namespace chanas
