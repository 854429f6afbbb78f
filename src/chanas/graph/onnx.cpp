#include "chanas/graph/onnx.h"

#include <fmt/core.h>

#include <climits>

#include "onnx.pb.h"

namespace chanas {
namespace {

constexpr int64_t kIrVersion = 8;  // the one that belongs to opset 17
constexpr int64_t kOpset = 17;

void set_attribute(onnx::NodeProto& node, const char* name, int64_t value) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(onnx::AttributeProto::INT);
  attribute.set_i(value);
}

void set_attribute(onnx::NodeProto& node, const char* name, float value) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(onnx::AttributeProto::FLOAT);
  attribute.set_f(value);
}

void set_attribute(onnx::NodeProto& node, const char* name, const std::vector<int64_t>& values) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(onnx::AttributeProto::INTS);
  attribute.mutable_ints()->Assign(values.begin(), values.end());
}

void set_value_info(onnx::ValueInfoProto& info, const char* name,
                    const std::vector<int64_t>& dims) {
  info.set_name(name);
  auto& type = *info.mutable_type()->mutable_tensor_type();
  type.set_elem_type(onnx::TensorProto::FLOAT);
  for (int64_t size : dims) type.mutable_shape()->add_dim()->set_dim_value(size);
}

class Writer {
 public:
  Writer(onnx::GraphProto& graph, const Parameters& parameters)
      : graph_(graph), parameters_(parameters) {}

  // Adds the nodes of one op; its value becomes that of the last of them. A node that belongs to op
  // "x" and has type T makes the value "x/T", unique because no op gives two nodes of one type.
  void add(const Op& op) {
    if (op.kind == OpKind::kInput) {
      values_.push_back("input");
      return;
    }
    const std::string& x = values_[op.inputs[0]];
    std::string value;
    switch (op.kind) {
      case OpKind::kInput:
      case OpKind::kActivation:
        value = x;
        break;
      case OpKind::kConv2d:
      case OpKind::kDepthwise:
        value = convolution(op, x);
        break;
      case OpKind::kBatchNorm: {
        onnx::NodeProto& node = add_node(op, "BatchNormalization", {x});
        for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"})
          node.add_input(parameter(op.name + part));
        set_attribute(node, "epsilon", static_cast<float>(op.epsilon));
        value = node.output(0);
        break;
      }
      case OpKind::kAdd:
        value = add_node(op, "Add", {x, values_[op.inputs[1]]}).output(0);
        break;
      case OpKind::kScale:
        value = add_node(op, "Mul", {x, values_[op.inputs[1]]}).output(0);
        break;
      case OpKind::kGlobalPool:
        value = add_node(op, "GlobalAveragePool", {x}).output(0);
        break;
    }
    value = activation(op, value);
    if (op.residual) value = add_node(op, "Add", {value, values_[op.inputs[1]]}).output(0);
    values_.push_back(std::move(value));
  }

  // The last value as the model's output: "Flatten" makes [1, classes] of [1, classes, 1, 1].
  void add_output(const char* type, const char* name) {
    onnx::NodeProto& node = *graph_.add_node();
    node.set_name(name);
    node.set_op_type(type);
    node.add_input(values_.back());
    node.add_output(name);
  }

 private:
  onnx::NodeProto& add_node(const Op& op, const std::string& type,
                            const std::vector<std::string>& inputs) {
    onnx::NodeProto& node = *graph_.add_node();
    node.set_name(op.name + "/" + type);
    node.set_op_type(type);
    for (const std::string& input : inputs) node.add_input(input);
    node.add_output(op.name + "/" + type);
    return node;
  }

