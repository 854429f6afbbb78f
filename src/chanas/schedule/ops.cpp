#include "chanas/schedule/ops.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

namespace chanas {

const OpRules& rules_of(OpKind kind) {
  switch (kind) {
    case OpKind::kConv2d:
      return kConvRules;
    case OpKind::kDepthwise:
      return kDepthwiseRules;
    case OpKind::kGlobalPool:
      return kPoolRules;
    default:
      return kPointwiseRules;
  }
}

void add_field(const OpContext& context, std::string_view what, Primitive primitive,
               std::vector<int> choices, int extent, std::vector<Field>& fields) {
  if (choices.size() < 2 && (choices.empty() || choices[0] == 0)) return;
  fields.push_back(
      {fmt::format("op{}.{}", context.index, what), primitive, std::move(choices), extent});
}

void add_vector_field(const OpContext& context, std::vector<Field>& fields) {
  if (context.role().lanes != context.index) return;
  const int channels = context.role().view.c;
  add_field(context, "vector", Primitive::kVectorize, vector_choices(context.target, channels),
            channels, fields);
}

void add_bind_field(const OpContext& context, std::vector<Field>& fields) {
  if (!context.target.gpu() || !context.role().final) return;
  add_field(context, "bind", Primitive::kBind, {1, 2, 4, 8}, 0, fields);
}

void add_parallel_field(const OpContext& context, std::vector<int> choices,
                        std::vector<Field>& fields) {
  if (context.threads == 1) return;
  const Primitive primitive = choices.back() > 1 ? Primitive::kFuse : Primitive::kParallel;
  add_field(context, "parallel", primitive, std::move(choices), 0, fields);
}

std::vector<int> vector_choices(const Target& target, int channels) {
  std::vector<int> choices;
  for (int width : {target.vector_floats / 2, target.vector_floats})
    if (width >= 4 && width <= channels) choices.push_back(width);
  if (choices.empty()) {
    int width = 1;
    while (width * 2 <= std::min(channels, target.vector_floats)) width *= 2;
    choices.push_back(width);
  }
  return choices;
}

std::vector<int> channel_vector_choices(const Target& target, int channels,
                                        std::vector<int> candidates, int largest) {
  std::set<int> choices;
  for (int width : vector_choices(target, channels))
    for (int n : split_choices(candidates, needed_vectors(channels, width), largest))
      choices.insert(n);
  return {choices.begin(), choices.end()};
}

std::vector<int> split_choices(std::vector<int> candidates, int extent, int largest) {
  if (extent <= largest) candidates.push_back(extent);
  std::ranges::sort(candidates);
  std::vector<int> choices;
  for (int factor : candidates) {
    const bool wasteful = int64_t{round_up(extent, factor) - extent} * 3 > extent;
    if (factor > extent || factor > largest || wasteful) continue;
    if (choices.empty() || choices.back() != factor) choices.push_back(factor);
  }
  return choices;
}

std::vector<int> strip_choices(int rows) {
  std::vector<int> choices = {0};
  for (int strip : split_choices({1, 2, 4, 7, 8, 14, 16, 28}, rows, rows - 1))
    choices.push_back(strip);
  return choices;
}

std::vector<int> slice_choices(const Target& target, int channels) {
  const int vectors = needed_vectors(channels, vector_choices(target, channels).front());
  std::vector<int> choices = {0};
  for (int slice : {1, 2, 3, 4, 6, 8})
    if (slice <= vectors) choices.push_back(slice);
  return choices;
}

Status broken(const OpContext& context, std::string_view rule, const std::string& found) {
  return absl::InvalidArgumentError(fmt::format(
      "schedule of {}, op{}: {}: {}", context.workload.describe(), context.index, rule, found));
}

Status check_registers(const OpContext& context, const OpTile& tile) {
  const int budget = context.target.vector_registers - 2;
  const int width = std::max(1, tile.vector / context.target.vector_floats);
  const int used = tile.channel_vectors * tile.pixels * width;
  if (used <= budget) return absl::OkStatus();
  return broken(context, "register budget",
                fmt::format("{} vectors x {} pixels, expected at most {} accumulators",
                            tile.channel_vectors, tile.pixels, budget));
}

Status check_channels(const OpContext& context, const OpTile& tile) {
  const int needed = needed_vectors(tile.view.c, tile.vector);
  if (tile.channel_vectors > needed)
    return broken(context, "tile larger than the loop",
                  fmt::format("{} vectors of {} lanes for {} channels", tile.channel_vectors,
                              tile.vector, tile.view.c));
  if ((tile.vectors - needed) * 3 > needed)
    return broken(context, "channels rounded up by more than a third",
                  fmt::format("{} vectors where {} would do", tile.vectors, needed));
  return absl::OkStatus();
}

Status check_body(const OpContext& context, int64_t steps, int64_t limit) {
  if (steps <= limit) return absl::OkStatus();
  return broken(context, "unrolled body too large",
                fmt::format("{} multiply-adds, expected at most {}", steps, limit));
}

Status check_copy(const OpContext& context, const OpTile& tile) {
  if (tile.border || !context.role().window_on_input || !tile.inside) return absl::OkStatus();
  return broken(context, "forbidden combination",
                "border=0 has no copy to place in slice or strip");
}

int default_parallel(const OpContext& context) {
  const Graph& graph = context.workload.graph;
  int64_t work = macs(graph);
  for (const Op& op : graph.ops) work += op.shape.elements();
  return work > 250'000 ? 1 : 0;
}

bool either_width(const OpContext& context) {
  const std::vector<OpRole>& roles = context.roles;
  return pairs_steps(context.op(), context.workload.graph, context.target) &&
         std::ranges::count(roles, context.index, &OpRole::lanes) == 1 &&
         vector_choices(context.target, context.role().view.c).size() == 2;
}

int choose_vector(const OpContext& context) {
  const int channels = context.role().view.c;
  const std::vector<int> choices = vector_choices(context.target, channels);
  const int half = choices.front(), full = choices.back();
  const double worth = either_width(context) ? 0.9 : 2.0 / 3;
  return round_up(channels, half) < worth * round_up(channels, full) ? half : full;
}

TileChoice choose_tile(const OpContext& context, int vector,
                       const std::vector<int>& channel_vectors, const std::vector<int>& pixels,
                       double loads_per_pixel) {
  const Shape& view = context.role().view;
  const int needed = needed_vectors(view.c, vector);
  // Weights that a tile one vector wide reads.
  const Op& op = context.op();
  const int64_t panel_bytes = int64_t{4} * vector * op.kernel * op.kernel *
                              (op.kind == OpKind::kDepthwise ? 1 : context.input().shape.c);
  TileChoice best;
  double best_cost = 0;
  for (int n : channel_vectors) {
    const int excess = round_up(needed, n) - needed;
    if (n > needed || excess * 3 > needed) continue;
    const double weights = weight_cycles(n, panel_bytes * n, context.target);
    for (int p : pixels) {
      // Accumulators, the weights of one step, and one input.
      if (n * p + n + 1 > context.target.vector_registers) continue;
      const double waste = double(round_up(needed, n)) / needed * round_up(view.w, p) / view.w;
      const double macs = n * p, loads = n + loads_per_pixel * p;
      const double cycles = std::max({macs / 2, loads / 2, weights, 4.0}) + 0.15 * loads;
      const double cost = cycles / macs * waste;
      if (best_cost != 0 && cost >= best_cost) continue;
      best = {n, p};
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace chanas
