// Zero-bordered buffers: copies of external inputs, and the borders of inner values. The inside is
// written without a test per element, and rows outside the image are never computed. The rows of a
// convolution's copy that lie outside are not written either, as it leaves them out.

#include <algorithm>

#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Expr;
using Halide::Func;
using Halide::RDom;
using Halide::Var;

Expr inside_rows(const Expr& y, int rows) {
  return Halide::cast<uint32_t>(y) < Halide::cast<uint32_t>(rows);
}

void Lowering::copy_rows(int index) {
  const Op& conv = op(index);
  const Shape& in = op(conv.inputs[0]).shape;
  const int pad = conv.kernel / 2;
  const int before = in.c * pad, inside = in.c * in.w;
  const int length = std::max(before + inside, in.c * window_extent(conv.shape.w, conv));

  Var i("i"), y("y");
  Func copy(name(index, "_rows"));
  copy(i, y) = Halide::undef<float>();
  const auto zero = [&](int from, int to) {
    if (from >= to) return;
    RDom r(from, to - from);
    copy(r, y) = 0.0f;
    if (gpu()) copy.update(copy.num_update_definitions() - 1).gpu_blocks(y);
  };
  zero(0, before);
  zero(before + inside, length);
  int width = 1;
  while (width * 2 <= std::min(inside, space_.target.vector_floats)) width *= 2;
  RDom t(0, width, 0, ceil_div(inside, width));
  t.where(inside_rows(y - pad, in.h));
  const Expr at = min(t.y * width, inside - width) + t.x;
  copy(before + at, y) = inputs_[conv.inputs[0]](at + inside * clamp(y - pad, 0, in.h - 1));
  auto stage = copy.update(copy.num_update_definitions() - 1);
  stage.allow_race_conditions();
  if (gpu())
    stage.gpu_threads(t.x).gpu_blocks(t.y, y);
  else
    stage.vectorize(t.x);
  copy.bound(i, 0, length);
  copies_[index] = copy;
}

void Lowering::copy_lanes(int index) {
  const Op& conv = op(index);
  const Shape& in = op(conv.inputs[0]).shape;
  const OpTile& tile = tiles_[index];
  const int pad = conv.kernel / 2;
  Func copy = bordered(name(index, "_copy"), tile.vector, in, pad,
                       pad + std::max(in.h, window_extent(conv.shape.h, conv) - pad),
                       pad + std::max(in.w, window_extent(conv.shape.w, conv) - pad));
  Var v("v"), y("y"), c("c"), ct("ct"), ci("ci");
  RDom t(0, in.w);
  t.where(inside_rows(y, in.h));
  copy(v, t, y, c) = lanes(index, conv.inputs[0], {v, t, clamp(y, 0, in.h - 1), c});
  auto stage = copy.update(copy.num_update_definitions() - 1);
  stage.split(c, ct, ci, tile.channel_vectors, Halide::TailStrategy::GuardWithIf);
  stage.reorder(v, ci, t, y, ct).unroll(ci);
  if (gpu())
    stage.reorder({ci, v, t, y, ct}).gpu_threads(v).gpu_blocks(t, y, ct);
  else
    stage.vectorize(v);
  if (space_.threads > 1 && tile.parallel > 0 && !tile.inside) stage.parallel(ct);
  copies_[index] = copy;
}

Func Lowering::bordered(const std::string& name, int vector, const Shape& inside, int border,
                        int padded_h, int padded_w) const {
  Var v("v"), x("x"), y("y"), c("c");
  Func f(name);
  f(v, x, y, c) = Halide::undef<float>();
  const auto zero = [&](int from, int to, bool rows_outside) {
    if (from >= to) return;
    RDom r(from, to - from);
    if (rows_outside) r.where(!inside_rows(y, inside.h));
    f(v, r, y, c) = 0.0f;
    auto stage = f.update(f.num_update_definitions() - 1);
    if (gpu())
      stage.reorder(r, v, y, c).gpu_threads(v).gpu_blocks(y, c);
    else
      stage.reorder(v, r, y, c).vectorize(v);
  };
  zero(-border, 0, false);
  zero(inside.w, padded_w - border, false);
  if (padded_h > inside.h) zero(-border, padded_w - border, true);
  f.bound(v, 0, vector).bound(x, -border, padded_w);
  return f;
}

}  // namespace chanas