  std::string convolution(const Op& op, const std::string& x) {
    const int64_t kernel = op.kernel, stride = op.stride, pad = op.kernel / 2;
    onnx::NodeProto& node = add_node(op, "Conv", {x, parameter(op.name + ".weight")});
    if (op.bias) node.add_input(parameter(op.name + ".bias"));
    set_attribute(node, "kernel_shape", {kernel, kernel});
    set_attribute(node, "strides", {stride, stride});
    set_attribute(node, "pads", {pad, pad, pad, pad});
    set_attribute(node, "group", int64_t{op.kind == OpKind::kDepthwise ? op.shape.c : 1});
    return node.output(0);
  }

  std::string activation(const Op& op, const std::string& x) {
    switch (op.act) {
      case Activation::kNone:
        return x;
      case Activation::kRelu:
        return add_node(op, "Relu", {x}).output(0);
      case Activation::kRelu6:
        return add_node(op, "Clip", {x, constant("relu6.low", 0), constant("relu6.high", 6)})
            .output(0);
      case Activation::kHSwish:
        return add_node(op, "HardSwish", {x}).output(0);
      case Activation::kSigmoid:
        return add_node(op, "Sigmoid", {x}).output(0);
      case Activation::kHSigmoid: {
        onnx::NodeProto& node = add_node(op, "HardSigmoid", {x});
        set_attribute(node, "alpha", 1.0f / 6.0f);
        set_attribute(node, "beta", 0.5f);
        return node.output(0);
      }
    }
    return x;
  }

  std::string parameter(const std::string& name) {
    const Tensor& tensor = *parameters_.find(name);
    return initializer(name, tensor.shape, tensor.data);
  }

  // A scalar that is shared by all its users.
  std::string constant(const std::string& name, float value) {
    for (const onnx::TensorProto& tensor : graph_.initializer())
      if (tensor.name() == name) return name;
    return initializer(name, {}, {value});
  }

  std::string initializer(const std::string& name, const std::vector<int64_t>& shape,
                          const std::vector<float>& data) {
    onnx::TensorProto& tensor = *graph_.add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(onnx::TensorProto::FLOAT);
    tensor.mutable_dims()->Assign(shape.begin(), shape.end());
    tensor.set_raw_data(data.data(), data.size() * sizeof(float));
    return name;
  }

  onnx::GraphProto& graph_;
  const Parameters& parameters_;
  std::vector<std::string> values_;  // name of each op's value
};

}  // namespace

StatusOr<std::string> to_onnx(const Graph& graph, const Parameters& parameters,
                              const std::string& model_name) {
  CHANAS_RETURN_IF_ERROR(verify(graph));
  CHANAS_RETURN_IF_ERROR(check_parameters(graph, parameters));
  if (graph.input_ops() != std::vector<int>{0})
    return absl::InvalidArgumentError(
        fmt::format("onnx: the graph has {} inputs; expected its first op alone, the image",
                    graph.input_ops().size()));
  const Shape& image = graph.ops.front().shape;
  const Shape& last = graph.output().shape;
  const bool is_map = last.h > 1 || last.w > 1;

  onnx::ModelProto model;
  model.set_ir_version(kIrVersion);
  model.set_producer_name("chanas");
  onnx::OperatorSetIdProto& opset = *model.add_opset_import();
  opset.set_domain("");
  opset.set_version(kOpset);
  onnx::GraphProto& proto = *model.mutable_graph();
  proto.set_name(model_name);
  set_value_info(*proto.add_input(), "input", {1, image.c, image.h, image.w});
  if (is_map) {
    set_value_info(*proto.add_output(), "output", {1, last.c, last.h, last.w});
  } else {
    set_value_info(*proto.add_output(), "logits", {1, last.c});
  }
  Writer writer(proto, parameters);
  for (const Op& op : graph.ops) writer.add(op);
  if (is_map) {
    writer.add_output("Identity", "output");
  } else {
    writer.add_output("Flatten", "logits");
  }

  const size_t size = model.ByteSizeLong();
  if (size > INT_MAX)
    return absl::InvalidArgumentError(
        fmt::format("onnx: the model has {} bytes; protobuf allows {}", size, INT_MAX));
  return model.SerializeAsString();
}

}  // namespace chanas
