#include "chanas/graph/graph.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace chanas {
namespace {

// The bounds of networks (arch/network.h): every product of sizes stays inside int64_t.
constexpr int kMaxValueChannels = std::max(kMaxChannels, kMaxClasses);

std::string shape_text(const Shape& shape) {
  return fmt::format("{}x{}x{}", shape.h, shape.w, shape.c);
}

size_t input_count(const Op& op) {
  switch (op.kind) {
    case OpKind::kInput:
      return 0;
    case OpKind::kAdd:
    case OpKind::kScale:
      return 2;
    case OpKind::kConv2d:
    case OpKind::kDepthwise:
      return op.residual ? 2 : 1;
    case OpKind::kBatchNorm:
    case OpKind::kActivation:
    case OpKind::kGlobalPool:
      return 1;
  }
  return 0;
}

Status check_fields(const Op& op) {
  const bool convolution = is_convolution(op.kind);
  if (convolution) {
    if (op.kernel < 1 || op.kernel > kMaxKernel || op.kernel % 2 == 0)
      return absl::InvalidArgumentError(
          fmt::format("kernel {}; expected an odd one of 1..{}", op.kernel, kMaxKernel));
    if (op.stride < 1 || op.stride > kMaxStride)
      return absl::InvalidArgumentError(
          fmt::format("stride {}; expected 1..{}", op.stride, kMaxStride));
  } else if (op.kernel != 1 || op.stride != 1 || op.bias || op.residual) {
    return absl::InvalidArgumentError(
        "kernel, stride, bias or residual is set; only convolutions have them");
  }
  if (op.kind == OpKind::kActivation && op.act == Activation::kNone)
    return absl::InvalidArgumentError("activation \"none\"; expected a function, or no op at all");
  if (op.kind != OpKind::kActivation && !convolution && op.act != Activation::kNone)
    return absl::InvalidArgumentError(
        "act is set; only activations and convolutions apply a function");
  if (op.kind == OpKind::kBatchNorm) {
    if (!std::isfinite(op.epsilon) || op.epsilon <= 0)
      return absl::InvalidArgumentError(fmt::format("epsilon {}; expected > 0", op.epsilon));
  } else if (op.epsilon != Op{}.epsilon) {
    return absl::InvalidArgumentError("epsilon is set; only batch_norm has one");
  }
  return absl::OkStatus();
}

// The shape that the op's inputs and fields imply. Channels of a dense convolution are its own
// choice.
Shape implied_shape(const Op& op, const Graph& graph) {
  if (op.kind == OpKind::kInput) return op.shape;
  const Shape& in = graph.ops[op.inputs[0]].shape;
  switch (op.kind) {
    case OpKind::kConv2d:
      return {strided(in.h, op.stride), strided(in.w, op.stride), op.shape.c};
    case OpKind::kDepthwise:
      return {strided(in.h, op.stride), strided(in.w, op.stride), in.c};
    case OpKind::kGlobalPool:
      return {1, 1, in.c};
    default:
      return in;
  }
}

Status check_op(const Graph& graph, int index) {
  const Op& op = graph.ops[index];
  const size_t expected_inputs = input_count(op);
  if (op.inputs.size() != expected_inputs)
    return absl::InvalidArgumentError(
        fmt::format("{} inputs; a {}{} has {}", op.inputs.size(), op_kind_name(op.kind),
                    op.residual ? " with residual" : "", expected_inputs));
  for (int input : op.inputs)
    if (input < 0 || input >= index)
      return absl::InvalidArgumentError(
          fmt::format("input {}; expected the index of an earlier op", input));
  CHANAS_RETURN_IF_ERROR(check_fields(op));

  const Shape& shape = op.shape;
  if (shape.h < 1 || shape.h > kMaxResolution || shape.w < 1 || shape.w > kMaxResolution ||
      shape.c < 1 || shape.c > kMaxValueChannels || shape.elements() > kMaxElements)
    return absl::InvalidArgumentError(
        fmt::format("shape {}; expected sides of 1..{}, 1..{} channels and at most {} elements",
                    shape_text(shape), kMaxResolution, kMaxValueChannels, kMaxElements));
  if (Shape implied = implied_shape(op, graph); shape != implied)
    return absl::InvalidArgumentError(
        fmt::format("shape {}; its inputs give {}", shape_text(shape), shape_text(implied)));
  if (expected_inputs == 2) {
    const Shape& second = graph.ops[op.inputs[1]].shape;
    const Shape expected = op.kind == OpKind::kScale ? Shape{1, 1, shape.c} : shape;
    if (second != expected)
      return absl::InvalidArgumentError(
          fmt::format("second input is {}; expected {}", shape_text(second), shape_text(expected)));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view op_kind_name(OpKind kind) {
  switch (kind) {
    case OpKind::kInput:
      return "input";
    case OpKind::kConv2d:
      return "conv2d";
    case OpKind::kDepthwise:
      return "depthwise";
    case OpKind::kBatchNorm:
      return "batch_norm";
    case OpKind::kActivation:
      return "activation";
    case OpKind::kAdd:
      return "add";
    case OpKind::kScale:
      return "scale";
    case OpKind::kGlobalPool:
      return "global_pool";
  }
  return "unknown";
}

bool is_convolution(OpKind kind) { return kind == OpKind::kConv2d || kind == OpKind::kDepthwise; }

int Graph::add(Op op) {
  ops.push_back(std::move(op));
  return static_cast<int>(ops.size()) - 1;
}

std::vector<int> Graph::input_ops() const {
  std::vector<int> result;
  for (size_t i = 0; i < ops.size(); ++i)
    if (ops[i].kind == OpKind::kInput) result.push_back(static_cast<int>(i));
  return result;
}

std::vector<int> Graph::users(int index) const {
  std::vector<int> result;
  for (size_t i = 0; i < ops.size(); ++i)
    if (std::ranges::find(ops[i].inputs, index) != ops[i].inputs.end())
      result.push_back(static_cast<int>(i));
  return result;
}

Status verify(const Graph& graph) {
  if (graph.ops.empty())
    return absl::InvalidArgumentError("the graph has no ops; expected an input and an output");
  std::set<std::string_view> names;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const std::string& name = graph.ops[i].name;
    Status status = check_op(graph, static_cast<int>(i));
    if (status.ok() && name.empty())
      status = absl::InvalidArgumentError("no name; expected one that no other op has");
    if (status.ok() && !names.insert(name).second)
      status = absl::InvalidArgumentError("its name is taken by an earlier op");
    if (!status.ok()) return annotate(status, fmt::format("op {} \"{}\"", i, name));
  }
  if (graph.output().kind == OpKind::kInput)
    return absl::InvalidArgumentError(
        fmt::format("op {} \"{}\": the last op is the output, but this is an input",
                    graph.ops.size() - 1, graph.output().name));
  return absl::OkStatus();
}

int64_t macs(const Op& op, const Graph& graph) {
  if (!is_convolution(op.kind)) return 0;
  const int64_t window = int64_t{op.kernel} * op.kernel;
  const int64_t depth = op.kind == OpKind::kConv2d ? graph.ops[op.inputs[0]].shape.c : 1;
  return op.shape.elements() * window * depth;
}

int64_t macs(const Graph& graph) {
  int64_t sum = 0;
  for (const Op& op : graph.ops) sum += macs(op, graph);
  return sum;
}

int64_t macs_without_padding(const Op& op, const Graph& graph) {
  if (!is_convolution(op.kind)) return 0;
  const Shape& in = graph.ops[op.inputs[0]].shape;
  // Of all windows along one axis.
  auto taps_inside = [&](int size, int windows) {
    int64_t taps = 0;
    for (int i = 0; i < windows; ++i) {
      const int first = i * op.stride - op.kernel / 2;
      taps += std::min(first + op.kernel, size) - std::max(first, 0);
    }
    return taps;
  };
  const int64_t depth = op.kind == OpKind::kConv2d ? in.c : 1;
  return taps_inside(in.h, op.shape.h) * taps_inside(in.w, op.shape.w) * op.shape.c * depth;
}

int64_t macs_without_padding(const Graph& graph) {
  int64_t sum = 0;
  for (const Op& op : graph.ops) sum += macs_without_padding(op, graph);
  return sum;
}

int64_t weight_bytes(const Graph& graph) {
  int64_t bytes = 0;
  for (const auto& [name, shape] : parameter_shapes(graph)) {
    int64_t elements = 1;
    for (int64_t size : shape) elements *= size;
    bytes += elements * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

std::string to_text(const Graph& graph) {
  std::string text;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    text +=
        fmt::format("%{} = {} {} [{}]", i, op_kind_name(op.kind), op.name, shape_text(op.shape));
    for (size_t k = 0; k < op.inputs.size(); ++k)
      text += fmt::format("{}%{}", k == 0 ? " of " : ", ", op.inputs[k]);
    if (is_convolution(op.kind)) text += fmt::format(" k{} s{}", op.kernel, op.stride);
    if (op.bias) text += " bias";
    if (op.act != Activation::kNone) text += fmt::format(" {}", activation_name(op.act));
    if (op.residual) text += " residual";
    text += "\n";
  }
  return text;
}

}  // namespace chanas
