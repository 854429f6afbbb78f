// Cutting a graph that is not a network's: single layers and short chains of them.

#include <fmt/core.h>

#include "chanas/graph/workload.h"

namespace chanas {
namespace {

// What a workload can be made of without the knowledge of a whole network around it.
Status check_ops(const Graph& graph) {
  if (graph.input_ops() != std::vector<int>{0})
    return absl::InvalidArgumentError(fmt::format(
        "the graph has {} inputs; expected its first op alone", graph.input_ops().size()));
  for (size_t i = 1; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (!is_convolution(op.kind) && op.kind != OpKind::kGlobalPool)
      return absl::InvalidArgumentError(
          fmt::format("op \"{}\" is {} and no convolution takes it in; a graph to be run holds "
                      "convolutions with their batch normalisation, activation and residual, and "
                      "global pools",
                      op.name, op_kind_name(op.kind)));
  }
  return absl::OkStatus();
}

// The 1x1 convolution that alone reads depthwise convolution `index`; -1: there is none.
int projection_of(const Graph& graph, int index) {
  if (graph.ops[index].kind != OpKind::kDepthwise) return -1;
  const std::vector<int> users = graph.users(index);
  if (users.size() != 1) return -1;
  const Op& user = graph.ops[users[0]];
  const bool projects = user.kind == OpKind::kConv2d && user.kernel == 1 && user.stride == 1 &&
                        user.inputs[0] == index;
  return projects ? users[0] : -1;
}

}  // namespace

StatusOr<CutNetwork> cut_graph(const Graph& graph) {
  CHANAS_RETURN_IF_ERROR(verify(graph));
  CHANAS_RETURN_IF_ERROR(check_ops(graph));
  CutNetwork result{graph, {}};
  std::vector<bool> taken(graph.ops.size());
  for (int i = 1; i < static_cast<int>(graph.ops.size()); ++i) {
    if (taken[i]) continue;
    std::vector<int> ops = {i};
    // Only the next op may be taken along: what comes between would run too late.
    if (projection_of(graph, i) == i + 1) ops.push_back(i + 1);
    Element element;
    element.name = graph.ops[i].name;
    element.key = "graph " + make_workload(graph, ops).fingerprint();
    Cut unfused{"unfused", {}};
    for (int op : ops) {
      unfused.groups.push_back(make_group(graph, {op}));
      taken[op] = true;
    }
    element.cuts.push_back(std::move(unfused));
    if (ops.size() > 1) element.cuts.push_back({"depthwise+project", {make_group(graph, ops)}});
    result.elements.push_back(std::move(element));
  }
  return result;
}

}  // namespace chanas
