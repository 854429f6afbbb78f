// The loops in which each op writes its value, and where its producer runs.

#include <algorithm>

#include "chanas/codegen/lowering.h"

namespace chanas {

using Halide::Expr;
using Halide::Func;
using Halide::LoopLevel;
using Halide::RDom;
using Halide::RVar;
using Halide::TailStrategy;
using Halide::Var;

namespace {

// Start of part `part` of a loop cut by `factor`; the last parts are shifted inwards.
Expr part_start(const Expr& part, int factor, int extent, int parts) {
  if (parts * factor == extent) return part * factor;
  return min(part * factor, extent - factor);
}

Expr part_start(const Expr& part, int factor, int extent) {
  return part_start(part, factor, extent, ceil_div(extent, factor));
}

// The loops of the output on a GPU: lanes are threads, `bind` iterations of the innermost loop
// outside the tile as well, all others together are blocks. r: vectors and pixels of the tile,
// lanes, then `loops` loops from inside.
void bind_output(Halide::Stage& stage, const RDom& r, int loops, int bind) {
  stage.unroll(r[0]).unroll(r[1]);
  RVar blocks = r[3], threads("threads"), outer("outer");
  if (bind > 1 && loops > 0) {
    stage.split(r[3], outer, threads, bind, TailStrategy::GuardWithIf);
    stage.gpu_threads(r[2], threads);
    blocks = outer;
  } else {
    stage.gpu_threads(r[2]);
  }
  for (int i = 4; i < r.dimensions(); ++i) {
    RVar fused("fused" + std::to_string(i));
    stage.fuse(blocks, r[i], fused);
    blocks = fused;
  }
  stage.gpu_blocks(blocks);
}

}  // namespace

void Lowering::inner_stage(int index, const Body& body) {
  const OpTile& tile = tiles_[index];
  const Shape& view = tiles_[index].view;
  Func f = bordered(name(index), tile.vector, view, tile.pad, tile.padded_h, tile.padded_w);
  values_[index] = f;

  Var v("v"), x("x"), y("y"), c("c");
  RDom t(0, tile.pixels, 0, ceil_div(view.w, tile.pixels));
  Expr row = y;
  if (tile.padded_h > view.h || tile.in_strips) {
    t.where(inside_rows(y, view.h));
    row = clamp(y, 0, view.h - 1);
  }
  const Place place = {v, part_start(t.y, tile.pixels, view.w) + t.x, row, c};
  f(v, place.x, y, c) = epilogue(index, body.value(place), place);

  Var cs("cs"), cr("cr"), ct("ct"), ci("ci"), fused("fused");
  auto stage = f.update(f.num_update_definitions() - 1);
  stage.allow_race_conditions();
  if (gpu()) {
    stage.split(c, ct, ci, tile.channel_vectors, TailStrategy::GuardWithIf);
    stage.reorder({ci, t.x, v, t.y, y, ct}).unroll(ci).unroll(t.x);
    stage.gpu_threads(v).gpu_blocks(t.y, y, ct);
    if (body.place) body.place(LoopLevel(f, v));
    place_producer(index, std::nullopt);
    return;
  }
  const bool sliced = tile.sliced();
  if (sliced) stage.split(c, cs, cr, tile.slice_vectors, TailStrategy::GuardWithIf);
  stage.split(sliced ? cr : c, ct, ci, tile.channel_vectors, TailStrategy::GuardWithIf);
  std::vector<Halide::VarOrRVar> loops = {v, ci, t.x};
  if (tile.order == 0)
    loops.insert(loops.end(), {t.y, y, ct});
  else
    loops.insert(loops.end(), {ct, t.y, y});
  if (sliced) loops.push_back(cs);
  stage.reorder(loops).vectorize(v).unroll(ci).unroll(t.x);
  if (body.place) body.place(tile.order == 0 ? LoopLevel(f, t.y) : LoopLevel(f, ct));
  // In strips without slices it is placed with this op itself, by the op that has the strips.
  if (sliced || !tile.inside)
    place_producer(index, sliced ? std::optional(LoopLevel(f, cs)) : std::nullopt);

  const int user = space_.workload.graph.users(index)[0];
  const bool inside_user = roles_[user].producer == index && tiles_[user].inside;
  if (space_.threads == 1 || tile.parallel == 0 || tile.parts > 1 || inside_user) return;
  if (sliced)
    stage.parallel(cs);
  else if (tile.order == 1)
    stage.parallel(y);
  else if (tile.parallel == 2)
    stage.fuse(y, ct, fused).parallel(fused);
  else
    stage.parallel(ct);
}

Body Lowering::parts_stage(int index, const Body& body) {
  const OpTile& tile = tiles_[index];
  const Shape& view = tile.view;
  Var v("v"), x("x"), y("y"), c("c"), part("part");
  Func f(name(index, "_parts"));
  f(v, x, y, c, part) = Halide::undef<float>();
  RDom t(0, tile.pixels, 0, ceil_div(view.w, tile.pixels));
  const Expr column = part_start(t.y, tile.pixels, view.w) + t.x;
  f(v, column, y, c, part) = body.value({v, column, y, c, part});
  f.compute_root().reorder_storage(v, c, x, y, part);
  f.bound(v, 0, tile.vector).bound(x, 0, view.w).bound(y, 0, view.h);
  f.bound(c, 0, tile.vectors).bound(part, 0, tile.parts);

  Var ct("ct"), ci("ci");
  auto stage = f.update();
  stage.allow_race_conditions();
  stage.split(c, ct, ci, tile.channel_vectors, TailStrategy::GuardWithIf);
  std::vector<Halide::VarOrRVar> loops = {v, ci, t.x};
  if (tile.order == 0)
    loops.insert(loops.end(), {t.y, y, ct, part});
  else
    loops.insert(loops.end(), {ct, t.y, y, part});
  stage.reorder(loops).vectorize(v).unroll(ci).unroll(t.x).parallel(part);
  body.place(tile.order == 0 ? LoopLevel(f, t.y) : LoopLevel(f, ct));
  place_producer(index, LoopLevel(f, part));

  return {[=, this](const Place& p) {
    Expr sum = bias(index, p);
    for (int i = 0; i < tile.parts; ++i) sum += f(p.v, p.x, p.y, p.c, i);
    return sum;
  }};
}

void Lowering::output_stage(int index, const Body& body) {
  const Op& self = op(index);
  const OpTile& tile = tiles_[index];
  const Shape& view = tiles_[index].view;

  const OutputLoops outer = output_loops(self, tile, space_.threads);
  const auto& loops = outer.loops;
  // Lanes inside the tile on a CPU, around it on a GPU, whose threads hold a lane of a tile each.
  const int lane = gpu() ? 2 : 0, vector = gpu() ? 0 : 1, pixel = gpu() ? 1 : 2;
  std::vector<Halide::Range> ranges(3);
  ranges[lane] = {0, tile.vector};
  ranges[vector] = {0, tile.channel_vectors};
  ranges[pixel] = {0, tile.pixels};
  for (size_t i = loops.size(); i-- > 0;) ranges.emplace_back(0, loops[i].second);
  if (loops.empty()) ranges.emplace_back(0, 1);
  const RDom r(ranges);
  const int outermost = r.dimensions() - 1;
  const auto index_of = [&](OutputLoop kind) -> Expr {
    for (size_t i = 0; i < loops.size(); ++i)
      if (loops[i].first == kind) return r[outermost - static_cast<int>(i)];
    return 0;
  };
  const Expr slice = index_of(OutputLoop::kSlices), strip = index_of(OutputLoop::kStrips),
             block = index_of(OutputLoop::kBlocks), row = index_of(OutputLoop::kRows),
             tile_x = index_of(OutputLoop::kTiles);
  const int runs = outer.find(OutputLoop::kRuns), strips = outer.find(OutputLoop::kStrips);
  int strip_count = ceil_div(view.h, tile.strip_rows);
  Expr any_strip = strip;
  if (runs >= 0) {
    const int run = loops[strips].second;
    strip_count = run * loops[runs].second;
    any_strip = index_of(OutputLoop::kRuns) * run + strip;
  }

  const Place place = {r[lane], part_start(tile_x, tile.pixels, view.w) + r[pixel],
                       part_start(any_strip, tile.strip_rows, view.h, strip_count) + row,
                       slice * tile.slice_vectors + block * tile.channel_vectors + r[vector]};
  Var i("i");
  output_ = Func("output");
  output_(i) = Halide::undef<float>();
  output_(first_channel(index, place.c) + place.v + view.c * (place.x + view.w * place.y)) =
      epilogue(index, body.value(place), place);
  output_.output_buffer().dim(0).set_bounds(0, static_cast<int>(self.shape.elements()));
  output_.output_buffer().set_host_alignment(64);

  auto stage = output_.update();
  stage.allow_race_conditions();
  if (gpu()) {
    bind_output(stage, r, static_cast<int>(loops.size()), tile.bind);
    if (body.place) body.place(LoopLevel(output_, r[lane]));
    place_producer(index, std::nullopt);
    return;
  }
  stage.vectorize(r[0]).unroll(r[1]);
  if (body.place) stage.unroll(r[2]);
  RVar fused("fused");
  const bool fuse = outer.parallel == 2;
  if (fuse) stage.fuse(r[outermost - 1], r[outermost], fused);
  // The loops by number from outside; the two outermost may be one.
  const auto loop = [&](int number) {
    return LoopLevel(output_, fuse && number < 2 ? fused : r[outermost - number]);
  };
  if (outer.parallel > 0) stage.parallel(fuse ? fused : r[outermost]);
  if (body.place) body.place(loop(outermost - 3));
  if (tile.parts > 1) return;  // placed with the parts
  if (strips >= 0) around_strips_ = strips == 0 ? LoopLevel::root() : loop(strips - 1);
  // One slice and one strip that are the whole: the producer comes first.
  place_producer(index, outer.around_producer > 0 ? std::optional(loop(outer.around_producer - 1))
                                                  : std::nullopt);
}

void Lowering::place_sums(int index, Func sums, const LoopLevel& level, int pixels,
                          const std::vector<RVar>& loops) const {
  const OpTile& tile = tiles_[index];
  Var beside("beside"), v("v"), x("x"), y("y"), c("c");
  sums.compute_at(level);
  sums.bound_extent(v, gpu() ? 1 : tile.vector).bound_extent(x, pixels);
  sums.bound_extent(c, tile.channel_vectors);
  sums.reorder(v, c, x, y).unroll(c).unroll(x);
  std::vector<Halide::VarOrRVar> order = {v, c, x};
  if (tile.steps > 1) {
    sums.bound(beside, 0, tile.steps).reorder(beside, v).vectorize(beside);
    order.insert(order.begin(), beside);
  }
  order.insert(order.end(), loops.begin(), loops.end());
  order.push_back(y);
  sums.update().reorder(order).unroll(c).unroll(x);
  if (gpu()) return;
  if (tile.steps > 1) sums.update().vectorize(beside);
  sums.store_in(Halide::MemoryType::Stack).vectorize(v);
  sums.update().vectorize(v);
}

int Lowering::new_rows(int index) const {
  if (roles_[index].final) return tiles_[index].rows;
  const int user = space_.workload.graph.users(index)[0];
  return tiles_[user].keeps_rows ? tiles_[user].rows * op(user).stride : tiles_[index].rows;
}

void Lowering::place_producer(int index, const std::optional<LoopLevel>& level) {
  const OpTile& tile = tiles_[index];
  const Op& self = op(index);
  const int producer = roles_[index].producer;
  for (int input : self.inputs)
    if (values_[input].defined() && !(input == producer && tile.inside)) place_first(input);
  const bool copied = copies_[index].defined();
  if (!copied && !(producer >= 0 && tile.inside)) return;

  Func f = copied ? copies_[index] : values_[producer];
  Var y("y"), c("c");
  const bool flat_rows = copied && self.kind == OpKind::kConv2d;
  const bool lanes_shared = self.kind != OpKind::kConv2d;
  if (tile.inside) {
    f.compute_at(*level);
    if (!copied && tiles_[producer].inside && !tiles_[producer].sliced())
      place_producer(producer, level);
    if (!flat_rows)
      f.bound_extent(c, lanes_shared ? tile.slice_vectors : tiles_[producer].vectors / tile.parts);
    const int rows = window_extent(tile.rows, self);
    if (tile.keeps_rows)
      f.store_at(around_strips_).fold_storage(y, rows);
    else if (tile.in_strips || copied)
      f.bound_extent(y, rows);
    else
      f.bound(y, -tiles_[producer].pad, tiles_[producer].padded_h);
    return;
  }
  f.compute_root();
  const int rows = window_extent(tiles_[index].view.h, self);
  if (!flat_rows) {
    f.bound(c, 0, tile.vectors).bound(y, -(self.kernel / 2), rows);
    return;
  }
  f.bound(y, 0, rows);
  if (gpu()) return;
  if (space_.threads > 1 && tile.parallel > 0) f.update(f.num_update_definitions() - 1).parallel(y);
}

void Lowering::place_first(int index) {
  Var y("y"), c("c");
  const OpTile& tile = tiles_[index];
  values_[index].compute_root().bound(c, 0, tile.vectors).bound(y, -tile.pad, tile.padded_h);
}

}  // namespace chanas
