// Where a graph may be cut into workloads. What may be joined is seen in the graph alone; networks
// only name what is found.

#include <fmt/core.h>

#include <numeric>

#include "chanas/graph/passes.h"
#include "chanas/graph/workload.h"

namespace chanas {
namespace {

// Ops that are always in one group, ascending.
using Stage = std::vector<int>;

// Neighbouring stages are joined into one group where `joined[i]` ties stage i to stage i + 1.
Cut cut_stages(const Graph& graph, std::string name, const std::vector<Stage>& stages,
               const std::vector<bool>& joined) {
  Cut result{std::move(name), {}};
  std::vector<int> ops;
  for (size_t i = 0; i < stages.size(); ++i) {
    ops.insert(ops.end(), stages[i].begin(), stages[i].end());
    if (i < joined.size() && joined[i]) continue;
    result.groups.push_back(make_group(graph, ops));
    ops.clear();
  }
  return result;
}

bool is(const Graph& graph, int index, OpKind kind) {
  return index < static_cast<int>(graph.ops.size()) && graph.ops[index].kind == kind;
}

// Whether op `index`, of this kind, alone reads the op before it, as its data, and that can be
// inside a group. What lay between two ops of a group would run too late.
bool continues(const Graph& graph, int index, OpKind kind) {
  return is(graph, index, kind) && graph.ops[index].inputs[0] == index - 1 &&
         graph.users(index - 1).size() == 1 && !graph.ops[index - 1].residual;
}

bool is_1x1(const Op& op) { return op.kernel == 1 && op.stride == 1; }

// Whether SE's pool, reduction, expansion, scale and the projection begin at `pool`.
bool squeezes(const Graph& graph, int pool) {
  using enum OpKind;
  const int data = pool - 1, reduce = pool + 1, expand = pool + 2, scale = pool + 3;
  return is(graph, pool, kGlobalPool) && graph.ops[pool].inputs[0] == data &&
         continues(graph, reduce, kConv2d) && continues(graph, expand, kConv2d) &&
         !graph.ops[expand].residual && is(graph, scale, kScale) &&
         graph.ops[scale].inputs == std::vector{data, expand} &&
         graph.users(data) == std::vector{pool, scale} && graph.users(expand).size() == 1 &&
         continues(graph, scale + 1, kConv2d) && is_1x1(graph.ops[scale + 1]);
}

// The longest chain from op `first` on that has stages to join, and its cuts.
struct Chain {
  int end = 0;  // behind its last op
  std::vector<Cut> cuts;
};
Chain chain_at(const Graph& graph, int first) {
  using enum OpKind;
  std::vector<Stage> stages = {{first}};
  int next = first + 1;
  const auto add = [&](int ops) {
    Stage stage;
    for (int i = 0; i < ops; ++i) stage.push_back(next++);
    stages.push_back(std::move(stage));
  };
  Chain chain;
  const auto cut = [&](const char* name, const std::vector<bool>& joined) {
    chain.cuts.push_back(cut_stages(graph, name, stages, joined));
  };
  const Op& op = graph.ops[first];
  const bool leads = op.kind == kConv2d && continues(graph, next, kDepthwise);
  const bool pools = op.kind == kConv2d && continues(graph, next, kGlobalPool);
  if (leads || pools) add(1);
  const bool depthwise = leads || op.kind == kDepthwise;
  const bool projects = depthwise && continues(graph, next, kConv2d) && is_1x1(graph.ops[next]);
  if (projects) {
    add(1);
  } else if (depthwise && squeezes(graph, next)) {
    add(3);
    add(2);
  }
  cut("unfused", {});
  if (projects) cut("depthwise+project", leads ? std::vector{false, true} : std::vector{true});
  if (leads) cut(op.kernel == 1 ? "expand+depthwise" : "stem+depthwise", {true});
  if (leads && projects) cut("all", {true, true});
  if (pools) cut("conv+pool", {true});
  chain.end = next;
  return chain;
}

std::string stem_key(const Network& network) {
  const Stem& stem = network.stem;
  return fmt::format("stem h{} c{} o{} k{} s{} {}", network.resolution, network.channels,
                     stem.c_out, stem.kernel, stem.stride, activation_name(stem.act));
}

// The stem and the unit that it joins.
std::string joined_key(const Network& network) {
  return stem_key(network) + " + " + unit_key(network.units.front());
}

// " m960 hswish"
std::string layer_key(char letter, int channels, Activation act) {
  if (channels == 0) return fmt::format(" {}0", letter);
  return fmt::format(" {}{} {}", letter, channels, activation_name(act));
}

std::string head_key(const Network& network) {
  const Head& head = network.head;
  const bool units = !network.units.empty();
  const int h =
      units ? network.units.back().h_out() : strided(network.resolution, network.stem.stride);
  return fmt::format("head h{} c{}{}{} b{:d} n{}", h,
                     units ? network.units.back().c_out : network.stem.c_out,
                     layer_key('m', head.conv_channels, head.conv_act),
                     layer_key('x', head.mix_channels, head.mix_act),
                     head.mix_channels > 0 && head.mix_bias, head.classes);
}

}  // namespace

StatusOr<CutNetwork> cut_graph(const Graph& graph) {
  CHANAS_RETURN_IF_ERROR(verify(graph));
  if (graph.input_ops() != std::vector<int>{0})
    return absl::InvalidArgumentError(fmt::format(
        "the graph has {} inputs; expected its first op alone", graph.input_ops().size()));
  CutNetwork result{graph, {}};
  const int count = static_cast<int>(graph.ops.size());
  for (int first = 1; first < count;) {
    const Op& op = graph.ops[first];
    if (!is_convolution(op.kind) && op.kind != OpKind::kGlobalPool)
      return absl::InvalidArgumentError(
          fmt::format("op \"{}\" is {} and no convolution takes it in; a graph to be run holds "
                      "convolutions with their batch normalisation, activation and residual, "
                      "global pools, and scales between a depthwise convolution and its projection",
                      op.name, op_kind_name(op.kind)));
    Chain chain = chain_at(graph, first);
    std::vector<int> ops(chain.end - first);
    std::iota(ops.begin(), ops.end(), first);
    result.elements.push_back(
        {"graph " + make_workload(graph, ops).fingerprint(), op.name, std::move(chain.cuts)});
    first = chain.end;
  }
  return result;
}

bool stem_joins(const Network& network) {
  return !network.units.empty() && !network.units.front().expand && !network.units.front().residual;
}

CutNetwork cut_network(const Network& network) {
  CutNetwork result{fused_graph(network), {}};
  const Graph& graph = result.graph;
  int first = 1;
  const auto add = [&](std::string key, std::string name) {
    Chain chain = chain_at(graph, first);
    first = chain.end;
    result.elements.push_back({std::move(key), std::move(name), std::move(chain.cuts)});
  };
  const std::vector<std::string> keys = element_keys(network);
  const int joins = stem_joins(network);
  add(keys[0], joins ? "stem+units.0" : "stem");
  for (size_t i = 1; i + 1 < keys.size(); ++i) add(keys[i], fmt::format("units.{}", i - 1 + joins));
  add(keys.back(), "head");
  std::vector<Cut>& head = result.elements.back().cuts;
  while (first < static_cast<int>(graph.ops.size())) {
    const Chain chain = chain_at(graph, first);
    for (Cut& cut : head)
      for (const Group& group : chain.cuts[0].groups) cut.groups.push_back(group);
    first = chain.end;
  }
  return result;
}

std::vector<std::string> element_keys(const Network& network) {
  const bool joins = stem_joins(network);
  std::vector<std::string> keys = {joins ? joined_key(network) : stem_key(network)};
  for (size_t i = joins ? 1 : 0; i < network.units.size(); ++i)
    keys.push_back(unit_key(network.units[i]));
  keys.push_back(head_key(network));
  return keys;
}

std::vector<Element> elements(const Network& network) { return cut_network(network).elements; }

Element unit_element(const Unit& unit) {
  return {unit_key(unit), "unit", chain_at(fused_graph(unit), 1).cuts};
}

Element stem_element(const Network& network) {
  return {stem_key(network), "stem", {cut_stages(fused_graph(network), "unfused", {{1}}, {})}};
}

Element head_element(const Network& network) { return cut_network(network).elements.back(); }

}  // namespace chanas
