// Where a network's elements may be cut into workloads.

#include <fmt/core.h>

#include <map>

#include "chanas/graph/passes.h"
#include "chanas/graph/workload.h"

namespace chanas {
namespace {

using Ops = std::vector<int>;

// Makes cuts of one fused graph, whose ops it knows by name.
class Cutter {
 public:
  explicit Cutter(const Graph& graph) : graph_(graph) {
    for (size_t i = 0; i < graph.ops.size(); ++i)
      index_.emplace(graph.ops[i].name, static_cast<int>(i));
  }

  int op(const std::string& name) const {
    const auto it = index_.find(name);
    CHANAS_CHECK(it != index_.end()) << "no op " << name;
    return it->second;
  }

  // Neighbouring stages are joined into one group where `joined[i]` ties stage i to stage i + 1.
  Cut cut(std::string name, const std::vector<Ops>& stages, const std::vector<bool>& joined) const {
    Cut result{std::move(name), {}};
    Ops ops;
    for (size_t i = 0; i < stages.size(); ++i) {
      ops.insert(ops.end(), stages[i].begin(), stages[i].end());
      if (i < joined.size() && joined[i]) continue;
      result.groups.push_back(make_group(graph_, ops));
      ops.clear();
    }
    return result;
  }

 private:
  const Graph& graph_;
  std::map<std::string, int, std::less<>> index_;
};

Element cut_unit(const Cutter& cutter, const Unit& unit, const std::string& name) {
  auto op = [&](const char* part) { return cutter.op(name + "." + part); };
  std::vector<Ops> stages;
  if (unit.expand) stages.push_back({op("expand.conv")});
  stages.push_back({op("depthwise.conv")});
  Element element{unit_key(unit), name, {}};
  if (unit.se_channels > 0) {
    stages.push_back({op("se.pool"), op("se.reduce"), op("se.expand")});
    stages.push_back({op("se.scale"), op("project.conv")});
    element.cuts.push_back(cutter.cut("unfused", stages, {}));
    if (unit.expand) element.cuts.push_back(cutter.cut("expand+depthwise", stages, {true}));
    return element;
  }
  stages.push_back({op("project.conv")});
  element.cuts.push_back(cutter.cut("unfused", stages, {}));
  if (unit.expand) {
    element.cuts.push_back(cutter.cut("depthwise+project", stages, {false, true}));
    element.cuts.push_back(cutter.cut("expand+depthwise", stages, {true}));
    element.cuts.push_back(cutter.cut("all", stages, {true, true}));
  } else {
    element.cuts.push_back(cutter.cut("depthwise+project", stages, {true}));
  }
  return element;
}

// " m960 hswish"
std::string layer_key(char letter, int channels, Activation act) {
  if (channels == 0) return fmt::format(" {}0", letter);
  return fmt::format(" {}{} {}", letter, channels, activation_name(act));
}

Element cut_stem(const Cutter& cutter, const Network& network) {
  const Stem& stem = network.stem;
  return {fmt::format("stem h{} c{} o{} k{} s{} {}", network.resolution, network.channels,
                      stem.c_out, stem.kernel, stem.stride, activation_name(stem.act)),
          "stem",
          {cutter.cut("unfused", {{cutter.op("stem.conv")}}, {})}};
}

Element cut_head(const Cutter& cutter, const Graph& graph, const Network& network) {
  const Head& head = network.head;
  const bool conv = head.conv_channels > 0;
  std::vector<Ops> stages;
  if (conv) stages.push_back({cutter.op("head.conv")});
  stages.push_back({cutter.op("head.pool")});
  if (head.mix_channels > 0) stages.push_back({cutter.op("mix")});
  stages.push_back({cutter.op("classifier")});

  const Shape& in = graph.ops[graph.ops[stages[0][0]].inputs[0]].shape;
  Element element{fmt::format("head h{} c{}{}{} b{:d} n{}", in.h, in.c,
                              layer_key('m', head.conv_channels, head.conv_act),
                              layer_key('x', head.mix_channels, head.mix_act),
                              head.mix_channels > 0 && head.mix_bias, head.classes),
                  "head",
                  {cutter.cut("unfused", stages, {})}};
  if (conv) element.cuts.push_back(cutter.cut("conv+pool", stages, {true}));
  return element;
}

}  // namespace

CutNetwork cut_network(const Network& network) {
  CutNetwork result{fused_graph(network), {}};
  const Cutter cutter(result.graph);
  result.elements.push_back(cut_stem(cutter, network));
  for (size_t i = 0; i < network.units.size(); ++i)
    result.elements.push_back(cut_unit(cutter, network.units[i], fmt::format("units.{}", i)));
  result.elements.push_back(cut_head(cutter, result.graph, network));
  return result;
}

std::vector<Element> elements(const Network& network) { return cut_network(network).elements; }

Element unit_element(const Unit& unit) {
  const Graph graph = fused_graph(unit);
  return cut_unit(Cutter(graph), unit, "unit");
}

Element stem_element(const Network& network) { return cut_network(network).elements.front(); }
Element head_element(const Network& network) { return cut_network(network).elements.back(); }

}  // namespace chanas
