// ONNX Runtime, through scripts/check_onnx.py, judges the ONNX writer and the interpreter at once.
// Skipped where CHANAS_TEST_PYTHON names no Python with ONNX Runtime.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>

#include "chanas/base/file.h"
#include "chanas/graph/interpreter.h"
#include "chanas/graph/onnx.h"
#include "chanas/graph/passes.h"
#include "chanas/graph/testing_networks.h"

namespace chanas {
namespace {

constexpr char kPython[] = CHANAS_TEST_PYTHON;
constexpr char kScript[] = CHANAS_SOURCE_DIR "/scripts/check_onnx.py";

std::string as_bytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::vector<float> to_nchw(const std::vector<float>& values, const Shape& shape) {
  std::vector<float> result;
  for (int c = 0; c < shape.c; ++c)
    for (int i = 0; i < shape.h * shape.w; ++i) result.push_back(values[i * shape.c + c]);
  return result;
}

// Exit code of check_onnx.py for the graph as ONNX against the interpreter's logits (plus
// `offset`).
int check(const Graph& graph, const Parameters& parameters, double tolerance, float offset = 0) {
  Rng rng(9);
  const Shape& shape = graph.ops[0].shape;
  const std::vector<float> image = random_values(shape, rng);
  std::vector<float> expected = interpret(graph, parameters, {image}).back();
  expected = to_nchw(expected, graph.output().shape);
  expected[0] += offset;
  const StatusOr<std::string> model = to_onnx(graph, parameters, "test");
  EXPECT_TRUE(model.ok()) << model.status();

  TemporaryFolder folder("onnx");
  auto write = [&](const char* name, const std::string& bytes) {
    const std::string path = join_path(folder.path(), name);
    EXPECT_TRUE(write_file_atomic(path, bytes).ok());
    return " '" + path + "'";
  };
  const std::string command =
      std::string("'") + kPython + "' '" + kScript + "'" + write("model.onnx", *model) +
      write("input.bin", as_bytes(to_nchw(image, shape))) +
      write("expected.bin", as_bytes(expected)) + " " + std::to_string(tolerance);
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class OnnxRuntime : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string(kPython).empty()) GTEST_SKIP() << "no Python with ONNX Runtime";
  }
};

TEST_F(OnnxRuntime, AgreesOnTheZoo) {
  for (const std::string& name : zoo_names()) {
    const StatusOr<Network> network = load_network(name);
    ASSERT_TRUE(network.ok()) << network.status();
    Graph graph = lower(at_resolution(*network, 64));
    Parameters parameters = random_parameters(graph, 3);
    ASSERT_TRUE(run_passes(graph, &parameters).ok());
    EXPECT_EQ(check(graph, parameters, 1e-4), 0) << name;
  }
}

TEST_F(OnnxRuntime, AgreesOnRandomNetworksUnfusedAndFused) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Rng rng(seed, "ort");
    Graph graph = lower(random_network(rng));
    Parameters parameters = random_parameters(graph, seed);
    EXPECT_EQ(check(graph, parameters, 1e-5), 0) << to_text(graph);
    ASSERT_TRUE(run_passes(graph, &parameters).ok());
    EXPECT_EQ(check(graph, parameters, 1e-5), 0) << to_text(graph);
  }
}

TEST_F(OnnxRuntime, AgreesOnALayerThatEndsInAMap) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "image", .inputs = {}, .shape = {9, 7, 5}});
  graph.add({.kind = OpKind::kConv2d,
             .name = "conv",
             .inputs = {0},
             .shape = {5, 4, 6},
             .kernel = 5,
             .stride = 2,
             .bias = true});
  EXPECT_EQ(check(graph, random_parameters(graph, 2), 1e-5), 0);
}

TEST_F(OnnxRuntime, TheScriptSeesADifference) {
  Rng rng(4);
  const Graph graph = fused_graph(random_network(rng));
  const Parameters parameters = random_parameters(graph, 5);
  EXPECT_EQ(check(graph, parameters, 1e-5), 0);
  EXPECT_EQ(check(graph, parameters, 1e-5, 0.5f), 1);
  EXPECT_EQ(check(graph, parameters, 1e-5, std::nanf("")), 1);
}

}  // namespace
}  // namespace chanas
