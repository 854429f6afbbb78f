// Differential: every cut of every element, run group by group, gives the whole graph's values.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "chanas/graph/interpreter.h"
#include "chanas/graph/passes.h"
#include "chanas/graph/testing_networks.h"
#include "chanas/graph/workload.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using Values = std::vector<float>;

// Runs a cut on values of the whole graph, seeing only what earlier groups and elements made.
Values run_cut(const Cut& cut, const Parameters& parameters, std::map<int, Values> known) {
  for (const Group& group : cut.groups) {
    std::vector<Values> inputs;
    for (int input : group.inputs) inputs.push_back(known.at(input));
    known[group.output] =
        interpret(group.workload.graph, group_parameters(group, parameters), inputs).back();
  }
  return known.at(cut.groups.back().output);
}

// `first` is the value that the element reads.
void expect_cuts_agree(const Element& element, const std::vector<Values>& values,
                       const Parameters& parameters, int first) {
  const int output = element.cuts[0].groups.back().output;
  for (const Cut& cut : element.cuts) {
    // The same values are bound to happen: an op is the same arithmetic in and out of a group.
    EXPECT_EQ(run_cut(cut, parameters, {{first, values[first]}}), values[output])
        << element.key << " cut " << cut.name;
    std::vector<int> covered, expected;
    for (const Group& group : cut.groups)
      covered.insert(covered.end(), group.ops.begin(), group.ops.end());
    expected.resize(output - first);
    std::iota(expected.begin(), expected.end(), first + 1);
    EXPECT_EQ(covered, expected) << element.key << " cut " << cut.name;
  }
}

std::vector<std::string> cut_names(const Element& element) {
  std::vector<std::string> result;
  for (const Cut& cut : element.cuts) result.push_back(cut.name);
  return result;
}

// A dense convolution of `kernel` on an image, then a depthwise one with its projection.
Graph graph_file(int kernel) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "image", .inputs = {}, .shape = {9, 9, 3}});
  graph.add({.kind = OpKind::kConv2d,
             .name = "dense",
             .inputs = {0},
             .shape = {5, 5, 8},
             .kernel = kernel,
             .stride = 2,
             .bias = true});
  graph.add({.kind = OpKind::kDepthwise,
             .name = "depthwise",
             .inputs = {1},
             .shape = {5, 5, 8},
             .kernel = 3,
             .bias = true});
  graph.add({.kind = OpKind::kConv2d,
             .name = "project",
             .inputs = {2},
             .shape = {5, 5, 8},
             .bias = true});
  return graph;
}

// Every cut of every element gives the values of the whole graph.
void expect_all_cuts_agree(const CutNetwork& cut, uint64_t seed) {
  const Parameters parameters = random_parameters(cut.graph, seed);
  Rng rng(seed, "image");
  const std::vector<Values> values =
      interpret(cut.graph, parameters, {random_values(cut.graph.ops[0].shape, rng)}, true);
  int first = 0;
  for (const Element& element : cut.elements) {
    expect_cuts_agree(element, values, parameters, first);
    first = element.cuts[0].groups.back().output;
  }
  EXPECT_EQ(first + 1, static_cast<int>(cut.graph.ops.size()));
}

TEST(Cuts, OfAGraphOnItsOwn) {
  const std::pair<int, const char*> cases[] = {{1, "expand+depthwise"}, {5, "stem+depthwise"}};
  for (const auto& [kernel, name] : cases) {
    const StatusOr<CutNetwork> cut = cut_graph(graph_file(kernel));
    ASSERT_TRUE(cut.ok()) << cut.status();
    ASSERT_EQ(cut->elements.size(), 1u);
    EXPECT_EQ(cut_names(cut->elements[0]),
              (std::vector<std::string>{"unfused", "depthwise+project", name, "all"}));
    expect_all_cuts_agree(*cut, 1);
  }
}

// The projection adds what the dense convolution made, which therefore stands alone.
TEST(Cuts, OfAGraphOnItsOwnJoinNothingThatOthersRead) {
  Graph graph = graph_file(3);
  graph.ops[3].residual = true;
  graph.ops[3].inputs.push_back(1);
  const StatusOr<CutNetwork> cut = cut_graph(graph);
  ASSERT_TRUE(cut.ok()) << cut.status();
  ASSERT_EQ(cut->elements.size(), 2u);
  EXPECT_EQ(cut_names(cut->elements[0]), std::vector<std::string>{"unfused"});
  EXPECT_EQ(cut_names(cut->elements[1]),
            (std::vector<std::string>{"unfused", "depthwise+project"}));
  expect_all_cuts_agree(*cut, 1);
}

