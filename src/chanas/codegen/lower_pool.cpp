#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Expr;
using Halide::Func;
using Halide::RDom;
using Halide::Var;

Body Lowering::pool(int index) {
  const int data = op(index).inputs[0];
  const Shape in = external(data) ? op(data).shape : tiles_[data].view;
  if (in.h * in.w == 1) return {[=, this](const Place& p) { return lanes(index, data, p); }};
  // In parts each thread sums up some rows, the last one perhaps fewer.
  const int parts = tiles_[index].parts;
  Var v("v"), x("x"), y("y"), c("c"), part("part");
  std::vector<Var> at = {v, x, y, c};
  RDom r(0, in.w, 0, ceil_div(in.h, parts));
  Expr row = r.y;
  if (parts > 1) {
    at.push_back(part);
    row = part * ceil_div(in.h, parts) + r.y;
    r.where(inside_rows(row, in.h));
    row = min(row, in.h - 1);
  }
  Func sums(name(index, "_sums"));
  sums(at) = 0.0f;
  sums(at) += lanes(index, data, {v, r.x, row, c});
  auto place = [=, this](const Halide::LoopLevel& level) {
    place_sums(index, sums, level, 1, {r.x, r.y});
  };
  const float factor = 1.0f / static_cast<float>(in.h * in.w);
  const auto value = [=](const Place& p) {
    return (parts > 1 ? sums(p.v, p.x, p.y, p.c, p.part) : sums(p.v, p.x, p.y, p.c)) * factor;
  };
  return {value, place};
}

Body Lowering::pointwise(int index) {
  const Op& self = op(index);
  return {[this, index, self](const Place& p) {
    const Expr value = lanes(index, self.inputs[0], p);
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
