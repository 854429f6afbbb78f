#include <fmt/core.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "chanas/base/names.h"
#include "chanas/graph/graph.h"

namespace chanas {
namespace {

constexpr OpKind kKinds[] = {OpKind::kInput,      OpKind::kConv2d,    OpKind::kDepthwise,
                             OpKind::kBatchNorm,  OpKind::kAdd,       OpKind::kScale,
                             OpKind::kActivation, OpKind::kGlobalPool};

StatusOr<OpKind> parse_op_kind(std::string_view name) {
  std::vector<std::string> names;
  for (OpKind kind : kKinds) {
    if (name == op_kind_name(kind)) return kind;
    names.emplace_back(op_kind_name(kind));
  }
  return absl::InvalidArgumentError(
      fmt::format("kind \"{}\" is unknown; expected one of {}", name, join(names)));
}

Status wrong_type(std::string_view key, const Json& found, std::string_view expected) {
  return absl::InvalidArgumentError(
      fmt::format("\"{}\" is {}; expected {}", key, found.type_name(), expected));
}

StatusOr<int> read_int(std::string_view key, const Json& value) {
  // Unsigned values above INT64_MAX would wrap in get<int64_t>.
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<uint64_t>() > uint64_t{std::numeric_limits<int>::max()});
  if (!fits || value.get<int64_t>() < std::numeric_limits<int>::min() ||
      value.get<int64_t>() > std::numeric_limits<int>::max())
    return wrong_type(key, value, "an integer of 32 bits");
  return static_cast<int>(value.get<int64_t>());
}

StatusOr<std::vector<int>> read_ints(std::string_view key, const Json& value) {
  if (!value.is_array()) return wrong_type(key, value, "a list of integers");
  std::vector<int> result;
  for (const Json& item : value) {
    CHANAS_ASSIGN_OR_RETURN(int number, read_int(key, item));
    result.push_back(number);
  }
  return result;
}

StatusOr<bool> read_bool(std::string_view key, const Json& value) {
  if (!value.is_boolean()) return wrong_type(key, value, "true or false");
  return value.get<bool>();
}

StatusOr<std::string> read_string(std::string_view key, const Json& value) {
  if (!value.is_string()) return wrong_type(key, value, "a string");
  return value.get<std::string>();
}

Status read_field(const std::string& key, const Json& value, Op& op) {
  if (key == "kind") {
    CHANAS_ASSIGN_OR_RETURN(std::string name, read_string(key, value));
    CHANAS_ASSIGN_OR_RETURN(op.kind, parse_op_kind(name));
  } else if (key == "name") {
    CHANAS_ASSIGN_OR_RETURN(op.name, read_string(key, value));
  } else if (key == "inputs") {
    CHANAS_ASSIGN_OR_RETURN(op.inputs, read_ints(key, value));
  } else if (key == "shape") {
    CHANAS_ASSIGN_OR_RETURN(std::vector<int> sizes, read_ints(key, value));
    if (sizes.size() != 3)
      return absl::InvalidArgumentError(
          fmt::format("\"shape\" has {} numbers; expected [h, w, c]", sizes.size()));
    op.shape = {sizes[0], sizes[1], sizes[2]};
  } else if (key == "kernel") {
    CHANAS_ASSIGN_OR_RETURN(op.kernel, read_int(key, value));
  } else if (key == "stride") {
    CHANAS_ASSIGN_OR_RETURN(op.stride, read_int(key, value));
  } else if (key == "bias") {
    CHANAS_ASSIGN_OR_RETURN(op.bias, read_bool(key, value));
  } else if (key == "act") {
    CHANAS_ASSIGN_OR_RETURN(std::string name, read_string(key, value));
    CHANAS_ASSIGN_OR_RETURN(op.act, parse_activation(name));
  } else if (key == "residual") {
    CHANAS_ASSIGN_OR_RETURN(op.residual, read_bool(key, value));
  } else if (key == "epsilon") {
    if (!value.is_number()) return wrong_type(key, value, "a number");
    op.epsilon = value.get<double>();
  } else {
    const std::string near = nearest_name(key, {"kind", "name", "inputs", "shape", "kernel",
                                                "stride", "bias", "act", "residual", "epsilon"});
    return absl::InvalidArgumentError(
        fmt::format("unknown key \"{}\"{}", key,
                    near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
  }
  return absl::OkStatus();
}

StatusOr<Op> op_from_json(const Json& json) {
  if (!json.is_object()) return wrong_type("op", json, "an object");
  for (const char* key : {"kind", "name", "shape"})
    if (!json.contains(key))
      return absl::InvalidArgumentError(fmt::format("\"{}\" is missing", key));
  Op op;
  for (const auto& [key, value] : json.items()) CHANAS_RETURN_IF_ERROR(read_field(key, value, op));
  return op;
}

}  // namespace

Json to_json(const Graph& graph) {
  const Op defaults;
  Json ops = Json::array();
  for (const Op& op : graph.ops) {
    Json json = {{"kind", op_kind_name(op.kind)},
                 {"name", op.name},
                 {"shape", {op.shape.h, op.shape.w, op.shape.c}}};
    if (!op.inputs.empty()) json["inputs"] = op.inputs;
    if (op.kernel != defaults.kernel) json["kernel"] = op.kernel;
    if (op.stride != defaults.stride) json["stride"] = op.stride;
    if (op.bias) json["bias"] = true;
    if (op.act != Activation::kNone) json["act"] = activation_name(op.act);
    if (op.residual) json["residual"] = true;
    if (op.epsilon != defaults.epsilon) json["epsilon"] = op.epsilon;
    ops.push_back(std::move(json));
  }
  return {{"ops", std::move(ops)}};
}

StatusOr<Graph> graph_from_json(const Json& json) {
  if (!json.is_object()) return wrong_type("graph", json, "an object with \"ops\"");
  for (const auto& [key, value] : json.items())
    if (key != "ops")
      return absl::InvalidArgumentError(
          fmt::format("graph has the unknown key \"{}\"; expected \"ops\" alone", key));
  if (!json.contains("ops")) return absl::InvalidArgumentError("graph: \"ops\" is missing");
  const Json& ops = json["ops"];
  if (!ops.is_array()) return wrong_type("ops", ops, "a list");
  Graph graph;
  for (size_t i = 0; i < ops.size(); ++i) {
    StatusOr<Op> op = op_from_json(ops[i]);
    if (!op.ok()) return annotate(op.status(), fmt::format("op {}", i));
    graph.add(*std::move(op));
  }
  CHANAS_RETURN_IF_ERROR(verify(graph));
  return graph;
}

}  // namespace chanas
