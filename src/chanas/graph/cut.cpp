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

std::string stem_key(const Network& network) {
  const Stem& stem = network.stem;
  return fmt::format("stem h{} c{} o{} k{} s{} {}", network.resolution, network.channels,
                     stem.c_out, stem.kernel, stem.stride, activation_name(stem.act));
}

// The stem and the unit that it joins.
std::string joined_key(const Network& network) {
  return stem_key(network) + " + " + unit_key(network.units.front());
}

// A unit, together with `lead`, the convolution before its depthwise one: "units.3.expand", the
// stem, or nothing.
std::vector<Cut> unit_cuts(const Cutter& cutter, const Unit& unit, const std::string& name,
                           const std::string& lead) {
  auto op = [&](const char* part) { return cutter.op(name + "." + part); };
  std::vector<Ops> stages;
  if (!lead.empty()) stages.push_back({cutter.op(lead + ".conv")});
  stages.push_back({op("depthwise.conv")});
  const std::string fused = lead.substr(lead.rfind('.') + 1) + "+depthwise";
  std::vector<Cut> cuts;
  if (unit.se_channels > 0) {
    stages.push_back({op("se.pool"), op("se.reduce"), op("se.expand")});
    stages.push_back({op("se.scale"), op("project.conv")});
    cuts.push_back(cutter.cut("unfused", stages, {}));
    if (!lead.empty()) cuts.push_back(cutter.cut(fused, stages, {true}));
    return cuts;
  }
  stages.push_back({op("project.conv")});
  cuts.push_back(cutter.cut("unfused", stages, {}));
  if (lead.empty()) {
    cuts.push_back(cutter.cut("depthwise+project", stages, {true}));
  } else {
    cuts.push_back(cutter.cut("depthwise+project", stages, {false, true}));
    cuts.push_back(cutter.cut(fused, stages, {true}));
    cuts.push_back(cutter.cut("all", stages, {true, true}));
  }
  return cuts;
}

Element cut_unit(const Cutter& cutter, const Unit& unit, const std::string& name) {
  return {unit_key(unit), name, unit_cuts(cutter, unit, name, unit.expand ? name + ".expand" : "")};
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

Element cut_stem(const Cutter& cutter, const Network& network) {
  return {stem_key(network), "stem", {cutter.cut("unfused", {{cutter.op("stem.conv")}}, {})}};
}

Element cut_head(const Cutter& cutter, const Network& network) {
  const Head& head = network.head;
  const bool conv = head.conv_channels > 0;
  std::vector<Ops> stages;
  if (conv) stages.push_back({cutter.op("head.conv")});
  stages.push_back({cutter.op("head.pool")});
  if (head.mix_channels > 0) stages.push_back({cutter.op("mix")});
  stages.push_back({cutter.op("classifier")});
  Element element{head_key(network), "head", {cutter.cut("unfused", stages, {})}};
  if (conv) element.cuts.push_back(cutter.cut("conv+pool", stages, {true}));
  return element;
}

}  // namespace

bool stem_joins(const Network& network) {
  return !network.units.empty() && !network.units.front().expand && !network.units.front().residual;
}

CutNetwork cut_network(const Network& network) {
  CutNetwork result{fused_graph(network), {}};
  const Cutter cutter(result.graph);
  size_t next = 0;
  if (stem_joins(network)) {
    result.elements.push_back({joined_key(network), "stem+units.0",
                               unit_cuts(cutter, network.units[next++], "units.0", "stem")});
  } else {
    result.elements.push_back(cut_stem(cutter, network));
  }
  for (; next < network.units.size(); ++next)
    result.elements.push_back(cut_unit(cutter, network.units[next], fmt::format("units.{}", next)));
  result.elements.push_back(cut_head(cutter, network));
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
  const Graph graph = fused_graph(unit);
  return cut_unit(Cutter(graph), unit, "unit");
}

Element stem_element(const Network& network) {
  const Graph graph = fused_graph(network);
  return cut_stem(Cutter(graph), network);
}

Element head_element(const Network& network) { return cut_network(network).elements.back(); }

}  // namespace chanas
