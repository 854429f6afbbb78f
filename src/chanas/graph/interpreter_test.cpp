#include "chanas/graph/interpreter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "chanas/graph/safetensors.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;

constexpr char kGolden[] = CHANAS_SOURCE_DIR "/src/chanas/graph/testdata/golden.safetensors";

// ONNX Runtime's outputs, written by testdata/make_golden.py.
TEST(Interpreter, AgreesWithOnnxRuntimeOnGoldenCases) {
  const StatusOr<SafetensorsFile> golden = read_safetensors(kGolden);
  ASSERT_TRUE(golden.ok()) << golden.status();
  ASSERT_EQ(golden->metadata.size(), 21u);
  for (const auto& [name, text] : golden->metadata) {
    const StatusOr<Json> json = parse_json(text);
    ASSERT_TRUE(json.ok()) << name;
    const StatusOr<Graph> graph = graph_from_json(*json);
    ASSERT_TRUE(graph.ok()) << name << ": " << graph.status();
    Parameters parameters;
    for (const auto& [key, tensor] : golden->parameters.items)
      if (key.starts_with(name + "/")) parameters.set(key.substr(name.size() + 1), tensor);
    std::vector<std::vector<float>> inputs;
    while (const Tensor* input = parameters.find("in" + std::to_string(inputs.size())))
      inputs.push_back(input->data);
    const std::vector<float> out = interpret(*graph, parameters, inputs).back();
    EXPECT_LT(max_relative_error(out, parameters.find("out")->data), 2e-6) << name;
  }
}

// A window of ones counts the pixels that it covers: border handling by hand.
TEST(Interpreter, PaddingByHand) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = {3, 4, 1}});
  graph.add({.kind = OpKind::kConv2d, .name = "c", .inputs = {0}, .shape = {3, 4, 1}, .kernel = 3});
  Parameters parameters;
  parameters.set("c.weight", {{1, 1, 3, 3}, std::vector<float>(9, 1)});
  const std::vector<float> ones(12, 1);
  EXPECT_THAT(interpret(graph, parameters, {ones}).back(),
              ElementsAre(4, 6, 6, 4, 6, 9, 9, 6, 4, 6, 6, 4));

  // Stride 2 with padding 1 starts at the corner: windows around (0, 0), (0, 2), (2, 0), (2, 2).
  graph.ops[1].stride = 2;
  graph.ops[1].shape = {2, 2, 1};
  EXPECT_THAT(interpret(graph, parameters, {ones}).back(), ElementsAre(4, 6, 4, 6));

  // Weight [c_out, c_in, ky, kx]: a single one at ky = 0, kx = 2 reads the upper right neighbour.
  graph.ops[1].stride = 1;
  graph.ops[1].shape = {3, 4, 1};
  parameters.set("c.weight", {{1, 1, 3, 3}, {0, 0, 1, 0, 0, 0, 0, 0, 0}});
  const std::vector<float> image = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  EXPECT_THAT(interpret(graph, parameters, {image}).back(),
              ElementsAre(0, 0, 0, 0, 2, 3, 4, 0, 6, 7, 8, 0));
}

// Of an image and weights of ones, the outputs count the multiply-adds that are not on padding.
TEST(Macs, WithoutPaddingAreThoseOfTheInterpreter) {
  for (const OpKind kind : {OpKind::kConv2d, OpKind::kDepthwise}) {
    for (const int kernel : {1, 3, 7, 11}) {
      for (const int stride : {1, 2, 3}) {
        const Shape in{5, 8, 3};
        const Shape out{(in.h + stride - 1) / stride, (in.w + stride - 1) / stride, 3};
        Graph graph;
        graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = in});
        graph.add({.kind = kind,
                   .name = "c",
                   .inputs = {0},
                   .shape = out,
                   .kernel = kernel,
                   .stride = stride});
        Parameters parameters;
        const int depth = kind == OpKind::kConv2d ? 3 : 1;
        parameters.set("c.weight",
                       {{3, depth, kernel, kernel},
                        std::vector<float>(static_cast<size_t>(3 * depth * kernel * kernel), 1)});
        const std::vector<float> ones(static_cast<size_t>(in.elements()), 1);
        const std::vector<float> counts = interpret(graph, parameters, {ones}).back();
        EXPECT_EQ(macs_without_padding(graph), std::accumulate(counts.begin(), counts.end(), 0.0))
            << op_kind_name(kind) << " k" << kernel << " s" << stride;
        if (kernel == 1) {
          EXPECT_EQ(macs_without_padding(graph), macs(graph));
        }
      }
    }
  }
}

