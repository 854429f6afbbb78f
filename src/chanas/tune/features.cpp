#include "chanas/tune/features.h"

#include <algorithm>
#include <cmath>

#include "chanas/schedule/tiling.h"

namespace chanas::internal {
namespace {

// Of a common core; they only have to be right relative to each other.
constexpr double kCyclesPerUs = 3000;
constexpr double kStreamBytesPerUs = 12'000;  // beyond the caches
constexpr double kCacheBytesPerUs = 60'000;   // second-level cache
constexpr double kCoreBytesPerUs = 15'000;    // what another core has just written
constexpr double kFmaLatency = 4;

double speedup(int threads) { return std::pow(static_cast<double>(threads), 0.85); }

// Time on so many threads over that of work in equal shares.
double imbalance(int tasks, int threads) {
  return static_cast<double>(ceil_div(tasks, threads)) * threads / tasks;
}

double value_bytes(const Op& op) { return 4.0 * static_cast<double>(op.shape.elements()); }

double input_output_bytes(const Graph& graph) {
  double bytes = value_bytes(graph.output());
  for (const int input : graph.input_ops()) bytes += value_bytes(graph.ops[input]);
  return bytes;
}

// Position of each op among those that are no inputs; -1 for inputs.
std::vector<int> ranks(const Graph& graph) {
  std::vector<int> ranks;
  int next = 0;
  for (const Op& op : graph.ops) ranks.push_back(op.kind == OpKind::kInput ? -1 : next++);
  return ranks;
}

bool is_ordinal(Primitive primitive) {
  return primitive == Primitive::kSplit || primitive == Primitive::kVectorize ||
         primitive == Primitive::kUnroll || primitive == Primitive::kComputeAt;
}

// What an op's split and vectorize fields say together.
struct RegisterTile {
  double product = 1, sum = 0;  // of the factors
  double waste = 1;             // computed over needed
  double unroll = 1;
};

struct Analysis {
  std::vector<OpRole> roles;
  std::vector<OpTile> tiles;
  std::vector<RegisterTile> registers;  // one per op
  std::vector<double> again;            // rows computed over those needed, for the seams of strips
                                        // and a last one that is shifted inwards
  std::vector<int> tasks;               // iterations of the parallel loop around each op
  int runs = 1;  // of the output's strips: one for each thread that shares them
};

// Strips reach through every op that asks for its producer inside.
void follow_strips(const Graph& graph, Analysis& a) {
  a.again.assign(a.tiles.size(), 1);
  for (size_t i = a.tiles.size(); i-- > 0;) {
    if (graph.ops[i].kind == OpKind::kInput || a.roles[i].lanes < 0) continue;
    const int rows = a.tiles[i].view.h;
    const int runs = a.roles[i].final ? a.runs : 1;
    const int strips = round_up(ceil_div(rows, a.tiles[i].strip_rows), runs);
    a.again[i] = static_cast<double>(strips * a.tiles[i].strip_rows) / rows;
    if (!a.tiles[i].in_strips) continue;
    for (const int user : graph.users(static_cast<int>(i))) {
      if (a.roles[user].producer != static_cast<int>(i)) continue;
      const Op& reader = graph.ops[user];
      const double advance = a.tiles[user].rows * reader.stride;
      const double needed = advance + reader.kernel - reader.stride;
      a.again[i] = a.tiles[user].keeps_rows ? 1 : a.again[user] * std::max(1.0, needed / advance);
    }
  }
}

Analysis analyse(const ScheduleSpace& space, const Schedule& schedule) {
  Analysis a;
  a.roles = op_roles(space.workload);
  a.tiles = resolve(space, a.roles, schedule);
  a.tasks = parallel_tasks(space, a.roles, a.tiles);
  const OutputLoops outer =
      output_loops(space.workload.graph.output(), a.tiles.back(), space.threads);
  if (outer.find(OutputLoop::kRuns) >= 0) a.runs = space.threads;
  follow_strips(space.workload.graph, a);
  a.registers.resize(a.roles.size());
  for (size_t i = 0; i < space.fields.size(); ++i) {
    const Field& field = space.fields[i];
    RegisterTile& tile = a.registers[field_key(field).op];
    const int value = schedule.values[i];
    if (field.primitive == Primitive::kUnroll) tile.unroll *= std::max(1, value);
    if (field.primitive != Primitive::kSplit || value < 1) continue;
    tile.product *= value;
    tile.sum += value;
  }
  for (size_t i = 0; i < a.roles.size(); ++i) {
    const Op& op = space.workload.graph.ops[i];
    if (op.kind == OpKind::kInput || a.roles[i].lanes < 0) continue;
    RegisterTile& tile = a.registers[i];
    const Shape& view = a.roles[i].view;
    tile.waste = static_cast<double>(a.tiles[i].vectors) * a.tiles[i].vector / a.tiles[i].view.c;
    for (size_t f = 0; f < space.fields.size(); ++f) {
      const Field& field = space.fields[f];
      // Splits of the channels are in `vectors` already.
      if (field.primitive != Primitive::kSplit || field_key(field).op != static_cast<int>(i) ||
          field.extent != view.w || schedule.values[f] < 1) {
        continue;
      }
      tile.waste *= static_cast<double>(round_up(field.extent, schedule.values[f])) / field.extent;
    }
  }
  return a;
}

// Bytes of an op's input that are alive at a time; the whole of it unless it is computed inside.
double live_input_bytes(const Op& op, const Op& input, const OpTile& tile) {
  if (!tile.inside) return value_bytes(input);
  const double rows = std::min<double>(input.shape.h, window_extent(tile.rows, op));
  const double channels =
      std::min<double>(input.shape.c, static_cast<double>(tile.slice_vectors) * tile.vector);
  return 4 * rows * input.shape.w * channels;
}

double working_set_bytes(const Graph& graph, const Analysis& a) {
  double largest = 1;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.kind == OpKind::kInput) continue;
    largest = std::max(largest, live_input_bytes(op, graph.ops[op.inputs[0]], a.tiles[i]));
  }
  return largest;
}

