#include "chanas/schedule/tiling.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>

namespace chanas {

namespace {

constexpr ChoiceKind kKinds[] = {
    {"vector", &OpChoices::vector,
     "SIMD lanes. Half the width wastes fewer lanes where the channels are no multiple. A dense "
     "convolution then holds two steps of its reduction in a vector and is as fast; other ops "
     "take twice the time. Ops that pass values lane by lane share it."},
    {"channel_vectors", &OpChoices::channel_vectors,
     "channel vectors per register tile. More reuse each input value more often; "
     "times pixels it is bound by the registers. Also the panel width of packed weights."},
    {"pixels", &OpChoices::pixels,
     "pixels of a row per register tile. More reuse each weight more often. A tile that does "
     "not divide the row is shifted inwards and computes some pixels twice."},
    {"unroll", &OpChoices::unroll,
     "convolution: vectors of reduction steps per loop iteration. Depthwise: 1 unrolls the rows of "
     "the window as well as its columns. Less loop overhead, more code."},
    {"order", &OpChoices::order,
     "loop order. 0: channel blocks (depthwise with slices: slices) outermost: weights stay in "
     "cache, and the input is read again for every block; 1: rows outermost: the input stays in "
     "cache, and the weights are read again for every row. The outermost loop is the parallel "
     "one."},
    {"slice", &OpChoices::slice,
     "the producer (or the zero-bordered copy of the input) is computed for this many common "
     "tiles of channels at a time, and strip by strip where this op is, so that it stays in cache: "
     "for maps that are larger. Rows that two strips read are then computed twice. 0: for all "
     "channels and rows before."},
    {"strip", &OpChoices::strip,
     "what is needed for this many output rows is computed at a time. Threads share strips in runs "
     "of neighbours. Rows at the seams are kept from the strip before where one thread makes both "
     "and no slices are inside, else computed twice. 0: for all rows."},
    {"border", &OpChoices::border,
     "1: a window reads from a buffer with zero borders, into which an input is copied; 0: taps "
     "outside the image are left out, with own code for the ends of a row. A dense convolution's "
     "is slower, so that it pays on wide maps."},
    {"scale", &OpChoices::scale,
     "the gate of a squeeze. 0: multiplied inside the reduction, once for every block of output "
     "channels: for few of them; 1: the scaled input is stored first, one more pass over it; 2: "
     "the scaled weights are stored first, one more pass over them: for small maps."},
    {"bind", &OpChoices::bind,
     "on a GPU, where lanes are threads of a block and the outer loops blocks: how many tiles of a "
     "row share a block. More threads hide more latency; fewer leave each more registers."},
    {"parallel", &OpChoices::parallel,
     "0: serial, for work too small to share; 1: the outermost loop; 2: the two outermost "
     "loops fused, for finer balance; 3: the reduction of a 1x1 convolution, of which each thread "
     "makes and sums up a part of the input channels, or of a pool, of which each thread sums up a "
     "part of the rows, before the sums are added, so that only these pass from core to core, not "
     "the input."},
};

}  // namespace

bool pairs_steps(const Op& op, const Graph& graph, const Target& target) {
  return op.kind == OpKind::kConv2d && !target.gpu() && graph.ops[op.inputs[0]].shape.c % 2 == 0;
}

std::span<const ChoiceKind> choice_kinds() { return kKinds; }

FieldKey field_key(const Field& field) {
  const size_t dot = field.name.find('.');
  const std::string_view name = std::string_view(field.name).substr(dot + 1);
  const auto kind = std::ranges::find(kKinds, name, &ChoiceKind::name);
  CHANAS_CHECK(kind != std::end(kKinds)) << field.name;
  return {std::stoi(field.name.substr(2, dot - 2)), *kind};
}

std::vector<OpTile> resolve(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                            const Schedule& schedule) {
  const Graph& graph = space.workload.graph;
  CHANAS_CHECK(schedule.values.size() == space.fields.size())
      << schedule.values.size() << " values, " << space.fields.size() << " fields";
  const int count = static_cast<int>(graph.ops.size());
  std::vector<OpTile> tiles(count);
  for (size_t i = 0; i < space.fields.size(); ++i) {
    const FieldKey key = field_key(space.fields[i]);
    tiles[key.op].*key.kind.value = schedule.values[i];
  }

  // Ops that share lanes also share the number of vectors, a multiple of every tile among them.
  std::vector<int> unit(count, 1);
  for (int i = 0; i < count; ++i) {
    OpTile& tile = tiles[i];
    tile.view = roles[i].view;
    if (roles[i].lanes < 0) continue;
    tile.vector = tiles[roles[i].lanes].vector;
    unit[roles[i].lanes] = std::lcm(unit[roles[i].lanes], tile.channel_vectors);
  }
  std::vector<int> step = unit;
  for (int i = 0; i < count; ++i) {
    const int lanes = roles[i].lanes;
    if (lanes >= 0 && tiles[i].slice > 0)
      step[lanes] = std::lcm(step[lanes], tiles[i].slice * unit[lanes]);
  }
  // Parts of a reduction are equal numbers of its producer's slices and tiles.
  for (int i = 0; i < count; ++i) {
    if (roles[i].lanes < 0 || tiles[i].parallel != 3) continue;
    tiles[i].parts = space.threads;
    if (roles[i].producer >= 0) step[roles[roles[i].producer].lanes] *= space.threads;
  }
  for (int i = 0; i < count; ++i) {
    const int lanes = roles[i].lanes;
    if (lanes < 0) continue;
    OpTile& tile = tiles[i];
    tile.vectors = round_up(needed_vectors(tile.view.c, tile.vector), step[lanes]);
    tile.slice_vectors = tile.slice > 0 ? tile.slice * unit[lanes] : tile.vectors;
    tile.strip_rows = tile.strip > 0 ? tile.strip : tile.view.h;
    tile.folded = roles[i].foldable && tile.scale != 1;
    const bool window = roles[i].window_on_input && !space.target.gpu();
    if (graph.ops[i].kind == OpKind::kConv2d && graph.ops[i].kernel > 1 && !window) tile.border = 1;
    if (pairs_steps(graph.ops[i], graph, space.target) &&
        2 * tile.vector == space.target.vector_floats)
      tile.steps = 2;
    if (tile.parts == 1 || roles[i].producer < 0) continue;
    const OpTile& producer = tiles[roles[i].producer];
    tile.part_steps = producer.vectors / tile.parts * producer.vector;
  }
  // From the output on: strips reach through every op that asks for its producer inside.
  bool serial = false;
  for (int i = count; i-- > 0;) {
    OpTile& tile = tiles[i];
    if (roles[i].lanes < 0) continue;
    tile.in_strips = tile.strip_rows < tile.view.h;
    tile.rows = tile.strip_rows;
    for (int user : graph.users(i)) {
      if (roles[user].producer != i) continue;
      tile.in_strips = tiles[user].inside && tiles[user].in_strips;
      if (tile.in_strips) tile.rows = window_extent(tiles[user].rows, graph.ops[user]);
    }
    tile.inside = tile.sliced() || tile.strip_rows < tile.view.h ||
                  (tile.slice > 0 && tile.in_strips) || (tile.parts > 1 && roles[i].producer >= 0);
    bool slices_inside = tile.sliced();
    if (roles[i].final) {
      const OutputLoops outer = output_loops(graph.ops[i], tile, space.threads);
      serial = outer.find(OutputLoop::kStrips) >= outer.parallel;
      slices_inside = outer.find(OutputLoop::kSlices) > outer.find(OutputLoop::kStrips);
    }
    const Op& op = graph.ops[i];
    const int advance = tile.rows * op.stride, needed = window_extent(tile.rows, op);
    tile.keeps_rows = tile.inside && tile.in_strips && serial && !slices_inside &&
                      op.kernel > op.stride && needed + advance <= graph.ops[op.inputs[0]].shape.h;
  }
  for (int i = 0; i < count; ++i) {
    OpTile& tile = tiles[i];
    tile.padded_h = tile.view.h;
    tile.padded_w = tile.view.w;
    for (int user : graph.users(i)) {
      const Op& op = graph.ops[user];
      if (!tiles[user].border || op.inputs[0] != i) continue;
      const int before = op.kernel / 2;
      tile.pad = std::max(tile.pad, before);
      tile.padded_h = std::max(tile.padded_h, window_extent(op.shape.h, op) - before);
      tile.padded_w = std::max(tile.padded_w, window_extent(op.shape.w, op) - before);
    }
    tile.padded_h += tile.pad;
    tile.padded_w += tile.pad;
  }
  return tiles;
}

int OutputLoops::find(OutputLoop loop) const {
  const auto it = std::ranges::find(loops, loop, &std::pair<OutputLoop, int>::first);
  return it == loops.end() ? -1 : static_cast<int>(it - loops.begin());
}

OutputLoops output_loops(const Op& op, const OpTile& tile, int threads) {
  using enum OutputLoop;
  const std::pair slices = {kSlices, tile.vectors / tile.slice_vectors},
                  strips = {kStrips, ceil_div(tile.view.h, tile.strip_rows)},
                  blocks = {kBlocks, tile.slice_vectors / tile.channel_vectors},
                  rows = {kRows, tile.strip_rows},
                  tiles = {kTiles, ceil_div(tile.view.w, tile.pixels)};
  OutputLoops result;
  if (tile.order == 0)
    result.loops = {slices, strips, blocks, rows, tiles};
  else if (op.kind == OpKind::kDepthwise)
    result.loops = {strips, slices, rows, blocks, tiles};
  else
    result.loops = {slices, strips, rows, tiles, blocks};
  std::erase_if(result.loops, [](const auto& loop) { return loop.second == 1; });
  // A thread makes neighbouring strips one after the other.
  const bool shared = threads > 1 && tile.parallel == 1 && result.find(kStrips) == 0;
  if (shared && strips.second > threads) {
    result.loops.front().second = ceil_div(strips.second, threads);
    result.loops.insert(result.loops.begin(), {kRuns, threads});
  }
  for (const auto& [kind, extent] : result.loops)
    result.around_producer += kind == kRuns || kind == kSlices || kind == kStrips;
  if (threads > 1 && tile.parallel > 0 && !result.loops.empty())
    result.parallel =
        tile.parallel == 2 && result.loops.size() > 1 && result.around_producer != 1 ? 2 : 1;
  return result;
}

std::vector<int> parallel_tasks(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                                const std::vector<OpTile>& tiles) {
  const Graph& graph = space.workload.graph;
  std::vector<int> tasks(tiles.size(), 1);
  if (space.threads == 1) return tasks;
  for (size_t i = tiles.size(); i-- > 0;) {
    const OpTile& tile = tiles[i];
    if (roles[i].lanes < 0) continue;
    if (tile.parts > 1) {
      tasks[i] = tile.parts;
      continue;
    }
    if (roles[i].final) {
      const OutputLoops outer = output_loops(graph.ops[i], tile, space.threads);
      for (int l = 0; l < outer.parallel; ++l)
        tasks[i] *= outer.loops[static_cast<size_t>(l)].second;
      continue;
    }
    const auto user = static_cast<size_t>(graph.users(static_cast<int>(i))[0]);
    const int blocks = tile.vectors / tile.channel_vectors;
    if (roles[user].producer == static_cast<int>(i) && tiles[user].inside)
      tasks[i] = tasks[user];
    else if (tile.parallel == 0)
      tasks[i] = 1;
    else if (tile.sliced())
      tasks[i] = tile.vectors / tile.slice_vectors;
    else if (tile.order == 1)
      tasks[i] = tile.padded_h;
    else
      tasks[i] = tile.parallel == 2 ? tile.padded_h * blocks : blocks;
  }
  return tasks;
}

std::vector<bool> channels_shared(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                                  const std::vector<OpTile>& tiles) {
  const Graph& graph = space.workload.graph;
  std::vector<bool> shared(tiles.size(), false);
  if (space.threads == 1) return shared;
  for (size_t i = tiles.size(); i-- > 0;) {
    const OpTile& tile = tiles[i];
    if (roles[i].lanes < 0 || tile.parts > 1) continue;
    if (roles[i].final) {
      const OutputLoops outer = output_loops(graph.ops[i], tile, space.threads);
      shared[i] = outer.parallel > 0 && (outer.loops[0].first == OutputLoop::kSlices ||
                                         outer.loops[0].first == OutputLoop::kBlocks);
      continue;
    }
    const auto user = static_cast<size_t>(graph.users(static_cast<int>(i))[0]);
    if (roles[user].producer == static_cast<int>(i) && tiles[user].inside)
      shared[i] = tiles[user].parts > 1 || (shared[user] && tiles[user].sliced());
    else
      shared[i] = tile.parallel > 0 && (tile.sliced() || tile.order == 0);
  }
  return shared;
}

}  // namespace chanas
