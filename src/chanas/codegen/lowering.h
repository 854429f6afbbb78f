#pragma once
// Private to this module, because it needs Halide's header: a workload and its schedule as one
// Halide pipeline. Every value inside the workload is a Func (v, x, y, c): SIMD lane, column, row
// and number of the channel vector, so that a vector of channels is a dense vector whatever the
// block sizes. External values, packed weights and the output are flat arrays with constant index
// arithmetic.
//
// An op's Func is written tile by tile in an update stage whose loops are all explicit (tiling.h
// says why splits have no remainders); its accumulators are a Func of their own inside that tile.

#include <Halide.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chanas/codegen/prefetch.h"
#include "chanas/schedule/packing.h"
#include "chanas/schedule/plan.h"
#include "chanas/schedule/tiling.h"

namespace chanas {

// One lane of one pixel.
struct Place {
  Halide::Expr v, x, y, c;
  Halide::Expr part = 0;  // of the reduction
};

// Steps of a reduction that a vector holds beside each other (OpTile::steps): `number` counts
// groups of `width`, of which this is step `beside`. Neighbours lie beside each other wherever they
// are read, so that they are one load.
struct Step {
  Halide::Expr number;
  int width = 1;
  Halide::Expr beside = 0;
};

// What an op computes, before it is placed in loops.
struct Body {
  // The value at a place, epilogue excluded.
  std::function<Halide::Expr(const Place&)> value;
  // Schedules the accumulators inside the loop of a tile; null: there are none.
  std::function<void(Halide::LoopLevel)> place = nullptr;
};

class Lowering {
 public:
  Lowering(const ScheduleSpace& space, const Schedule& schedule);

  // The arguments of the compiled function, in order; the output comes behind them.
  std::vector<Halide::Argument> arguments() const;
  Halide::Func output() const { return output_; }
  // The pass that prefetches a part of the weight arena and what other cores have made
  // (prefetch.h); null: there is nothing to prefetch.
  std::unique_ptr<Halide::Internal::IRMutator> prefetch(
      const std::vector<PrefetchRange>& weights) const;

 private:
  const Op& op(int index) const { return space_.workload.graph.ops[index]; }
  bool external(int value) const { return op(value).kind == OpKind::kInput; }
  std::string name(int index, const char* part = "") const;

  // Reading values: a vector of channels as op `reader` counts them, or one channel.
  Halide::Expr lanes(int reader, int value, const Place& place) const;
  Halide::Expr channel(int value, const Step& step, Halide::Expr x, Halide::Expr y) const;
  // First channel of vector `c` of an op.
  Halide::Expr first_channel(int index, const Halide::Expr& c) const;
  Halide::Expr bias(int index, const Place& place) const;
  Halide::Expr epilogue(int index, Halide::Expr value, const Place& place) const;

  // One per op kind (lower_<kind>.cpp).
  Body convolution(int index);
  Body depthwise(int index);
  Body pool(int index);
  Body pointwise(int index);

  // Zero-bordered copies of an external input (copies.cpp).
  void copy_rows(int index);   // for a convolution: rows of h * w floats
  void copy_lanes(int index);  // for a depthwise convolution: as a value inside the workload
  void scale_weights(int index);
  // Its packed weight for the reduction step that counts all taps, in a lane of a panel.
  Halide::Expr weight(int index, const Step& step, const Halide::Expr& lane,
                      const Halide::Expr& panel) const;

  // Loops (stages.cpp).
  void output_stage(int index, const Body& body);
  // The parts of a shared reduction, side by side; returns their sum as the body of the output.
  Body parts_stage(int index, const Body& body);
  void inner_stage(int index, const Body& body);
  // A new Func (v, x, y, c) with a zero border around `inside`; its inside is left to the caller.
  Halide::Func bordered(const std::string& name, int vector, const Shape& inside, int border,
                        int padded_h, int padded_w) const;
  // Schedules the accumulators of a tile of op `index` at `level`, init and update, whose loops
  // inside the tile's are `loops`. A CPU holds whole vectors, a thread of a GPU its own lane.
  void place_sums(int index, Halide::Func sums, const Halide::LoopLevel& level, int pixels,
                  const std::vector<Halide::RVar>& loops) const;
  bool gpu() const { return space_.target.gpu(); }
  // What a tile of convolution `index` reads of what another thread may have made.
  TileInput tile_input(int index) const;
  // Computes what op `index` reads (its producer, or the copy of its input) at `level` if its tile
  // says so, else before all. A producer that has no slices of its own has what it reads there too.
  void place_producer(int index, const std::optional<Halide::LoopLevel>& level);
  // Computes an inner value before everything that reads it.
  void place_first(int index);
  // Rows of an op's value that are made at a time.
  int new_rows(int index) const;

  const ScheduleSpace& space_;
  std::vector<OpRole> roles_;
  std::vector<OpTile> tiles_;
  Packing packing_;
  std::vector<const PackedOp*> packed_;     // by op
  std::vector<Halide::ImageParam> inputs_;  // by op, those of kInput ops defined
  Halide::ImageParam weights_;
  std::vector<Halide::Func> values_;          // by op, inner ones
  std::vector<Halide::Func> copies_;          // by the op that reads the copy
  std::vector<Halide::Func> scaled_weights_;  // by the convolution that uses them
  Halide::Func output_;
  Halide::LoopLevel around_strips_;  // of the output; where rows between them are kept
};

// 0 <= y < rows as one unsigned comparison. Halide must not see through it: it narrows a condition
// like y < 1 to the row that it names and then takes that row for needed everywhere, which gave
// wrong results (3x3 convolution with stride 2 in strips).
Halide::Expr inside_rows(const Halide::Expr& y, int rows);
Halide::Expr activate(Activation activation, const Halide::Expr& x);

}  // namespace chanas