TEST(Cuts, RefuseAGraphWithAnOpThatNoConvolutionTakesIn) {
  Graph graph = graph_file(3);
  graph.add({.kind = OpKind::kActivation,
             .name = "alone",
             .inputs = {3},
             .shape = {5, 5, 8},
             .act = Activation::kRelu});
  EXPECT_EQ(cut_graph(graph).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Cuts, GiveTheValuesOfRandomNetworks) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, "cuts");
    const Network network = random_network(rng);
    const CutNetwork cut = cut_network(network);
    ASSERT_EQ(cut.graph, fused_graph(network));
    ASSERT_EQ(cut.elements.size(), network.units.size() + 2 - (stem_joins(network) ? 1 : 0));
    expect_all_cuts_agree(cut, seed);
  }
}

std::set<std::string> fingerprints(const CutNetwork& network) {
  std::set<std::string> result;
  for (const Element& element : network.elements)
    for (const Cut& cut : element.cuts)
      for (const Group& group : cut.groups) result.insert(group.workload.fingerprint());
  return result;
}

// The file of a network's graph is the same work as the network.
TEST(Cuts, OfAGraphAreThoseOfItsNetwork) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, "cuts");
    const Network network = random_network(rng);
    const StatusOr<CutNetwork> cut = cut_graph(fused_graph(network));
    ASSERT_TRUE(cut.ok()) << cut.status();
    EXPECT_EQ(fingerprints(*cut), fingerprints(cut_network(network)));
  }
}

TEST(Cuts, GiveTheValuesOfRandomUnits) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Rng rng(seed, "units");
    const Unit unit = random_unit(rng, static_cast<int>(rng.uniform_int(3, 12)), 8);
    const Graph graph = fused_graph(unit);
    const Parameters parameters = random_parameters(graph, seed);
    const std::vector<Values> values =
        interpret(graph, parameters, {random_values(graph.ops[0].shape, rng)}, true);
    expect_cuts_agree(unit_element(unit), values, parameters, 0);
  }
}

std::vector<std::string> kinds(const Cut& cut) {
  std::vector<std::string> result;
  for (const Group& group : cut.groups) result.push_back(group.workload.kind());
  return result;
}

constexpr Unit kPlain = {.h_in = 14, .c_in = 24, .c_mid = 72, .c_out = 24, .residual = true};

TEST(Cuts, OfAPlainUnit) {
  const Element element = unit_element(kPlain);
  EXPECT_EQ(element.key, unit_key(kPlain));
  EXPECT_THAT(cut_names(element),
              ElementsAre("unfused", "depthwise+project", "expand+depthwise", "all"));
  EXPECT_THAT(kinds(element.cuts[0]), ElementsAre("conv1x1", "depthwise", "conv1x1"));
  EXPECT_THAT(kinds(element.cuts[1]), ElementsAre("conv1x1", "depthwise+conv1x1"));
  EXPECT_THAT(kinds(element.cuts[2]), ElementsAre("conv1x1+depthwise", "conv1x1"));
  EXPECT_THAT(kinds(element.cuts[3]), ElementsAre("conv1x1+depthwise+conv1x1"));
  // The unit's input feeds the expansion and the residual, yet is one input.
  EXPECT_THAT(element.cuts[3].groups[0].inputs, ElementsAre(0));
  EXPECT_THAT(element.cuts[3].groups[0].names,
              ElementsAre("input", "unit.expand.conv", "unit.depthwise.conv", "unit.project.conv"));
  EXPECT_THAT(element.cuts[0].groups[2].inputs, ElementsAre(2, 0));
}

TEST(Cuts, OfAUnitWithSe) {
  Unit unit = kPlain;
  unit.se_channels = 24;
  const Element element = unit_element(unit);
  EXPECT_THAT(cut_names(element), ElementsAre("unfused", "expand+depthwise"));
  EXPECT_THAT(kinds(element.cuts[0]),
              ElementsAre("conv1x1", "depthwise", "pool+conv1x1+conv1x1", "scale+conv1x1"));
  EXPECT_THAT(kinds(element.cuts[1]),
              ElementsAre("conv1x1+depthwise", "pool+conv1x1+conv1x1", "scale+conv1x1"));
}

TEST(Cuts, OfUnitsWithoutExpansion) {
  Unit unit = {.h_in = 14, .c_in = 16, .c_mid = 16, .c_out = 16, .expand = false, .residual = true};
  EXPECT_THAT(cut_names(unit_element(unit)), ElementsAre("unfused", "depthwise+project"));
  unit.se_channels = 8;
  EXPECT_THAT(cut_names(unit_element(unit)), ElementsAre("unfused"));
}