// Bytes that all threads together read of what others of them have written since the call began.
double crossing_bytes(const Graph& graph, const Analysis& a, int threads) {
  double bytes = 0;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.kind == OpKind::kInput || a.tiles[i].folded) continue;
    const Op& input = graph.ops[op.inputs[0]];
    if (input.kind != OpKind::kInput && !a.tiles[i].inside)
      bytes += value_bytes(input) * (threads - 1) / threads;
    if (a.tiles[i].parts > 1) bytes += value_bytes(op) * (threads - 1);
  }
  return bytes;
}

// Weights that an op reads again soon: those of a block of channels, or of all blocks where rows
// are outermost.
int64_t repeated_weight_bytes(const Op& op, const Op& input, const OpTile& tile) {
  if (op.kind != OpKind::kConv2d) return 0;
  const int vectors = tile.order == 0 ? tile.channel_vectors : tile.vectors;
  return int64_t{4} * op.kernel * op.kernel * input.shape.c * vectors * tile.vector;
}

double draft_us(const ScheduleSpace& space, const Analysis& a) {
  const Graph& graph = space.workload.graph;
  const Target& target = space.target;
  double cycles = 0, traffic_us = 0;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.kind == OpKind::kInput || a.tiles[i].folded) continue;
    const Op& input = graph.ops[op.inputs[0]];
    const OpTile& tile = a.tiles[i];
    const RegisterTile& registers = a.registers[i];
    const double width = std::max(1.0, static_cast<double>(tile.vector) / target.vector_floats);
    const double work = std::max<double>(static_cast<double>(macs(op, graph)),
                                         static_cast<double>(op.shape.elements()));
    const double accumulators = registers.product * width;
    const double loads = std::max(1.0, registers.sum) * width;
    const double weights =
        weight_cycles(tile.channel_vectors, repeated_weight_bytes(op, input, tile), target) * width;
    double step = std::max({accumulators / 2, loads / 2, weights, kFmaLatency}) + 0.15 * loads;
    const double live = accumulators + loads;
    if (live > target.vector_registers) step += 0.5 * (live - target.vector_registers);
    step += 1.0 / registers.unroll;
    cycles += work / (registers.product * tile.vector * tile.steps) * registers.waste * step *
              a.again[i] * imbalance(a.tasks[i], space.threads);
    // What is made inside is written and read, what comes from outside only read, unless copied.
    const double once = input.kind == OpKind::kInput ? 1 : 2;
    if (a.roles[i].window_on_input && tile.border)
      traffic_us += 2 * value_bytes(input) * a.again[i] / kCacheBytesPerUs;
    const double bytes = live_input_bytes(op, input, tile);
    if (bytes > static_cast<double>(target.l2_bytes) / 2) {
      traffic_us += 2 * value_bytes(input) / kStreamBytesPerUs;
    } else if (bytes > static_cast<double>(target.l1_bytes)) {
      traffic_us += once * value_bytes(input) / kCacheBytesPerUs;
    }
  }
  traffic_us += crossing_bytes(graph, a, space.threads) / kCoreBytesPerUs;
  return cycles / kCyclesPerUs + traffic_us +
         static_cast<double>(weight_bytes(graph)) / kStreamBytesPerUs;
}

}  // namespace

