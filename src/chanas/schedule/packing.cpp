#include "chanas/schedule/packing.h"

#include <algorithm>

#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

constexpr int64_t kAlign = 16;
int64_t aligned(int64_t size) { return (size + kAlign - 1) / kAlign * kAlign; }

}  // namespace

Packing packing(const ScheduleSpace& space, const Schedule& schedule) {
  const std::vector<OpRole> roles = op_roles(space.workload);
  const std::vector<OpTile> tiles = resolve(space, roles, schedule);
  Packing result;
  for (size_t i = 0; i < roles.size(); ++i) {
    const Op& op = space.workload.graph.ops[i];
    if (!is_convolution(op.kind)) continue;
    const int64_t lanes = int64_t{tiles[i].vectors} * tiles[i].vector;
    PackedOp packed;
    packed.op = static_cast<int>(i);
    packed.block = tiles[i].block();
    packed.vector = tiles[i].vector;
    packed.steps = tiles[i].steps;
    packed.lanes = static_cast<int>(lanes);
    if (op.kind == OpKind::kConv2d) packed.depth = space.workload.graph.ops[op.inputs[0]].shape.c;
    if (tiles[i].parts > 1) {
      packed.depth = tiles[i].parts * tiles[i].part_steps;
      packed.depth_vector = tiles[roles[i].producer].vector;
    }
    packed.weight_offset = result.size;
    packed.weight_size = lanes * op.kernel * op.kernel * packed.depth;
    result.size += aligned(packed.weight_size);
    if (op.bias) {
      packed.bias_offset = result.size;
      packed.bias_size = lanes;
      result.size += aligned(lanes);
    }
    result.ops.push_back(packed);
  }
  return result;
}

void pack_weights(const ScheduleSpace& space, const Schedule& schedule,
                  const Parameters& parameters, const std::vector<std::string>& names, float* out) {
  const Packing layout = packing(space, schedule);
  std::fill_n(out, layout.size, 0.0f);
  for (const PackedOp& packed : layout.ops) {
    const Op& op = space.workload.graph.ops[packed.op];
    const Tensor* weight = parameters.find(names[packed.op] + ".weight");
    CHANAS_CHECK(weight != nullptr) << names[packed.op] << ".weight is missing";
    // [c_out][c_in][window] -> [block][window][c_in / steps][lane of the block][steps].
    const int64_t window = int64_t{op.kernel} * op.kernel;
    const int64_t depth = packed.depth;
    const int64_t inputs =
        op.kind == OpKind::kConv2d ? space.workload.graph.ops[op.inputs[0]].shape.c : 1;
    const auto channel_of = [&](int lane) { return lane_channel(op.shape.c, packed.vector, lane); };
    for (int lane = 0; lane < packed.lanes; ++lane) {
      const int64_t channel = channel_of(lane);
      const float* from = &weight->data[channel * inputs * window];
      for (int64_t d = 0; d < depth; ++d) {
        int64_t input = d;
        if (const int vector = packed.depth_vector; vector > 0) {
          input = lane_channel(static_cast<int>(inputs), vector, static_cast<int>(d));
          if (input < d / vector * vector) continue;  // an earlier vector holds it
        }
        for (int64_t tap = 0; tap < window; ++tap)
          out[packed.weight_at(lane, tap * depth + d)] = from[input * window + tap];
      }
    }
    if (packed.bias_size == 0) continue;
    const Tensor* bias = parameters.find(names[packed.op] + ".bias");
    CHANAS_CHECK(bias != nullptr) << names[packed.op] << ".bias is missing";
    for (int lane = 0; lane < packed.lanes; ++lane)
      out[packed.bias_offset + lane] = bias->data[channel_of(lane)];
  }
}

}  // namespace chanas
