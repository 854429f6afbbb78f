#include <fmt/core.h>

#include "chanas/graph/graph.h"

namespace chanas {
namespace {

// Appends ops to a graph; every function takes and returns the index of a value.
struct Lowering {
  Graph graph;
  double epsilon = Op{}.epsilon;

  const Shape& shape(int value) const { return graph.ops[value].shape; }

  int input(Shape shape) {
    return graph.add({.kind = OpKind::kInput, .name = "input", .inputs = {}, .shape = shape});
  }
  int conv(std::string name, int x, int c_out, int kernel, int stride, bool bias) {
    const Shape& in = shape(x);
    return graph.add({.kind = OpKind::kConv2d,
                      .name = std::move(name),
                      .inputs = {x},
                      .shape = {strided(in.h, stride), strided(in.w, stride), c_out},
                      .kernel = kernel,
                      .stride = stride,
                      .bias = bias});
  }
  int depthwise(std::string name, int x, int kernel, int stride) {
    const int value = conv(std::move(name), x, shape(x).c, kernel, stride, false);
    graph.ops[value].kind = OpKind::kDepthwise;
    return value;
  }
  int batch_norm(std::string name, int x) {
    const int value = same_shape(OpKind::kBatchNorm, std::move(name), {x});
    graph.ops[value].epsilon = epsilon;
    return value;
  }
  int activation(std::string name, int x, Activation act) {
    if (act == Activation::kNone) return x;
    const int value = same_shape(OpKind::kActivation, std::move(name), {x});
    graph.ops[value].act = act;
    return value;
  }
  int global_pool(std::string name, int x) {
    return graph.add({.kind = OpKind::kGlobalPool,
                      .name = std::move(name),
                      .inputs = {x},
                      .shape = {1, 1, shape(x).c}});
  }
  int same_shape(OpKind kind, std::string name, std::vector<int> inputs) {
    const Shape first = shape(inputs[0]);
    return graph.add(
        {.kind = kind, .name = std::move(name), .inputs = std::move(inputs), .shape = first});
  }

  int se(const std::string& prefix, int x, int squeeze, Activation gate) {
    const int channels = shape(x).c;
    int s = global_pool(prefix + "pool", x);
    s = conv(prefix + "reduce", s, squeeze, 1, 1, true);
    s = activation(prefix + "reduce.act", s, Activation::kRelu);
    s = conv(prefix + "expand", s, channels, 1, 1, true);
    s = activation(prefix + "expand.act", s, gate);
    return same_shape(OpKind::kScale, prefix + "scale", {x, s});
  }

  int unit(const Unit& unit, const std::string& prefix, int x) {
    int y = x;
    if (unit.expand) {
      y = conv(prefix + "expand.conv", y, unit.c_mid, 1, 1, false);
      y = batch_norm(prefix + "expand.bn", y);
      y = activation(prefix + "expand.act", y, unit.act);
    }
    y = depthwise(prefix + "depthwise.conv", y, unit.kernel, unit.stride);
    y = batch_norm(prefix + "depthwise.bn", y);
    y = activation(prefix + "depthwise.act", y, unit.act);
    if (unit.se_channels > 0) y = se(prefix + "se.", y, unit.se_channels, unit.se_gate);
    y = conv(prefix + "project.conv", y, unit.c_out, 1, 1, false);
    y = batch_norm(prefix + "project.bn", y);
    if (unit.residual) y = same_shape(OpKind::kAdd, prefix + "add", {y, x});
    return y;
  }

  int head(const Head& head, int x) {
    if (head.conv_channels > 0) {
      x = conv("head.conv", x, head.conv_channels, 1, 1, false);
      x = batch_norm("head.bn", x);
      x = activation("head.act", x, head.conv_act);
    }
    x = global_pool("head.pool", x);
    if (head.mix_channels > 0) {
      x = conv("mix", x, head.mix_channels, 1, 1, head.mix_bias);
      x = activation("mix.act", x, head.mix_act);
    }
    return conv("classifier", x, head.classes, 1, 1, true);
  }

  Graph finish() {
    const Status status = verify(graph);
    CHANAS_CHECK(status.ok()) << status.message();
    return std::move(graph);
  }
};

}  // namespace

Graph lower(const Network& network) {
  Lowering lowering{.graph = {}, .epsilon = network.bn_epsilon};
  const Stem& stem = network.stem;
  int x = lowering.input({network.resolution, network.resolution, network.channels});
  x = lowering.conv("stem.conv", x, stem.c_out, stem.kernel, stem.stride, false);
  x = lowering.batch_norm("stem.bn", x);
  x = lowering.activation("stem.act", x, stem.act);
  for (size_t i = 0; i < network.units.size(); ++i)
    x = lowering.unit(network.units[i], fmt::format("units.{}.", i), x);
  lowering.head(network.head, x);
  return lowering.finish();
}

Graph lower(const Unit& unit, std::string_view prefix) {
  Lowering lowering;
  const int x = lowering.input({unit.h_in, unit.h_in, unit.c_in});
  lowering.unit(unit, std::string(prefix) + ".", x);
  return lowering.finish();
}

}  // namespace chanas
