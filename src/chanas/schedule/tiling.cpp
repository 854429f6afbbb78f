#include "chanas/schedule/tiling.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>

namespace chanas {

std::vector<OpTile> resolve(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                            const Schedule& schedule) {
  const Graph& graph = space.workload.graph;
  CHANAS_CHECK(schedule.values.size() == space.fields.size())
      << schedule.values.size() << " values, " << space.fields.size() << " fields";
  const int count = static_cast<int>(graph.ops.size());
  std::vector<OpTile> tiles(count);

  // Fields are few and grouped by op, in the order of the ops.
  for (size_t f = 0; f < space.fields.size(); ++f) {
    const Field& field = space.fields[f];
    const size_t dot = field.name.find('.');
    OpTile& tile = tiles[std::stoi(field.name.substr(2, dot - 2))];
    const std::string_view what = std::string_view(field.name).substr(dot + 1);
    const int value = schedule.values[f];
    if (what == "vector") tile.vector = value;
    if (what == "channel_vectors") tile.channel_vectors = value;
    if (what == "pixels") tile.pixels = value;
    if (what == "unroll") tile.unroll = value;
    if (what == "order") tile.order = value;
    if (what == "slice") tile.slice = value;
    if (what == "strip") tile.strip = value;
    if (what == "parallel") tile.parallel = value;
    if (what == "border") tile.border = value != 0;
    if (what == "scale") tile.scale = value;
  }

  // Ops that share lanes also share the number of vectors, a multiple of every tile among them.
  std::vector<int> unit(count, 1);
  for (int i = 0; i < count; ++i) {
    if (roles[i].lanes < 0) continue;
    tiles[i].vector = tiles[roles[i].lanes].vector;
    unit[roles[i].lanes] = std::lcm(unit[roles[i].lanes], tiles[i].channel_vectors);
  }
  std::vector<int> step = unit;
  for (int i = 0; i < count; ++i) {
    const int lanes = roles[i].lanes;
    if (lanes >= 0 && tiles[i].slice > 0)
      step[lanes] = std::lcm(step[lanes], tiles[i].slice * unit[lanes]);
  }
  for (int i = 0; i < count; ++i) {
    const int lanes = roles[i].lanes;
    if (lanes < 0) continue;
    OpTile& tile = tiles[i];
    const OpRole& role = roles[i];
    tile.vectors = round_up(needed_vectors(role.view.c, tile.vector), step[lanes]);
    tile.slice = tile.slice > 0 ? tile.slice * unit[lanes] : tile.vectors;
    if (tile.strip == 0) tile.strip = role.view.h;
    tile.inside = tile.slice < tile.vectors || tile.strip < role.view.h;
    tile.folded = role.foldable && tile.scale != 1;
    if (graph.ops[i].kind == OpKind::kConv2d && graph.ops[i].kernel > 1) tile.border = true;
  }
  for (int i = 0; i < count; ++i) {
    OpTile& tile = tiles[i];
    tile.padded_h = roles[i].view.h;
    tile.padded_w = roles[i].view.w;
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

}  // namespace chanas
