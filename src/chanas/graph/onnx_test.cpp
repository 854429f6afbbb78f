#include "chanas/graph/onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "chanas/graph/passes.h"
#include "chanas/graph/testing_networks.h"
#include "onnx.pb.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Model {
  Graph graph;
  Parameters parameters;
  onnx::ModelProto proto;
};

Model write(Graph graph) {
  Model model{std::move(graph), {}, {}};
  model.parameters = random_parameters(model.graph, 1);
  const StatusOr<std::string> bytes = to_onnx(model.graph, model.parameters, "test");
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_TRUE(model.proto.ParseFromString(*bytes));
  return model;
}

std::vector<int64_t> dims(const onnx::ValueInfoProto& info) {
  std::vector<int64_t> result;
  for (const auto& dim : info.type().tensor_type().shape().dim()) result.push_back(dim.dim_value());
  return result;
}

Network sample_network() {
  Network network;
  network.resolution = 17;
  network.units = {{.h_in = 9,
                    .c_in = 16,
                    .c_mid = 24,
                    .c_out = 16,
                    .kernel = 5,
                    .se_channels = 8,
                    .act = Activation::kRelu6,
                    .residual = true}};
  network.head = {.conv_channels = 24, .mix_channels = 32, .mix_bias = true, .classes = 10};
  return network;
}

TEST(Onnx, HeaderInputAndOutput) {
  const Model model = write(fused_graph(sample_network()));
  EXPECT_EQ(model.proto.ir_version(), 8);
  ASSERT_EQ(model.proto.opset_import_size(), 1);
  EXPECT_EQ(model.proto.opset_import(0).version(), 17);
  ASSERT_EQ(model.proto.graph().input_size(), 1);
  EXPECT_EQ(model.proto.graph().input(0).name(), "input");
  EXPECT_THAT(dims(model.proto.graph().input(0)), ElementsAre(1, 3, 17, 17));
  EXPECT_EQ(model.proto.graph().output(0).name(), "logits");
  EXPECT_THAT(dims(model.proto.graph().output(0)), ElementsAre(1, 10));
}

TEST(Onnx, FusedOpsUnfoldInOrder) {
  std::vector<std::string> types;
  const Model model = write(fused_graph(sample_network()));
  for (const auto& node : model.proto.graph().node()) types.push_back(node.op_type());
  EXPECT_THAT(types, ElementsAre("Conv", "HardSwish",                       // stem
                                 "Conv", "Clip", "Conv", "Clip",            // expand, depthwise
                                 "GlobalAveragePool", "Conv", "Relu",       // squeeze
                                 "Conv", "HardSigmoid", "Mul",              // excite
                                 "Conv", "Add",                             // project
                                 "Conv", "HardSwish", "GlobalAveragePool",  // head
                                 "Conv", "HardSwish", "Conv", "Flatten"));
}

TEST(Onnx, AttributesOfConvolutionsAndGates) {
  const Model model = write(lower(sample_network()));
  std::map<std::string, const onnx::NodeProto*> nodes;
  for (const auto& node : model.proto.graph().node()) nodes[node.name()] = &node;
  auto ints = [](const onnx::NodeProto& node, const std::string& name) -> std::vector<int64_t> {
    for (const auto& attribute : node.attribute()) {
      if (attribute.name() != name) continue;
      if (attribute.type() == onnx::AttributeProto::INT) return {attribute.i()};
      return {attribute.ints().begin(), attribute.ints().end()};
    }
    return {};
  };
  const onnx::NodeProto& stem = *nodes.at("stem.conv/Conv");
  EXPECT_THAT(ints(stem, "strides"), ElementsAre(2, 2));
  EXPECT_THAT(ints(stem, "pads"), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(ints(stem, "group"), ElementsAre(1));
  const onnx::NodeProto& depthwise = *nodes.at("units.0.depthwise.conv/Conv");
  EXPECT_THAT(ints(depthwise, "kernel_shape"), ElementsAre(5, 5));
  EXPECT_THAT(ints(depthwise, "group"), ElementsAre(24));
  const onnx::NodeProto& gate = *nodes.at("units.0.se.expand.act/HardSigmoid");
  ASSERT_EQ(gate.attribute_size(), 2);
  EXPECT_FLOAT_EQ(gate.attribute(0).f(), 1.0f / 6);
  EXPECT_FLOAT_EQ(gate.attribute(1).f(), 0.5f);
}

// Single assignment: names are unique and every input was made before.
TEST(Onnx, IsWellFormedForRandomNetworks) {
  Rng rng(31);
  for (int i = 0; i < 40; ++i) {
    Graph graph = lower(random_network(rng));
    if (i % 2 == 0) {
      ASSERT_TRUE(run_passes(graph, nullptr).ok());
    }
    const Model model = write(graph);
    std::set<std::string> known = {model.proto.graph().input(0).name()};
    for (const auto& tensor : model.proto.graph().initializer()) {
      EXPECT_TRUE(known.insert(tensor.name()).second) << tensor.name();
      int64_t elements = 1;
      for (int64_t size : tensor.dims()) elements *= size;
      EXPECT_EQ(static_cast<int64_t>(tensor.raw_data().size()), 4 * elements) << tensor.name();
      if (const Tensor* source = model.parameters.find(tensor.name())) {
        EXPECT_EQ(std::memcmp(source->data.data(), tensor.raw_data().data(), 4 * elements), 0);
      }
    }
    for (const auto& node : model.proto.graph().node()) {
      for (const std::string& input : node.input()) EXPECT_TRUE(known.contains(input)) << input;
      for (const std::string& output : node.output())
        EXPECT_TRUE(known.insert(output).second) << output;
    }
    EXPECT_TRUE(known.contains("logits"));
  }
}

TEST(Onnx, AMapKeepsItsShape) {
  const Graph unit = fused_graph(sample_network().units[0]);
  const StatusOr<std::string> bytes = to_onnx(unit, random_parameters(unit, 1), "unit");
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  onnx::ModelProto model;
  ASSERT_TRUE(model.ParseFromString(*bytes));
  const onnx::ValueInfoProto& output = model.graph().output(0);
  EXPECT_EQ(output.name(), "output");
  std::vector<int64_t> dims;
  for (const auto& dim : output.type().tensor_type().shape().dim()) dims.push_back(dim.dim_value());
  EXPECT_THAT(dims, ElementsAre(1, 16, 9, 9));
}

TEST(Onnx, RefusesWhatItCannotWrite) {
  const Graph good = fused_graph(sample_network());
  const Parameters parameters = random_parameters(good, 1);
  auto message = [](const Graph& graph, const Parameters& weights) {
    const StatusOr<std::string> result = to_onnx(graph, weights, "test");
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_THAT(message(good, {}), HasSubstr("stem.conv.weight\" is missing"));
  EXPECT_THAT(message({}, parameters), HasSubstr("no ops"));
  Graph two;
  for (const char* name : {"x", "y"})
    two.add({.kind = OpKind::kInput, .name = name, .inputs = {}, .shape = {1, 1, 2}});
  two.add({.kind = OpKind::kAdd, .name = "sum", .inputs = {0, 1}, .shape = {1, 1, 2}});
  EXPECT_THAT(message(two, {}), HasSubstr("2 inputs"));
}

}  // namespace
}  // namespace chanas
