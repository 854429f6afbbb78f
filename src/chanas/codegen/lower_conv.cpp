#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Expr;
using Halide::Func;
using Halide::RDom;
using Halide::Var;

Body Lowering::convolution(int index) {
  const Op& conv = op(index);
  const OpTile& tile = tiles_[index];
  const int data = conv.inputs[0];
  const int k = conv.kernel, pad = k / 2, s = conv.stride;
  // A shared reduction goes through the lanes of what its parts make.
  const bool shared = tile.parts > 1;
  const int depth = shared ? tile.parts * tile.part_steps : op(data).shape.c;
  const int vectors = tile.channel_vectors;
  const bool rows = roles_[index].window_on_input, copied = rows && tile.border;
  if (copied) copy_rows(index);
  if (tiles_[data].folded && tiles_[data].scale == 2) scale_weights(index);

  // Windows on an external input are read as rows of floats, where a window row is contiguous:
  // reduction over (window row's floats, window rows). Anything else: (channels, window columns,
  // window rows).
  const int row = shared ? tile.part_steps : rows ? depth * k : depth;
  const int steps = tile.steps;
  RDom r =
      rows || k == 1 ? RDom(0, row / steps, 0, rows ? k : 1) : RDom(0, depth / steps, 0, k, 0, k);
  Expr column = 0, window_row = r.y;
  if (!rows && k > 1) column = r.y, window_row = r.z;

  Var beside("beside"), v("v"), x("x"), y("y"), c("c"), part("part");
  // No work on rows outside the image.
  if (k > 1) r.where(inside_rows(s * y + window_row - pad, op(data).shape.h));
  Func sums(name(index, "_sums"));
  std::vector<Var> at = {v, x, y, c};
  if (shared) at.push_back(part);
  Expr first = shared ? 0.0f : bias(index, {v, x, y, c});
  Step step = {r.x, steps};
  if (steps > 1) {
    at.insert(at.begin(), beside);
    step.beside = beside;
    first = select(beside == 0, first, 0.0f);
  }
  sums(at) = first;
  const auto input = [&]() -> Expr {
    if (copied)
      return copies_[index](depth * s * x + steps * r.x + step.beside, s * y + window_row);
    if (rows) {
      // Taps beside the image are zeros; only the ends of a row have the code for that.
      const int width = depth * op(data).shape.w;
      const Expr first = depth * (s * x - pad) + steps * r.x;
      const Expr inside = clamp(first, 0, width - steps) + step.beside;
      const Expr row = clamp(s * y + window_row - pad, 0, op(data).shape.h - 1);
      return select(Halide::likely(first >= 0 && first < width),
                    inputs_[data](inside + width * row), 0.0f);
    }
    if (shared) {
      const int vector = tiles_[data].vector / steps;
      const Expr before = part * (tile.part_steps / tiles_[data].vector);
      return lanes(index, data,
                   {steps * (r.x % vector) + step.beside, x, y, before + r.x / vector});
    }
    return channel(data, step, s * x + column - pad, s * y + window_row - pad);
  };
  const Expr taps = rows ? Expr(k * window_row) : column + k * window_row;
  const Expr before = shared ? part * (tile.part_steps / steps) : taps * (depth / steps);
  sums(at) += input() * weight(index, {before + r.x, steps, step.beside},
                               v + tile.vector * (c % vectors), c / vectors);

  std::vector<Halide::RVar> loops;
  for (int d = 0; d < r.dimensions(); ++d) loops.push_back(r[d]);
  auto place = [=, this](const Halide::LoopLevel& level) {
    place_sums(index, sums, level, tile.pixels, loops);
    Func f = sums;
    if (tile.unroll > 1) f.update().unroll(r.x, tile.unroll, Halide::TailStrategy::GuardWithIf);
  };
  const auto value = [=](const Place& p) -> Expr {
    std::vector<Expr> at = {p.v, p.x, p.y, p.c};
    if (shared) at.push_back(p.part);
    if (steps == 1) return sums(at);
    at.insert(at.begin(), 0);
    const Expr even = sums(at);
    at[0] = 1;
    return even + sums(at);
  };
  return {value, place};
}

Expr Lowering::weight(int index, const Step& step, const Expr& lane, const Expr& panel) const {
  if (scaled_weights_[index].defined()) {
    const Expr at = step.width * lane + step.beside;
    return scaled_weights_[index](at, step.number, panel);
  }
  const PackedOp& packed = *packed_[index];
  const int steps = packed.depth * op(index).kernel * op(index).kernel;
  return weights_(static_cast<int>(packed.weight_offset) + step.beside + step.width * lane +
                  packed.block * (step.width * step.number + steps * panel));
}

void Lowering::scale_weights(int index) {
  const PackedOp& packed = *packed_[index];
  const OpTile& tile = tiles_[index];
  const int depth = op(op(index).inputs[0]).shape.c;  // only 1x1 windows
  const int gate = op(op(index).inputs[0]).inputs[1];
  // Lanes and the steps beside each other in them, one run of floats.
  const int run = packed.steps * tile.block();
  Var at("at"), number("number"), panel("panel");
  Func scaled(name(index, "_weights"));
  scaled(at, number, panel) = weights_(static_cast<int>(packed.weight_offset) + at +
                                       run * (number + depth / packed.steps * panel)) *
                              channel(gate, {number, packed.steps, at % packed.steps}, 0, 0);
  scaled.bound(at, 0, run)
      .bound(number, 0, depth / packed.steps)
      .bound(panel, 0, packed.lanes / tile.block());
  scaled.compute_root();
  if (gpu())
    scaled.gpu_blocks(number, panel).gpu_threads(at);
  else
    scaled.vectorize(at, packed.steps * tile.vector).unroll(at);
  if (space_.threads > 1 && tile.parallel > 0) scaled.parallel(panel);
  scaled_weights_[index] = scaled;
}

}  // namespace chanas
