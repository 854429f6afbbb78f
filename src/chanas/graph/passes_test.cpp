// Differential: a graph before and after the passes gives the same values.

#include "chanas/graph/passes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "chanas/graph/interpreter.h"
#include "chanas/graph/testing_networks.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kTolerance = 1e-5;

// Runs the passes on a copy and compares outputs on one random input.
void expect_equivalent(const Graph& graph, const std::vector<std::string>& disabled,
                       uint64_t seed) {
  Rng rng(seed);
  const Parameters parameters = random_parameters(graph, seed);
  const std::vector<std::vector<float>> inputs = {random_values(graph.ops[0].shape, rng)};
  const std::vector<float> reference = interpret(graph, parameters, inputs).back();

  Graph fused = graph, structure = graph;
  Parameters folded = parameters;
  const Status status = run_passes(fused, &folded, disabled);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_LT(max_relative_error(interpret(fused, folded, inputs).back(), reference), kTolerance)
      << to_text(graph) << "became\n"
      << to_text(fused);

  // The structure does not depend on the weights, and no parameter is left over.
  ASSERT_TRUE(run_passes(structure, nullptr, disabled).ok());
  EXPECT_EQ(structure, fused);
  EXPECT_EQ(folded.items.size(), parameter_shapes(fused).size());
  EXPECT_EQ(macs(fused), macs(graph));
}

TEST(Passes, KeepTheValuesOfRandomNetworks) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Rng rng(seed, "network");
    const Network network = random_network(rng);
    ASSERT_TRUE(validate(network).ok()) << validate(network);
    expect_equivalent(lower(network), {}, seed);
  }
}

TEST(Passes, KeepTheValuesWithAnyPassSwitchedOff) {
  for (uint64_t seed = 0; seed < 15; ++seed) {
    Rng rng(seed, "disabled");
    const Graph graph = lower(random_network(rng));
    for (const Pass& pass : fusion_passes()) expect_equivalent(graph, {pass.name}, seed);
    expect_equivalent(graph, {"fold-batch-norm", "fuse-residual"}, seed);
  }
}

TEST(Passes, KeepTheValuesOfUnitsWithEveryActivationKernelAndStride) {
  uint64_t seed = 100;
  for (Activation act : kAllActivations) {
    for (int kernel : {1, 3, 5, 7}) {
      for (int stride : {1, 2}) {
        Rng rng(++seed);
        Unit unit = random_unit(rng, 8, 6);
        unit.act = act;
        unit.kernel = kernel;
        unit.stride = stride;
        unit.residual = stride == 1 && unit.c_out == unit.c_in;
        expect_equivalent(lower(unit), {}, seed);
      }
    }
  }
}

TEST(Passes, LeaveOnlyConvolutionsPoolsAndScales) {
  Rng rng(3);
  for (int i = 0; i < 40; ++i) {
    for (const Op& op : fused_graph(random_network(rng)).ops)
      EXPECT_TRUE(op.kind == OpKind::kInput || is_convolution(op.kind) ||
                  op.kind == OpKind::kGlobalPool || op.kind == OpKind::kScale)
          << op.name << " is a " << op_kind_name(op.kind);
  }
}

TEST(Passes, ASwitchedOffPassLeavesItsOps) {
  const Unit unit = {.h_in = 5, .c_in = 8, .c_mid = 16, .c_out = 8, .residual = true};
  auto count = [&](const std::vector<std::string>& disabled, OpKind kind) {
    Graph graph = lower(unit);
    EXPECT_TRUE(run_passes(graph, nullptr, disabled).ok());
    return std::ranges::count(graph.ops, kind, &Op::kind);
  };
  EXPECT_EQ(count({"fold-batch-norm"}, OpKind::kBatchNorm), 3);
  EXPECT_EQ(count({"fuse-activation"}, OpKind::kActivation), 2);
  EXPECT_EQ(count({"fuse-residual"}, OpKind::kAdd), 1);
  EXPECT_EQ(count({}, OpKind::kAdd), 0);
}

