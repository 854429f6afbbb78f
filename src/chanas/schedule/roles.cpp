#include "chanas/schedule/roles.h"

#include <algorithm>

namespace chanas {
namespace {

bool is_external(const Graph& graph, int value) { return graph.ops[value].kind == OpKind::kInput; }

bool is_elementwise(const Op& op) {
  return op.kind == OpKind::kActivation || op.kind == OpKind::kAdd || op.kind == OpKind::kScale;
}

bool is_pointwise(const Op& op) {
  return is_elementwise(op) || (op.kind == OpKind::kConv2d && op.kernel == 1 && op.stride == 1);
}

// A scale whose only reader is a 1x1 convolution's data input.
bool is_foldable(const Graph& graph, int index) {
  if (graph.ops[index].kind != OpKind::kScale) return false;
  const std::vector<int> users = graph.users(index);
  if (users.size() != 1) return false;
  const Op& user = graph.ops[users[0]];
  return user.kind == OpKind::kConv2d && user.kernel == 1 && user.inputs[0] == index &&
         std::ranges::count(user.inputs, index) == 1;
}

// Rows do not matter to a pointwise op between external values, flat ones and pools.
bool is_flat(const Graph& graph, int index) {
  const Op& op = graph.ops[index];
  if (!is_pointwise(op)) return false;
  for (int input : op.inputs) {
    const bool flat_scale =
        is_foldable(graph, input) &&
        std::ranges::all_of(graph.ops[input].inputs, [&](int i) { return is_external(graph, i); });
    if (!is_external(graph, input) && !flat_scale) return false;
  }
  const std::vector<int> users = graph.users(index);
  if (is_foldable(graph, index)) return is_flat(graph, users[0]);
  return std::ranges::all_of(users,
                             [&](int user) { return graph.ops[user].kind == OpKind::kGlobalPool; });
}

// Inputs whose values an op reads lane by lane.
std::vector<int> lane_inputs(const Op& op) {
  if (op.kind != OpKind::kConv2d) return op.inputs;
  return op.residual ? std::vector<int>{op.inputs.back()} : std::vector<int>{};
}

}  // namespace

std::vector<OpRole> op_roles(const Workload& workload) {
  const Graph& graph = workload.graph;
  const int count = static_cast<int>(graph.ops.size());
  std::vector<OpRole> roles(count);
  for (int i = 0; i < count; ++i) {
    const Op& op = graph.ops[i];
    OpRole& role = roles[i];
    role.view = op.shape;
    role.final = i + 1 == count;
    if (op.kind == OpKind::kInput) continue;
    role.lanes = i;
    role.foldable = is_foldable(graph, i);
    if (is_flat(graph, i)) role.view = {1, op.shape.h * op.shape.w, op.shape.c};

    const int data = op.inputs[0];
    const bool alone = graph.users(data).size() == 1 && std::ranges::count(op.inputs, data) == 1;
    if (!is_external(graph, data) && alone && !is_elementwise(graph.ops[data]) &&
        !is_elementwise(op))
      role.producer = data;
    role.window_on_input = is_external(graph, data) && is_convolution(op.kind) && op.kernel > 1;

    for (int input : lane_inputs(op)) {
      if (is_external(graph, input)) continue;
      const int from = std::max(role.lanes, roles[input].lanes);
      const int to = std::min(role.lanes, roles[input].lanes);
      for (OpRole& other : roles)
        if (other.lanes == from) other.lanes = to;
    }
  }
  return roles;
}

}  // namespace chanas