double roofline_us(const Workload& workload, const Target& target, int threads) {
  const Graph& graph = workload.graph;
  const double bytes = static_cast<double>(weight_bytes(graph));
  const double compute =
      static_cast<double>(macs(graph)) / (2.0 * target.vector_floats) / kCyclesPerUs;
  const double memory = bytes / kStreamBytesPerUs + input_output_bytes(graph) / kCacheBytesPerUs;
  return (0.1 + std::max(compute, memory)) / speedup(threads);
}

std::vector<int> field_slots(const ScheduleSpace& space) {
  const std::vector<int> rank = ranks(space.workload.graph);
  const auto kinds = choice_kinds();
  std::vector<int> slots;
  for (const Field& field : space.fields) {
    const FieldKey key = field_key(field);
    slots.push_back(rank[key.op] * static_cast<int>(kinds.size()) +
                    static_cast<int>(&key.kind - kinds.data()));
  }
  return slots;
}

std::vector<ChoiceType> choice_types(const ScheduleSpace& space) {
  const std::vector<int> rank = ranks(space.workload.graph);
  const auto ops = static_cast<size_t>(*std::max_element(rank.begin(), rank.end()) + 1);
  std::vector<ChoiceType> types(ops * choice_kinds().size(), ChoiceType::kUnknown);
  const std::vector<int> slots = field_slots(space);
  for (size_t i = 0; i < slots.size(); ++i) {
    types[static_cast<size_t>(slots[i])] =
        is_ordinal(space.fields[i].primitive) ? ChoiceType::kOrdinal : ChoiceType::kCategory;
  }
  return types;
}

ScheduleFeatures schedule_features(const ScheduleSpace& space, const Schedule& schedule) {
  const Analysis a = analyse(space, schedule);
  const Graph& graph = space.workload.graph;
  ScheduleFeatures features;
  double grain = 1;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    if (graph.ops[i].kind == OpKind::kInput) continue;
    for (const ChoiceKind& kind : choice_kinds()) {
      features.choices.push_back(a.tiles[i].*kind.value);
    }
    const double width =
        std::max(1.0, static_cast<double>(a.tiles[i].vector) / space.target.vector_floats);
    features.derived.push_back(std::log2(a.registers[i].product * width));
    features.derived.push_back(4 * std::log2(a.registers[i].waste));
    grain = a.tasks[i];
  }
  features.derived.push_back(
      0.5 * std::log2(working_set_bytes(graph, a) / static_cast<double>(space.target.l1_bytes)));
  features.derived.push_back(space.threads > 1 ? 0.5 * std::log2(grain / space.threads) : 0);
  features.derived.push_back(
      2 * std::log2(draft_us(space, a) / roofline_us(space.workload, space.target, space.threads)));
  return features;
}

std::vector<double> shape_features(const Workload& workload) {
  const Graph& graph = workload.graph;
  std::vector<double> features;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.kind == OpKind::kInput) continue;
    const Op& input = graph.ops[op.inputs[0]];
    if (features.empty()) features.push_back(std::log2(input.shape.c));
    features.push_back(std::log2(op.shape.c));
    if (!is_convolution(op.kind)) continue;
    features.push_back(2 * std::log2(op.kernel));
    features.push_back(2 * std::log2(op.stride));
  }
  features.push_back(
      0.5 * std::log2(static_cast<double>(graph.output().shape.h) * graph.output().shape.w));
  // The input's map, too: the output of a pool says nothing about it.
  const Shape& in = graph.ops[graph.input_ops()[0]].shape;
  features.push_back(0.5 * std::log2(static_cast<double>(in.h) * in.w));
  return features;
}

double draft_us(const ScheduleSpace& space, const Schedule& schedule) {
  return draft_us(space, analyse(space, schedule));
}

}  // namespace chanas::internal
