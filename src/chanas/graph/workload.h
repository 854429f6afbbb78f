#pragma once
// Cutting a fused graph into workloads: fusion groups with fixed shapes, the things that have a
// schedule and a latency (paper section 4.1, graph-level choices).

#include <string>
#include <vector>

#include "chanas/graph/graph.h"

namespace chanas {

// A fusion group, canonical: external values come first as kInput ops, in order of first use; then
// its ops in topological order; op i of the graph is named "op<i>"; the last op is the only output.
// The same work has the same fingerprint whichever architecture asks for it.
struct Workload {
  Graph graph;
  // Of the canonical graph: kinds, inputs, shapes, kernels, strides, activations, residual, bias;
  // names do not count. 16 hex characters. Keys of the store: never changes for the same work.
  std::string fingerprint() const;
  // What it is made of: "conv1x1", "conv3x3", "depthwise", "depthwise+conv1x1",
  // "conv1x1+depthwise", "conv1x1+depthwise+conv1x1", "pool+conv1x1+conv1x1", "scale+conv1x1", ...
  std::string kind() const;
  // For people: "conv1x1 14x14 80->240 hswish", "depthwise 56x56 72 k5 s2 relu".
  std::string describe() const;
};
// The workload of `ops`, ascending indices of a verified graph. Every value but the last one's must
// be used, and only by the group (checked: another choice is a bug of the caller).
Workload make_workload(const Graph& graph, const std::vector<int>& ops);
// Reading: kInvalidArgument for what graph_from_json refuses and for a graph that is not canonical.
Json to_json(const Workload& workload);
StatusOr<Workload> workload_from_json(const Json& json);

// One workload inside a graph: `ops` are the indices of the covered ops in the fused graph;
// `inputs` are the fused graph's values that feed the workload's kInput ops, in their order;
// `output` the value it makes.
struct Group {
  Workload workload;
  std::vector<int> ops;
  std::vector<int> inputs;
  int output = 0;
  // Name in the whole graph of each canonical op: parameter "<names[i]>.weight" of the whole graph
  // is "op<i>.weight" of the workload. For kInput ops, the name of the value that feeds it.
  std::vector<std::string> names;
};
Group make_group(const Graph& graph, const std::vector<int>& ops);
// The workload's own parameters ("op<i>.weight") out of the folded ones of the whole graph, which
// must hold them (checked).
Parameters group_parameters(const Group& group, const Parameters& parameters);

// A way to cut one element (stem, unit or head) into groups, in execution order.
struct Cut {
  // "unfused", "depthwise+project", "expand+depthwise", "stem+depthwise" (what comes before it has
  // a window), "all", "conv+pool"
  std::string name;
  std::vector<Group> groups;
};

// A network's elements in order: the stem, every unit, the head; each with its useful cuts,
// "unfused" first. A unit with SE ends a group at the pool, because the mean needs the whole
// tensor; its squeeze (pool, reduce, expand-with-gate) is one group and the scale belongs to the
// projection's group. Where only the first depthwise convolution reads the stem (stem_joins), stem
// and first unit are one element.
struct Element {
  // unit_key() for units; "stem h224 c3 o16 k3 s2 hswish", with " + " and the first unit's where
  // it joins, and "head h7 c160 m960 hswish x1280 hswish b0 n1000" for the ends.
  std::string key;
  std::string name;  // "stem", "stem+units.0", "units.3", "head"; "unit" for unit_element
  std::vector<Cut> cuts;
};
std::vector<Element> elements(const Network& network);
// Their keys alone.
std::vector<std::string> element_keys(const Network& network);
// The first unit has neither an expansion nor a residual.
bool stem_joins(const Network& network);
// The fused graph that Group::ops of elements(network) index, and the elements, consistent.
struct CutNetwork {
  Graph graph;
  std::vector<Element> elements;
};
CutNetwork cut_network(const Network& network);
// The same for a fused graph on its own, from a layer to a whole network: its elements are the
// longest chains that have something to join, named by their first ops. kInvalidArgument: the graph
// does not verify, or holds an op that no group takes in (names it).
StatusOr<CutNetwork> cut_graph(const Graph& graph);
// The cuts of one unit alone (the LUT's rows), with Group::ops indexing fused_graph(unit); and of
// stem (by itself, joined or not) and head of a network, indexing cut_network(network).graph.
Element unit_element(const Unit& unit);
Element stem_element(const Network& network);
Element head_element(const Network& network);

}  // namespace chanas
