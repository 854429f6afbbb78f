#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Expr;
using Halide::Func;
using Halide::RDom;
using Halide::Var;

Body Lowering::depthwise(int index) {
  const Op& conv = op(index);
  const OpTile& tile = tiles_[index];
  const PackedOp& packed = *packed_[index];
  const int data = conv.inputs[0];
  const int k = conv.kernel, pad = k / 2, s = conv.stride;
  const Shape in_shape = op(data).shape;
  const int vectors = tile.channel_vectors;
  const bool copied = roles_[index].window_on_input && tile.border;
  if (copied) copy_lanes(index);
  // Without a border the taps outside the image are left out: columns when the code is made, for
  // which Halide gives the ends of a row their own code; rows by a condition.
  const bool skip = k > 1 && !tile.border;

  Var v("v"), x("x"), y("y"), c("c");
  Func sums(name(index, "_sums"));
  sums(v, x, y, c) = bias(index, {v, x, y, c});
  RDom r(0, k, 0, k);
  const Expr column = s * x + r.x - pad, row = s * y + r.y - pad;
  if (skip) r.where(inside_rows(row, in_shape.h));
  Expr in;
  if (copied) {
    in = copies_[index](v, column, row, c);
  } else if (skip) {
    const Place inside = {v, clamp(column, 0, in_shape.w - 1), clamp(row, 0, in_shape.h - 1), c};
    in = select(Halide::likely(column >= 0 && column < in_shape.w), lanes(index, data, inside),
                0.0f);
  } else {
    in = lanes(index, data, {v, column, row, c});
  }
  const Expr lane = v + tile.vector * (c % vectors);
  sums(v, x, y, c) += in * weights_(static_cast<int>(packed.weight_offset) + lane +
                                    tile.block() * (r.x + k * r.y + k * k * (c / vectors)));

  auto place = [=, this](const Halide::LoopLevel& level) {
    place_sums(index, sums, level, tile.pixels, {r.x, r.y});
    Func f = sums;
    f.update().reorder(x, c).unroll(r.x);
    if (tile.unroll) f.update().unroll(r.y);
  };
  return {[sums](const Place& p) { return sums(p.v, p.x, p.y, p.c); }, place};
}

}  // namespace chanas
