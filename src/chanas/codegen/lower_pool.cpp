#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Func;
using Halide::RDom;
using Halide::Var;

Body Lowering::pool(int index) {
  const int data = op(index).inputs[0];
  const Shape in = external(data) ? op(data).shape : tiles_[data].view;
  if (in.h * in.w == 1) return {[=, this](const Place& p) { return lanes(index, data, p); }};
  Var v("v"), x("x"), y("y"), c("c");
  Func sums(name(index, "_sums"));
  const float factor = 1.0f / static_cast<float>(in.h * in.w);
  if (const int parts = tiles_[index].parts; parts > 1) {
    Var part("part");
    const int rows = ceil_div(in.h, parts);
    RDom r(0, in.w, 0, rows);
    const Halide::Expr row = part * rows + r.y;
    r.where(inside_rows(row, in.h));
    sums(v, x, y, c, part) = 0.0f;
    sums(v, x, y, c, part) += lanes(index, data, {v, r.x, min(row, in.h - 1), c}) * factor;
    return {[=](const Place& p) { return sums(p.v, p.x, p.y, p.c, p.part); },
            [=, this](const Halide::LoopLevel& level) {
              place_sums(index, sums, level, 1, {r.x, r.y});
            }};
  }
  sums(v, x, y, c) = 0.0f;
  RDom r(0, in.w, 0, in.h);
  sums(v, x, y, c) += lanes(index, data, {v, r.x, r.y, c});
  auto place = [=, this](const Halide::LoopLevel& level) {
    place_sums(index, sums, level, 1, {r.x, r.y});
  };
  return {[=](const Place& p) { return sums(p.v, p.x, p.y, p.c) * factor; }, place};
}

Body Lowering::pointwise(int index) {
  const Op& self = op(index);
  return {[this, index, self](const Place& p) {
    const Halide::Expr value = lanes(index, self.inputs[0], p);
    switch (self.kind) {
      case OpKind::kAdd:
        return value + lanes(index, self.inputs[1], p);
      case OpKind::kScale:
        return value * lanes(index, self.inputs[1], p);
      default:
        return activate(self.act, value);
    }
  }};
}

}  // namespace chanas