// y = (2 x + 1 - 4) / sqrt(8.99999 + 1e-5) * 6 - 1 = 4 x - 7
TEST(FoldBatchNorm, ByHand) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = {1, 1, 1}});
  graph.add(
      {.kind = OpKind::kConv2d, .name = "c", .inputs = {0}, .shape = {1, 1, 1}, .bias = true});
  graph.add({.kind = OpKind::kBatchNorm, .name = "n", .inputs = {1}, .shape = {1, 1, 1}});
  Parameters parameters;
  parameters.set("c.weight", {{1, 1, 1, 1}, {2}});
  parameters.set("c.bias", {{1}, {1}});
  parameters.set("n.weight", {{1}, {6}});
  parameters.set("n.bias", {{1}, {-1}});
  parameters.set("n.running_mean", {{1}, {4}});
  parameters.set("n.running_var", {{1}, {8.99999f}});
  ASSERT_TRUE(run_passes(graph, &parameters).ok());
  ASSERT_EQ(graph.ops.size(), 2u);
  ASSERT_EQ(parameters.items.size(), 2u);
  EXPECT_FLOAT_EQ(parameters.find("c.weight")->data[0], 4);
  EXPECT_FLOAT_EQ(parameters.find("c.bias")->data[0], -7);
}

// A value that is read twice must stay: nothing after it may be fused into its producer.
TEST(Passes, DoNotFuseIntoASharedValue) {
  Graph graph;
  const Shape shape = {4, 4, 3};
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = shape});
  graph.add({.kind = OpKind::kConv2d, .name = "c", .inputs = {0}, .shape = shape});
  graph.add({.kind = OpKind::kActivation,
             .name = "a",
             .inputs = {1},
             .shape = shape,
             .act = Activation::kRelu});
  graph.add({.kind = OpKind::kAdd, .name = "s", .inputs = {1, 2}, .shape = shape});
  expect_equivalent(graph, {}, 1);
  Graph fused = graph;
  ASSERT_TRUE(run_passes(fused, nullptr).ok());
  EXPECT_EQ(fused, graph);
}

// act(conv) + residual is all that an epilogue can do: what comes after it, or twice, stays.
TEST(Passes, DoNotFuseBeyondTheEpilogue) {
  const Shape shape = {4, 4, 3};
  const Op conv{.kind = OpKind::kConv2d, .name = "", .inputs = {}, .shape = shape, .kernel = 3};
  Op active_conv = conv;
  active_conv.act = Activation::kRelu;
  const Op bn{.kind = OpKind::kBatchNorm, .name = "", .inputs = {}, .shape = shape};
  const Op act{.kind = OpKind::kActivation,
               .name = "",
               .inputs = {},
               .shape = shape,
               .act = Activation::kHSwish};
  const Op add{.kind = OpKind::kAdd, .name = "", .inputs = {}, .shape = shape};
  const struct {
    std::vector<Op> chain;
    size_t left;  // ops after the passes, input included
  } cases[] = {{{conv, bn, act, add}, 2}, {{conv, add, act}, 3},     {{conv, add, bn}, 3},
               {{conv, add, add}, 3},     {{conv, act, act}, 3},     {{conv, act, bn}, 3},
               {{conv, bn, bn, act}, 2},  {{conv, act, add, bn}, 3}, {{bn, act, add}, 4},
               {{active_conv, bn}, 3},    {{active_conv, act}, 3}};
  for (const auto& [chain, left] : cases) {
    Graph graph;
    graph.add({.kind = OpKind::kInput, .name = "op0", .inputs = {}, .shape = shape});
    for (Op op : chain) {
      const int previous = static_cast<int>(graph.ops.size()) - 1;
      op.name = "op" + std::to_string(previous + 1);
      op.inputs = {previous};
      if (op.kind == OpKind::kAdd) op.inputs.push_back(0);
      graph.add(op);
    }
    expect_equivalent(graph, {}, 5);
    Graph fused = graph;
    ASSERT_TRUE(run_passes(fused, nullptr).ok());
    EXPECT_EQ(fused.ops.size(), left) << to_text(graph) << "became\n" << to_text(fused);
  }
}

