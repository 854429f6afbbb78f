#include "chanas/graph/workload.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "chanas/base/fingerprint.h"
#include "chanas/base/names.h"

namespace chanas {
namespace {

// OK when a group can stand alone: inner values are used, and only inside.
Status check_closed(const Graph& graph, const std::vector<int>& ops) {
  if (ops.empty()) return absl::InvalidArgumentError("the group has no ops");
  for (size_t i = 0; i < ops.size(); ++i) {
    if (ops[i] < 0 || ops[i] >= static_cast<int>(graph.ops.size()) ||
        (i > 0 && ops[i] <= ops[i - 1]))
      return absl::InvalidArgumentError("the group's ops are not ascending indices of the graph");
    const Op& op = graph.ops[ops[i]];
    if (op.kind == OpKind::kInput)
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is an input; a group holds the ops that read it", op.name));
    if (i + 1 == ops.size()) break;  // the output may be used anywhere
    const std::vector<int> users = graph.users(ops[i]);
    if (users.empty() || !std::ranges::includes(ops, users))
      return absl::InvalidArgumentError(fmt::format(
          "the value of \"{}\" is not used by the group alone; only its last op makes an output",
          op.name));
  }
  return absl::OkStatus();
}

std::string kind_of(const Op& op) {
  switch (op.kind) {
    case OpKind::kConv2d:
      return fmt::format("conv{0}x{0}", op.kernel);
    case OpKind::kGlobalPool:
      return "pool";
    default:
      return std::string(op_kind_name(op.kind));
  }
}

// Adds an item unless the list already ends in it.
void append(std::vector<std::string>& items, std::string item) {
  if (items.empty() || items.back() != item) items.push_back(std::move(item));
}

}  // namespace

Group make_group(const Graph& graph, const std::vector<int>& ops) {
  const Status status = check_closed(graph, ops);
  CHANAS_CHECK(status.ok()) << status.message();

  Group group;
  group.ops = ops;
  group.output = ops.back();
  std::map<int, int> canonical;  // index in `graph` -> index in the workload
  auto add = [&](int index, Op op) {
    op.name = fmt::format("op{}", group.names.size());
    for (int& input : op.inputs) input = canonical.at(input);
    canonical[index] = group.workload.graph.add(std::move(op));
    group.names.push_back(graph.ops[index].name);
  };
  for (int index : ops) {
    for (int input : graph.ops[index].inputs) {
      if (canonical.contains(input) || std::ranges::binary_search(ops, input)) continue;
      add(input,
          {.kind = OpKind::kInput, .name = "", .inputs = {}, .shape = graph.ops[input].shape});
      group.inputs.push_back(input);
    }
  }
  for (int index : ops) add(index, graph.ops[index]);
  return group;
}

Workload make_workload(const Graph& graph, const std::vector<int>& ops) {
  return make_group(graph, ops).workload;
}

Parameters group_parameters(const Group& group, const Parameters& parameters) {
  Parameters own;
  for (size_t i = 0; i < group.names.size(); ++i) {
    const Op& op = group.workload.graph.ops[i];
    if (!is_convolution(op.kind)) continue;
    auto copy = [&](std::string_view part) {
      const Tensor* tensor = parameters.find(group.names[i] + std::string(part));
      CHANAS_CHECK(tensor != nullptr) << group.names[i] << part << " is missing";
      own.set(op.name + std::string(part), *tensor);
    };
    copy(".weight");
    if (op.bias) copy(".bias");
  }
  return own;
}

std::string Workload::fingerprint() const {
  // One line an op. What is added to Op later is written only where it differs from its default, so
  // that today's work keeps its name.
  std::string text = "workload 1\n";
  for (const Op& op : graph.ops) {
    text += fmt::format("{} {}x{}x{}", op_kind_name(op.kind), op.shape.h, op.shape.w, op.shape.c);
    for (int input : op.inputs) text += fmt::format(" %{}", input);
    if (is_convolution(op.kind)) text += fmt::format(" k{} s{}", op.kernel, op.stride);
    if (op.bias) text += " bias";
    if (op.act != Activation::kNone) text += fmt::format(" {}", activation_name(op.act));
    if (op.residual) text += " residual";
    if (op.kind == OpKind::kBatchNorm) text += fmt::format(" eps{}", op.epsilon);
    text += "\n";
  }
  return chanas::fingerprint(text);
}

std::string Workload::kind() const {
  std::string text;
  for (const Op& op : graph.ops) {
    if (op.kind == OpKind::kInput) continue;
    if (!text.empty()) text += "+";
    text += kind_of(op);
  }
  return text;
}

std::string Workload::describe() const {
  std::vector<std::string> channels, details;
  const Shape* first = nullptr;
  for (const Op& op : graph.ops) {
    if (op.kind == OpKind::kInput) continue;
    const Shape& in = graph.ops[op.inputs[0]].shape;
    if (first == nullptr) {
      first = &in;
      append(channels, std::to_string(in.c));
    }
    append(channels, std::to_string(op.shape.c));
    if (op.kind == OpKind::kDepthwise) append(details, fmt::format("k{}", op.kernel));
    if (op.stride > 1) append(details, fmt::format("s{}", op.stride));
    if (op.act != Activation::kNone) append(details, std::string(activation_name(op.act)));
    if (op.residual) append(details, "residual");
  }
  return fmt::format("{} {}x{} {}{}{}", kind(), first->h, first->w, join(channels, "->"),
                     details.empty() ? "" : " ", join(details, " "));
}

Json to_json(const Workload& workload) { return to_json(workload.graph); }

StatusOr<Workload> workload_from_json(const Json& json) {
  CHANAS_ASSIGN_OR_RETURN(Graph graph, graph_from_json(json));
  std::vector<int> ops;
  for (size_t i = 0; i < graph.ops.size(); ++i)
    if (graph.ops[i].kind != OpKind::kInput) ops.push_back(static_cast<int>(i));
  if (Status status = check_closed(graph, ops); !status.ok()) return annotate(status, "workload");
  Workload workload = make_workload(graph, ops);
  if (workload.graph != graph)
    return absl::InvalidArgumentError(
        "workload is not canonical; expected used inputs first, in order of first use, and ops "
        "named op0, op1, ...");
  return workload;
}

}  // namespace chanas
