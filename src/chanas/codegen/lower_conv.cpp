#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Expr;
using Halide::Func;
using Halide::RDom;
using Halide::Var;

Body Lowering::convolution(int index) {
  const Op& conv = op(index);
  const OpTile& tile = tiles_[index];
  const PackedOp& packed = *packed_[index];
  const int data = conv.inputs[0];
  const int k = conv.kernel, pad = k / 2, s = conv.stride;
  // A shared reduction goes through the lanes of what its parts make.
  const bool shared = tile.parts > 1;
  const int depth = shared ? tile.parts * tile.part_steps : op(data).shape.c;
  const int block = tile.block(), vectors = tile.channel_vectors;
  const bool copied = roles_[index].window_on_input;
  if (copied) copy_rows(index);
  const bool weights_scaled = tiles_[data].folded && tiles_[data].scale == 2;
  if (weights_scaled) scale_weights(index);

  // A copied input is read as rows of floats, where a window row is contiguous: reduction over
  // (window row's floats, window rows). Anything else: (channels, window columns, window rows).
  const int row = shared ? tile.part_steps : copied ? depth * k : depth;
  RDom r = copied || k == 1 ? RDom(0, row, 0, copied ? k : 1) : RDom(0, depth, 0, k, 0, k);
  Expr column = 0, window_row = r.y;
  if (!copied && k > 1) column = r.y, window_row = r.z;

  Var v("v"), x("x"), y("y"), c("c"), part("part");
  // No work on rows outside the image.
  if (k > 1) r.where(inside_rows(s * y + window_row - pad, op(data).shape.h));
  Func sums(name(index, "_sums"));
  std::vector<Var> at = {v, x, y, c};
  if (shared) at.push_back(part);
  sums(at) = shared ? 0.0f : bias(index, {v, x, y, c});
  const Expr number = shared ? part * tile.part_steps + r.x : r.x;
  const auto input = [&](const Expr& at_x) {
    if (copied) return Expr(copies_[index](depth * s * at_x + r.x, s * y + window_row));
    if (shared) {
      const int vector = tiles_[data].vector;
      const Expr first = part * (tile.part_steps / vector);
      return lanes(index, data, {r.x % vector, at_x, y, first + r.x / vector});
    }
    return channel(data, r.x, s * at_x + column - pad, s * y + window_row - pad);
  };
  const Expr step = number + depth * (copied ? Expr(k * window_row) : column + k * window_row);
  const Expr lane = v + tile.vector * (c % vectors);
  // Which of the fused pixels a lane belongs to; for most vectors known when the code is made.
  Expr in = input(tile.fuse * x);
  for (int pixel = 1; pixel < tile.fuse; ++pixel)
    in = select(lane < pixel * conv.shape.c, in, input(tile.fuse * x + pixel));
  const int steps = depth * k * k;
  const Expr weight = weights_scaled ? scaled_weights_[index](lane, step, c / vectors)
                                     : weights_(static_cast<int>(packed.weight_offset) + lane +
                                                block * (step + steps * (c / vectors)));
  sums(at) += in * weight;

  std::vector<Halide::RVar> loops;
  for (int d = 0; d < r.dimensions(); ++d) loops.push_back(r[d]);
  auto place = [=, this](const Halide::LoopLevel& level) {
    place_sums(index, sums, level, tile.pixels, loops);
    Func f = sums;
    if (tile.unroll > 1) f.update().unroll(r.x, tile.unroll, Halide::TailStrategy::GuardWithIf);
  };
  const auto value = [=](const Place& p) -> Expr {
    if (shared) return sums(p.v, p.x, p.y, p.c, p.part);
    return sums(p.v, p.x, p.y, p.c);
  };
  return {value, place};
}

void Lowering::scale_weights(int index) {
  const PackedOp& packed = *packed_[index];
  const OpTile& tile = tiles_[index];
  const int steps = op(op(index).inputs[0]).shape.c;  // only 1x1 windows
  const int gate = op(op(index).inputs[0]).inputs[1];
  Var lane("lane"), step("step"), panel("panel"), outer("outer");
  Func scaled(name(index, "_weights"));
  scaled(lane, step, panel) = weights_(static_cast<int>(packed.weight_offset) + lane +
                                       tile.block() * (step + steps * panel)) *
                              channel(gate, step, 0, 0);
  scaled.bound(lane, 0, tile.block())
      .bound(step, 0, steps)
      .bound(panel, 0, packed.lanes / tile.block());
  scaled.compute_root();
  if (gpu())
    scaled.gpu_blocks(step, panel).gpu_threads(lane);
  else
    scaled.vectorize(lane, tile.vector).unroll(lane);
  if (space_.threads > 1 && tile.parallel > 0) scaled.parallel(panel);
  scaled_weights_[index] = scaled;
}

}  // namespace chanas
