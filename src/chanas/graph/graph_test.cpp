#include "chanas/graph/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "chanas/graph/passes.h"
#include "chanas/graph/testing_networks.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Unit kSeUnit = {.h_in = 7,
                      .c_in = 6,
                      .c_mid = 16,
                      .c_out = 6,
                      .kernel = 5,
                      .stride = 1,
                      .expand = true,
                      .se_channels = 8,
                      .se_gate = Activation::kHSigmoid,
                      .act = Activation::kHSwish,
                      .residual = true};

std::vector<std::string> names_of(const Graph& graph) {
  std::vector<std::string> names;
  for (const Op& op : graph.ops) names.push_back(op.name);
  return names;
}

TEST(Lower, UnitHasTheNamesThatParametersGoBy) {
  EXPECT_THAT(names_of(lower(kSeUnit, "units.2")),
              ElementsAre("input", "units.2.expand.conv", "units.2.expand.bn", "units.2.expand.act",
                          "units.2.depthwise.conv", "units.2.depthwise.bn", "units.2.depthwise.act",
                          "units.2.se.pool", "units.2.se.reduce", "units.2.se.reduce.act",
                          "units.2.se.expand", "units.2.se.expand.act", "units.2.se.scale",
                          "units.2.project.conv", "units.2.project.bn", "units.2.add"));
}

TEST(Lower, ParameterShapesAreThoseOfPyTorch) {
  const Graph graph = lower(kSeUnit);
  Parameters parameters;
  for (const auto& [name, shape] : parameter_shapes(graph)) parameters.set(name, {shape, {}});
  auto shape = [&](const char* name) { return parameters.find(name)->shape; };
  EXPECT_THAT(shape("unit.expand.conv.weight"), ElementsAre(16, 6, 1, 1));
  EXPECT_THAT(shape("unit.depthwise.conv.weight"), ElementsAre(16, 1, 5, 5));
  EXPECT_THAT(shape("unit.depthwise.bn.running_var"), ElementsAre(16));
  EXPECT_THAT(shape("unit.se.reduce.weight"), ElementsAre(8, 16, 1, 1));
  EXPECT_THAT(shape("unit.se.expand.bias"), ElementsAre(16));
  EXPECT_EQ(parameters.find("unit.expand.conv.bias"), nullptr);
  // weights 96 + 400 + 128 + 128 + 96, SE biases 24, four BN vectors of 16 + 16 + 6.
  EXPECT_EQ(weight_bytes(graph), 4 * (848 + 24 + 4 * 38));
}

TEST(Lower, TextListsOneOpALine) {
  const std::string text = to_text(fused_graph(kSeUnit));
  EXPECT_THAT(text, HasSubstr("%0 = input input [7x7x6]\n"));
  EXPECT_THAT(text,
              HasSubstr("%2 = depthwise unit.depthwise.conv [7x7x16] of %1 k5 s1 bias hswish\n"));
  EXPECT_THAT(text, HasSubstr("of %6, %0 k1 s1 bias residual\n"));
}

// Published figure (networks: MobileNetV3-Large, 224): 216,589,760 multiply-adds.
TEST(Macs, MobileNetV3LargeIsThePublishedNumber) {
  const StatusOr<Network> network = load_network("mobilenet_v3_large");
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_EQ(macs(lower(*network)), 216'589'760);
  EXPECT_EQ(macs(fused_graph(*network)), 216'589'760);
}

// The graph counts from its ops, arch from closed formulas.
TEST(Macs, AgreeWithArchForTheZooAndRandomNetworks) {
  Rng rng(5);
  std::vector<Network> networks;
  for (const std::string& name : zoo_names()) networks.push_back(*load_network(name));
  for (int i = 0; i < 50; ++i) networks.push_back(random_network(rng));
  for (const Network& network : networks) {
    ASSERT_TRUE(validate(network).ok()) << validate(network);
    const Graph graph = lower(network);
    EXPECT_EQ(macs(graph), macs(network)) << network.name;
    // arch counts two BN vectors per convolution, the file holds four.
    int64_t bn_channels = 0;
    for (const Op& op : graph.ops)
      if (op.kind == OpKind::kBatchNorm) bn_channels += op.shape.c;
    EXPECT_EQ(weight_bytes(graph), 4 * (params(network) + 2 * bn_channels)) << network.name;
  }
}

TEST(Users, AreListedOnceAndInOrder) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = {2, 2, 3}});
  graph.add({.kind = OpKind::kAdd, .name = "twice", .inputs = {0, 0}, .shape = {2, 2, 3}});
  graph.add({.kind = OpKind::kAdd, .name = "sum", .inputs = {1, 0}, .shape = {2, 2, 3}});
  EXPECT_TRUE(verify(graph).ok());
  EXPECT_THAT(graph.users(0), ElementsAre(1, 2));
  EXPECT_THAT(graph.users(2), ElementsAre());
  EXPECT_THAT(graph.input_ops(), ElementsAre(0));
}