TEST(Passes, AddOfAValueToItselfStays) {
  Graph graph;
  const Shape shape = {3, 3, 2};
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = shape});
  graph.add({.kind = OpKind::kConv2d, .name = "c", .inputs = {0}, .shape = shape});
  graph.add({.kind = OpKind::kAdd, .name = "s", .inputs = {1, 1}, .shape = shape});
  expect_equivalent(graph, {}, 2);
}

// Either side of the add may be the convolution, before or after the other value.
TEST(FuseResidual, TakesAConvolutionOnEitherSide) {
  const Shape shape = {3, 3, 2};
  for (bool conv_first : {true, false}) {
    for (bool swapped : {true, false}) {
      Graph graph;
      graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = shape});
      Op conv{.kind = OpKind::kConv2d, .name = "c", .inputs = {0}, .shape = shape, .kernel = 3};
      Op other{.kind = OpKind::kActivation,
               .name = "a",
               .inputs = {0},
               .shape = shape,
               .act = Activation::kHSwish};
      graph.add(conv_first ? conv : other);
      graph.add(conv_first ? other : conv);
      graph.add({.kind = OpKind::kAdd,
                 .name = "s",
                 .inputs = swapped ? std::vector{2, 1} : std::vector{1, 2},
                 .shape = shape});
      expect_equivalent(graph, {}, 3);
      ASSERT_TRUE(run_passes(graph, nullptr).ok());
      ASSERT_EQ(graph.ops.size(), 3u);
      EXPECT_TRUE(graph.output().residual);
      EXPECT_THAT(graph.output().inputs, ElementsAre(0, 1));
    }
  }
}

TEST(RemoveDead, DropsOpsAndParametersButKeepsInputs) {
  Graph graph;
  const Shape shape = {3, 3, 2};
  for (const char* name : {"x", "unused"})
    graph.add({.kind = OpKind::kInput, .name = name, .inputs = {}, .shape = shape});
  for (const auto& [name, input] : {std::pair{"dead", 0}, {"dead too", 2}, {"alive", 0}})
    graph.add({.kind = OpKind::kConv2d, .name = name, .inputs = {input}, .shape = shape});
  Parameters parameters = random_parameters(graph, 4);
  ASSERT_TRUE(run_passes(graph, &parameters).ok());
  ASSERT_EQ(graph.ops.size(), 3u);
  EXPECT_EQ(graph.ops[1].name, "unused");
  EXPECT_EQ(graph.output().name, "alive");
  ASSERT_EQ(parameters.items.size(), 1u);
  EXPECT_EQ(parameters.items[0].first, "alive.weight");
}

TEST(RunPasses, ReportsEveryPass) {
  Graph graph = lower(Unit{.h_in = 5, .c_in = 8, .c_mid = 16, .c_out = 8});
  const int before = static_cast<int>(graph.ops.size());
  std::vector<PassRun> runs;
  ASSERT_TRUE(run_passes(graph, nullptr, {"fuse-activation"}, &runs).ok());
  ASSERT_EQ(runs.size(), fusion_passes().size());
  EXPECT_EQ(runs[0].name, "fold-batch-norm");
  EXPECT_EQ(runs[0].ops_before, before);
  EXPECT_EQ(runs[0].ops_after, before - 3);  // one batch norm per convolution
  EXPECT_TRUE(runs[1].disabled);
  EXPECT_EQ(runs[1].ops_after, runs[1].ops_before);
  EXPECT_EQ(runs.back().ops_after, static_cast<int>(graph.ops.size()));
}

TEST(RunPasses, RefusesUnknownNamesAndBadPairs) {
  Graph graph = lower(Unit{.h_in = 5, .c_in = 8, .c_mid = 16, .c_out = 8});
  const Graph before = graph;
  Status status = run_passes(graph, nullptr, {"fuse-activations"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("did you mean \"fuse-activation\"?"));
  EXPECT_EQ(graph, before);

  Parameters empty;
  status = run_passes(graph, &empty);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("unit.expand.conv.weight\" is missing"));
}

}  // namespace
}  // namespace chanas