// act(conv(x) + bias) + residual: the residual is added after the activation.
TEST(Interpreter, EpilogueOrderByHand) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = {1, 1, 2}});
  graph.add({.kind = OpKind::kConv2d,
             .name = "c",
             .inputs = {0, 0},
             .shape = {1, 1, 2},
             .bias = true,
             .act = Activation::kRelu,
             .residual = true});
  Parameters parameters;
  parameters.set("c.weight", {{2, 2, 1, 1}, {1, 2, -1, -1}});
  parameters.set("c.bias", {{2}, {0.5, -0.25}});
  // conv: 3 - 8 = -5, -3 + 4 = 1; with bias -4.5, 0.75; relu 0, 0.75; plus x.
  EXPECT_THAT(interpret(graph, parameters, {{3, -4}}).back(), ElementsAre(3, -3.25));
}

TEST(Interpreter, AllGivesEveryValue) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = {2, 1, 2}});
  graph.add({.kind = OpKind::kInput, .name = "gate", .inputs = {}, .shape = {1, 1, 2}});
  graph.add({.kind = OpKind::kScale, .name = "s", .inputs = {0, 1}, .shape = {2, 1, 2}});
  graph.add({.kind = OpKind::kGlobalPool, .name = "p", .inputs = {2}, .shape = {1, 1, 2}});
  const auto values = interpret(graph, {}, {{1, 2, 3, 4}, {10, -1}}, true);
  ASSERT_EQ(values.size(), 4u);
  EXPECT_THAT(values[2], ElementsAre(10, -2, 30, -4));
  EXPECT_THAT(values[3], ElementsAre(20, -3));
  EXPECT_EQ(interpret(graph, {}, {{1, 2, 3, 4}, {10, -1}}).size(), 1u);
}

TEST(Activations, AtTheirCorners) {
  const double x[] = {-4, -3, -1.5, 0, 1.5, 3, 6, 7};
  auto values = [&](Activation activation) {
    std::vector<double> result;
    for (double value : x) result.push_back(apply_activation(activation, value));
    return result;
  };
  EXPECT_THAT(values(Activation::kNone), ElementsAre(-4, -3, -1.5, 0, 1.5, 3, 6, 7));
  EXPECT_THAT(values(Activation::kRelu), ElementsAre(0, 0, 0, 0, 1.5, 3, 6, 7));
  EXPECT_THAT(values(Activation::kRelu6), ElementsAre(0, 0, 0, 0, 1.5, 3, 6, 6));
  EXPECT_THAT(values(Activation::kHSigmoid), ElementsAre(0, 0, 0.25, 0.5, 0.75, 1, 1, 1));
  EXPECT_THAT(values(Activation::kHSwish), ElementsAre(0, 0, -0.375, 0, 1.125, 3, 6, 7));
  EXPECT_EQ(apply_activation(Activation::kSigmoid, 0), 0.5);
  EXPECT_NEAR(apply_activation(Activation::kSigmoid, 2), 0.8807970779778823, 1e-15);
}

TEST(MaxRelativeError, IsMixedAndRefusesNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(max_relative_error({0.5f, 0}, {0.25f, 0}), 0.25);  // below 1: absolute
  EXPECT_EQ(max_relative_error({8, 2}, {8, 4}), 0.25);         // above: of the largest
  EXPECT_EQ(max_relative_error({}, {}), 0);
  EXPECT_EQ(max_relative_error({nan}, {0}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(max_relative_error({0}, {nan}), std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace chanas