struct BadGraph {
  const char* what;
  std::function<void(Graph&)>
      spoil;  // a fused SE unit: input, expand, depthwise, pool, reduce, ...
  const char* message;
};

TEST(Verify, RefusesEveryInconsistencyAndNamesTheOp) {
  const BadGraph cases[] = {
      {"empty", [](Graph& g) { g.ops.clear(); }, "no ops"},
      {"input count", [](Graph& g) { g.ops[1].inputs = {}; },
       "op 1 \"unit.expand.conv\": 0 inputs"},
      {"input with inputs", [](Graph& g) { g.ops[0].inputs = {0}; }, "a input has 0"},
      {"own input", [](Graph& g) { g.ops[1].inputs = {1}; }, "earlier op"},
      {"later input", [](Graph& g) { g.ops[1].inputs = {5}; }, "earlier op"},
      {"negative input", [](Graph& g) { g.ops[1].inputs = {-1}; }, "earlier op"},
      {"residual missing", [](Graph& g) { g.ops[7].inputs.pop_back(); }, "with residual has 2"},
      {"residual shape", [](Graph& g) { g.ops[7].inputs[1] = 2; }, "second input is 7x7x16"},
      {"gate shape", [](Graph& g) { g.ops[6].inputs[1] = 4; }, "second input is 1x1x8"},
      {"even kernel", [](Graph& g) { g.ops[2].kernel = 4; }, "kernel 4"},
      {"large kernel", [](Graph& g) { g.ops[2].kernel = 13; }, "kernel 13"},
      {"stride", [](Graph& g) { g.ops[2].stride = 0; }, "stride 0"},
      {"conv shape", [](Graph& g) { g.ops[1].shape.h = 6; }, "its inputs give 7x7x16"},
      {"depthwise channels", [](Graph& g) { g.ops[2].shape.c = 8; }, "its inputs give 7x7x16"},
      {"pool shape",
       [](Graph& g) {
         g.ops[3].shape = {7, 7, 16};
       },
       "its inputs give 1x1x16"},
      {"no channels", [](Graph& g) { g.ops[0].shape.c = 0; }, "shape 7x7x0"},
      {"negative size", [](Graph& g) { g.ops[0].shape.h = -7; }, "shape -7x7x6"},
      {"huge",
       [](Graph& g) {
         g.ops[0].shape = {4096, 4096, 100000};
       },
       "at most"},
      {"same name", [](Graph& g) { g.ops[2].name = g.ops[1].name; }, "name is taken"},
      {"no name", [](Graph& g) { g.ops[2].name.clear(); }, "no name"},
      {"pool with residual", [](Graph& g) { g.ops[3].residual = true; }, "only convolutions"},
      {"pool with bias", [](Graph& g) { g.ops[3].bias = true; }, "only convolutions"},
      {"scale with act", [](Graph& g) { g.ops[6].act = Activation::kRelu; }, "act is set"},
      {"epsilon on conv", [](Graph& g) { g.ops[1].epsilon = 1e-3; }, "epsilon is set"},
      {"input last",
       [](Graph& g) {
         g.add({.kind = OpKind::kInput, .name = "y", .inputs = {}, .shape = {1, 1, 1}});
       },
       "this is an input"},
      {"activation without function",
       [](Graph& g) {
         g.add({.kind = OpKind::kActivation, .name = "y", .inputs = {7}, .shape = {7, 7, 6}});
       },
       "activation \"none\""},
      {"bn without epsilon",
       [](Graph& g) {
         Op op{.kind = OpKind::kBatchNorm, .name = "y", .inputs = {7}, .shape = {7, 7, 6}};
         op.epsilon = std::numeric_limits<double>::quiet_NaN();
         g.add(op);
       },
       "expected > 0"},
  };
  const Graph good = fused_graph(kSeUnit);
  ASSERT_TRUE(verify(good).ok());
  ASSERT_EQ(good.ops.size(), 8u);
  for (const BadGraph& bad : cases) {
    Graph graph = good;
    bad.spoil(graph);
    const Status status = verify(graph);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.what;
  }
}

TEST(GraphJson, RoundTrips) {
  Rng rng(11);
  for (int i = 0; i < 50; ++i) {
    Graph graph = lower(random_network(rng));
    for (bool fused : {false, true}) {
      if (fused) {
        ASSERT_TRUE(run_passes(graph, nullptr).ok());
      }
      const StatusOr<Json> json = parse_json(to_json(graph).dump());
      ASSERT_TRUE(json.ok());
      const StatusOr<Graph> back = graph_from_json(*json);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(*back, graph);
    }
  }
}