TEST(Cuts, OfStemAndHead) {
  Network network;
  network.resolution = 32;
  network.units = {{.h_in = 16, .c_in = 16, .c_mid = 48, .c_out = 24, .stride = 2}};
  network.head = {.conv_channels = 96, .mix_channels = 128, .classes = 10};
  const Element stem = stem_element(network);
  EXPECT_EQ(stem.key, "stem h32 c3 o16 k3 s2 hswish");
  EXPECT_THAT(cut_names(stem), ElementsAre("unfused"));
  EXPECT_THAT(kinds(stem.cuts[0]), ElementsAre("conv3x3"));

  Element head = head_element(network);
  EXPECT_EQ(head.key, "head h8 c24 m96 hswish x128 hswish b0 n10");
  EXPECT_THAT(cut_names(head), ElementsAre("unfused", "conv+pool"));
  EXPECT_THAT(kinds(head.cuts[0]), ElementsAre("conv1x1", "pool", "conv1x1", "conv1x1"));
  EXPECT_THAT(kinds(head.cuts[1]), ElementsAre("conv1x1+pool", "conv1x1", "conv1x1"));

  network.head = {.conv_channels = 0, .mix_channels = 0, .classes = 10};
  head = head_element(network);
  EXPECT_EQ(head.key, "head h8 c24 m0 x0 b0 n10");
  EXPECT_THAT(cut_names(head), ElementsAre("unfused"));
  EXPECT_THAT(kinds(head.cuts[0]), ElementsAre("pool", "conv1x1"));
}

// Only where nothing else reads the stem is it one element with the first unit.
TEST(Cuts, OfAStemThatTheFirstUnitJoins) {
  Network network;
  network.resolution = 32;
  network.units = {{.h_in = 16, .c_in = 16, .c_mid = 16, .c_out = 24, .expand = false}};
  network.head = {.conv_channels = 0, .mix_channels = 0, .classes = 10};
  std::vector<Element> whole = elements(network);
  ASSERT_EQ(whole.size(), 2u);
  EXPECT_EQ(whole[0].name, "stem+units.0");
  EXPECT_EQ(whole[0].key, stem_element(network).key + " + " + unit_key(network.units[0]));
  EXPECT_THAT(cut_names(whole[0]),
              ElementsAre("unfused", "depthwise+project", "stem+depthwise", "all"));
  EXPECT_THAT(kinds(whole[0].cuts[2]), ElementsAre("conv3x3+depthwise", "conv1x1"));
  EXPECT_THAT(kinds(whole[0].cuts[3]), ElementsAre("conv3x3+depthwise+conv1x1"));

  network.units[0].se_channels = 8;
  EXPECT_THAT(cut_names(elements(network)[0]), ElementsAre("unfused", "stem+depthwise"));
  network.units[0].c_out = 16;
  network.units[0].residual = true;
  EXPECT_EQ(elements(network).size(), 3u);
  network.units[0] = {.h_in = 16, .c_in = 16, .c_mid = 48, .c_out = 24};
  EXPECT_EQ(elements(network).size(), 3u);
}

TEST(Cuts, KeysAreThoseOfTheElements) {
  Rng rng(29);
  int joined = 0;
  for (int i = 0; i < 40; ++i) {
    const Network network = random_network(rng);
    joined += stem_joins(network);
    std::vector<std::string> keys;
    for (const Element& element : elements(network)) keys.push_back(element.key);
    EXPECT_EQ(element_keys(network), keys);
  }
  EXPECT_GT(joined, 2);
}

// The row of a unit in the latency table serves every network that holds the unit.
TEST(Cuts, OfAUnitAloneAreThoseInsideANetwork) {
  Rng rng(17);
  for (int i = 0; i < 20; ++i) {
    const Network network = random_network(rng);
    const std::vector<Element> whole = elements(network);
    const size_t joined = stem_joins(network) ? 1 : 0;
    for (size_t u = joined; u < network.units.size(); ++u) {
      const Element alone = unit_element(network.units[u]);
      const Element& inside = whole[u + 1 - joined];
      EXPECT_EQ(inside.key, alone.key);
      EXPECT_EQ(cut_names(inside), cut_names(alone));
      for (size_t c = 0; c < alone.cuts.size(); ++c)
        for (size_t g = 0; g < alone.cuts[c].groups.size(); ++g)
          EXPECT_EQ(inside.cuts[c].groups[g].workload.graph,
                    alone.cuts[c].groups[g].workload.graph);
    }
  }
}

}  // namespace
}  // namespace chanas
