#pragma once
// Tensor-level IR: a directed acyclic graph of float32 operations on batch-1 NHWC activations,
// [h, w, c] per value. Before fusion a convolution, its BN, its activation and the residual are
// ops of their own; the passes (passes.h) fold them into the convolution's epilogue.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chanas/arch/network.h"
#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace chanas {

enum class OpKind {
  kInput,      // a graph input
  kConv2d,     // dense k x k (1x1 and, on a 1x1 map, a linear layer); weight [c_out, c_in, k, k]
  kDepthwise,  // weight [c, 1, k, k]
  kBatchNorm,  // per channel; parameters weight, bias, running_mean, running_var [c]
  kActivation,
  kAdd,         // residual: two inputs of one shape
  kScale,       // inputs x [h, w, c] and gate [1, 1, c]: x * gate
  kGlobalPool,  // mean over h, w: [h, w, c] -> [1, 1, c]
};
// "input", "conv2d", "depthwise", "batch_norm", "activation", "add", "scale", "global_pool".
std::string_view op_kind_name(OpKind kind);
// kConv2d and kDepthwise: the ops with a window, a weight and an epilogue.
bool is_convolution(OpKind kind);

struct Shape {
  int h = 0, w = 0, c = 0;
  int64_t elements() const { return int64_t{h} * w * c; }
  friend bool operator==(const Shape&, const Shape&) = default;
};

// An op makes one value; inputs are indices of earlier ops. After fusion (passes.h) a convolution
// computes act(conv(x) + bias) + residual, where `residual` is an extra last input. Fields that do
// not belong to the op's kind keep their defaults (verify checks it), so equal ops compare equal.
struct Op {
  OpKind kind = OpKind::kInput;
  // Unique in the graph, and the prefix of its parameters: "<name>.weight", "<name>.bias".
  std::string name;
  std::vector<int> inputs;
  Shape shape;  // of the value it makes
  // kConv2d, kDepthwise
  int kernel = 1;  // odd, at most 11
  int stride = 1;  // 1..4; padding is kernel / 2, output ceil(in / stride)
  bool bias = false;
  // kActivation, and the epilogue of convolutions after fusion
  Activation act = Activation::kNone;
  bool residual = false;  // last input is added after the activation
  double epsilon = 1e-5;  // kBatchNorm
  friend bool operator==(const Op&, const Op&) = default;
};

// Ops in topological order; the last op is the output.
struct Graph {
  std::vector<Op> ops;

  int add(Op op);  // returns its index
  const Op& output() const { return ops.back(); }
  std::vector<int> input_ops() const;  // indices of kInput ops, in order
  // Ops that read value `index`, each once, in order.
  std::vector<int> users(int index) const;
  friend bool operator==(const Graph&, const Graph&) = default;
};

// Names are unique, inputs come earlier, and shapes, input counts and fields fit the kind of each
// op; the output is not an input. kInvalidArgument names the op and what does not fit.
Status verify(const Graph& graph);
// Multiply-adds of convolutions; 0 for every other kind.
int64_t macs(const Op& op, const Graph& graph);
int64_t macs(const Graph& graph);
// Without those on padding: what a kernel that skips it has to compute.
int64_t macs_without_padding(const Op& op, const Graph& graph);
int64_t macs_without_padding(const Graph& graph);
// Bytes of parameters as stored (float32), BN's running statistics included.
int64_t weight_bytes(const Graph& graph);

// Readable listing, one op a line.
std::string to_text(const Graph& graph);
// {"ops": [{"kind", "name", "inputs", "shape": [h, w, c], ...}]}; fields at their default are left
// out. Reading is strict: kInvalidArgument for an unknown key (names the nearest), a wrong type or
// range, and everything that verify refuses.
Json to_json(const Graph& graph);
StatusOr<Graph> graph_from_json(const Json& json);

// Lowering, unfused. The network must pass validate(). Ops with parameters are named
//   stem.conv, stem.bn,
//   units.<i>.{expand.conv, expand.bn, depthwise.conv, depthwise.bn, se.reduce, se.expand,
//              project.conv, project.bn},
//   head.conv, head.bn, mix, classifier
// e.g. "units.0.expand.conv.weight", "units.0.expand.bn.running_mean", "classifier.bias". The
// supernet writes a subnet's weights under the same names. The others are named beside them:
// input, units.<i>.{expand.act, depthwise.act, se.pool, se.reduce.act, se.expand.act, se.scale,
// add}, head.act, head.pool, mix.act. Input image is [h, w, network.channels].
Graph lower(const Network& network);
// One unit alone: input [h_in, h_in, c_in], ops "<prefix>.expand.conv" and so on, BN epsilon 1e-5.
Graph lower(const Unit& unit, std::string_view prefix = "unit");

// --- Parameters -------------------------------------------------------------------------------

struct Tensor {
  std::vector<int64_t> shape;  // PyTorch order: conv weight [c_out, c_in / groups, k, k]
  std::vector<float> data;
};

// Name -> tensor, ordered by name (deterministic files).
struct Parameters {
  std::vector<std::pair<std::string, Tensor>> items;  // sorted by name, no name twice
  // Owned by this; null when there is none. Valid until the next set or erase.
  const Tensor* find(std::string_view name) const;
  void set(std::string_view name, Tensor tensor);  // adds or replaces
  void erase(std::string_view name);               // nothing happens when there is none
};

// Names and shapes that a graph needs, in the order of its ops.
std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(const Graph& graph);
// Every needed tensor is there with the right shape and finite values, variances not negative
// (others may be there too). kInvalidArgument names the parameter.
Status check_parameters(const Graph& graph, const Parameters& parameters);
// Normal weights, BN near identity, scaled so that activations stay of the order of one; a tensor
// is a function of the seed, its name and its shape only.
Parameters random_parameters(const Graph& graph, uint64_t seed);

}  // namespace chanas