TEST(GraphJson, BadInputIsAnErrorThatNamesIt) {
  const struct {
    const char* pointer;  // place in the JSON of a good graph, and what is put there
    const char* value;    // nullptr: the key is removed
    const char* message;
  } cases[] = {
      {"", "[]", "graph\" is array"},
      {"/ops", "{}", "\"ops\" is object"},
      {"/ops", nullptr, "\"ops\" is missing"},
      {"/ops", "[]", "no ops"},
      {"/opps", "1", "unknown key \"opps\""},
      {"/ops/1", "3", "op 1: \"op\" is number"},
      {"/ops/1/kind", nullptr, "op 1: \"kind\" is missing"},
      {"/ops/1/kind", "\"conv3d\"", "kind \"conv3d\" is unknown; expected one of input, conv2d"},
      {"/ops/1/kind", "7", "\"kind\" is number"},
      {"/ops/1/name", "null", "\"name\" is null"},
      {"/ops/1/shape", "[1, 2]", "\"shape\" has 2 numbers"},
      {"/ops/1/shape", "[1, 2, 2.5]", "\"shape\" is number; expected an integer"},
      {"/ops/1/shape", "[1, 2, 99999999999]", "expected an integer of 32 bits"},
      {"/ops/1/shape", "[1, 2, 18446744073709551615]", "expected an integer of 32 bits"},
      {"/ops/1/shape", "[1, 2, -9223372036854775808]", "expected an integer of 32 bits"},
      {"/ops/1/inputs", "0", "\"inputs\" is number; expected a list"},
      {"/ops/1/inputs", "[true]", "\"inputs\" is boolean"},
      {"/ops/1/inputs", "[9]", "earlier op"},
      {"/ops/1/bias", "1", "\"bias\" is number; expected true or false"},
      {"/ops/1/act", "\"hswich\"", "hswich"},
      {"/ops/1/epsilon", "\"x\"", "\"epsilon\" is string"},
      {"/ops/1/kernle", "3", "unknown key \"kernle\"; did you mean \"kernel\"?"},
  };
  for (const auto& bad : cases) {
    Json json = to_json(fused_graph(kSeUnit));
    const std::string pointer = bad.pointer;
    const size_t slash = pointer.rfind('/');
    if (bad.value == nullptr)
      json[Json::json_pointer(pointer.substr(0, slash))].erase(pointer.substr(slash + 1));
    else
      json[Json::json_pointer(pointer)] = *parse_json(bad.value);
    const StatusOr<Graph> graph = graph_from_json(json);
    EXPECT_EQ(graph.status().code(), absl::StatusCode::kInvalidArgument) << bad.pointer;
    EXPECT_THAT(std::string(graph.status().message()), HasSubstr(bad.message)) << bad.pointer;
  }
}

TEST(Parameters, StaySortedAndReplace) {
  Parameters parameters;
  for (const char* name : {"b", "c", "a", "b"})
    parameters.set(name, {{1}, {static_cast<float>(parameters.items.size())}});
  ASSERT_EQ(parameters.items.size(), 3u);
  EXPECT_EQ(parameters.items[0].first, "a");
  EXPECT_EQ(parameters.find("b")->data[0], 3);
  EXPECT_EQ(parameters.find("bb"), nullptr);
  parameters.erase("b");
  parameters.erase("zz");
  EXPECT_EQ(parameters.find("b"), nullptr);
  EXPECT_EQ(parameters.items.size(), 2u);
}

TEST(Parameters, CheckNamesWhatDoesNotFit) {
  const Graph graph = lower(kSeUnit);
  const Parameters good = random_parameters(graph, 1);
  ASSERT_TRUE(check_parameters(graph, good).ok());
  const struct {
    std::function<void(Parameters&)> spoil;
    const char* message;
  } cases[] = {
      {[](Parameters& p) { p.erase("unit.se.expand.bias"); },
       "\"unit.se.expand.bias\" is missing; the graph needs it with shape [16]"},
      {[](Parameters& p) {
         p.set("unit.se.expand.bias", {{8}, std::vector<float>(8)});
       },
       "has shape [8]; expected [16]"},
      {[](Parameters& p) {
         p.set("unit.se.expand.bias", {{16}, std::vector<float>(8)});
       },
       "holds 8 values"},
      {[](Parameters& p) {
         p.set("unit.se.expand.bias",
               {{16}, std::vector<float>(16, std::numeric_limits<float>::quiet_NaN())});
       },
       "NaN"},
      {[](Parameters& p) {
         p.set("unit.project.bn.running_var", {{6}, std::vector<float>(6, -1)});
       },
       "a variance is >= 0"},
  };
  for (const auto& bad : cases) {
    Parameters parameters = good;
    bad.spoil(parameters);
    const Status status = check_parameters(graph, parameters);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
}

TEST(RandomParameters, DependOnSeedAndNameAlone) {
  const Parameters whole = random_parameters(lower(kSeUnit), 7);
  Unit without_se = kSeUnit;
  without_se.se_channels = 0;
  const Parameters part = random_parameters(lower(without_se), 7);
  const Parameters other_seed = random_parameters(lower(without_se), 8);
  for (const auto& [name, tensor] : part.items) {
    EXPECT_EQ(tensor.data, whole.find(name)->data) << name;
    EXPECT_NE(tensor.data, other_seed.find(name)->data) << name;
  }
  EXPECT_NE(whole.find("unit.expand.bn.weight")->data,
            whole.find("unit.depthwise.bn.weight")->data);
}

}  // namespace
}  // namespace chanas
