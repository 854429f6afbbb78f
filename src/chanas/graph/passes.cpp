#include "chanas/graph/passes.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "chanas/base/names.h"

namespace chanas {
namespace {

// Can absorb an op that follows it: a convolution without epilogue, read by that op alone.
bool absorbs(const Graph& graph, int producer) {
  const Op& op = graph.ops[producer];
  return is_convolution(op.kind) && !op.residual && graph.users(producer).size() == 1;
}

void erase_op(Graph& graph, int index) {
  graph.ops.erase(graph.ops.begin() + index);
  for (Op& op : graph.ops)
    for (int& input : op.inputs)
      if (input > index) --input;
}

// The merged op takes the later place, where all its inputs exist; its earlier half goes away.
void replace_pair(Graph& graph, int earlier, int later, Op merged) {
  graph.ops[later] = std::move(merged);
  erase_op(graph, earlier);
}

// y = (conv(x) + b - mean) * gain + shift with gain = weight / sqrt(var + epsilon).
void fold_parameters(const Op& conv, const Op& bn, Parameters& parameters) {
  const Tensor& gamma = *parameters.find(bn.name + ".weight");
  const Tensor& shift = *parameters.find(bn.name + ".bias");
  const Tensor& mean = *parameters.find(bn.name + ".running_mean");
  const Tensor& variance = *parameters.find(bn.name + ".running_var");
  Tensor weight = *parameters.find(conv.name + ".weight");
  const Tensor* old_bias = conv.bias ? parameters.find(conv.name + ".bias") : nullptr;
  const size_t channels = gamma.data.size();
  const size_t per_channel = weight.data.size() / channels;
  Tensor bias{{static_cast<int64_t>(channels)}, std::vector<float>(channels)};
  for (size_t c = 0; c < channels; ++c) {
    const double gain = gamma.data[c] / std::sqrt(variance.data[c] + bn.epsilon);
    for (size_t i = 0; i < per_channel; ++i) {
      float& value = weight.data[c * per_channel + i];
      value = static_cast<float>(value * gain);
    }
    const double offset = (old_bias ? old_bias->data[c] : 0.0) - mean.data[c];
    bias.data[c] = static_cast<float>(offset * gain + shift.data[c]);
  }
  parameters.set(conv.name + ".weight", std::move(weight));
  parameters.set(conv.name + ".bias", std::move(bias));
  for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"})
    parameters.erase(bn.name + part);
}

Status fold_batch_norm(Graph& graph, Parameters* parameters) {
  for (int i = 0; i < static_cast<int>(graph.ops.size()); ++i) {
    const Op& bn = graph.ops[i];
    if (bn.kind != OpKind::kBatchNorm) continue;
    const int producer = bn.inputs[0];
    Op merged = graph.ops[producer];
    if (!absorbs(graph, producer) || merged.act != Activation::kNone) continue;
    if (parameters != nullptr) fold_parameters(merged, bn, *parameters);
    merged.bias = true;
    replace_pair(graph, producer, i--, std::move(merged));
  }
  return absl::OkStatus();
}

Status fuse_activation(Graph& graph, Parameters*) {
  for (int i = 0; i < static_cast<int>(graph.ops.size()); ++i) {
    const Op& activation = graph.ops[i];
    if (activation.kind != OpKind::kActivation) continue;
    const int producer = activation.inputs[0];
    Op merged = graph.ops[producer];
    if (!absorbs(graph, producer) || merged.act != Activation::kNone) continue;
    merged.act = activation.act;
    replace_pair(graph, producer, i--, std::move(merged));
  }
  return absl::OkStatus();
}

Status fuse_residual(Graph& graph, Parameters*) {
  for (int i = 0; i < static_cast<int>(graph.ops.size()); ++i) {
    const Op& add = graph.ops[i];
    if (add.kind != OpKind::kAdd || add.inputs[0] == add.inputs[1]) continue;
    // Of two convolutions the later one: the other's value is then complete when it runs.
    const auto [other, producer] = std::minmax(add.inputs[0], add.inputs[1]);
    const int chosen = absorbs(graph, producer) ? producer : other;
    if (!absorbs(graph, chosen)) continue;
    Op merged = graph.ops[chosen];
    merged.inputs.push_back(chosen == producer ? other : producer);
    merged.residual = true;
    replace_pair(graph, chosen, i--, std::move(merged));
  }
  return absl::OkStatus();
}

Status remove_dead(Graph& graph, Parameters* parameters) {
  // Backwards: an op's users have gone before it is looked at.
  for (int i = static_cast<int>(graph.ops.size()) - 2; i >= 0; --i) {
    if (graph.ops[i].kind == OpKind::kInput || !graph.users(i).empty()) continue;
    if (parameters != nullptr)
      for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"})
        parameters->erase(graph.ops[i].name + part);
    erase_op(graph, i);
  }
  return absl::OkStatus();
}

Status check(const Graph& graph, const Parameters* parameters) {
  CHANAS_RETURN_IF_ERROR(verify(graph));
  return parameters == nullptr ? absl::OkStatus() : check_parameters(graph, *parameters);
}

Graph fuse(Graph graph) {
  const Status status = run_passes(graph, nullptr);
  CHANAS_CHECK(status.ok()) << status.message();
  return graph;
}

}  // namespace

const std::vector<Pass>& fusion_passes() {
  static const std::vector<Pass> passes = {
      {"fold-batch-norm", "batch norm into weights and bias of the convolution before it",
       fold_batch_norm},
      {"fuse-activation", "activation into the epilogue of the convolution before it",
       fuse_activation},
      {"fuse-residual", "addition into the epilogue of the convolution before it", fuse_residual},
      {"remove-dead", "ops that the output does not need go, with their parameters", remove_dead}};
  return passes;
}

Status run_passes(Graph& graph, Parameters* parameters, const std::vector<std::string>& disabled,
                  std::vector<PassRun>* runs) {
  std::vector<std::string> names;
  for (const Pass& pass : fusion_passes()) names.push_back(pass.name);
  for (const std::string& name : disabled) {
    if (std::ranges::find(names, name) != names.end()) continue;
    const std::string near = nearest_name(name, names);
    return absl::InvalidArgumentError(fmt::format("pass \"{}\" is unknown; {}", name,
                                                  near.empty()
                                                      ? "the passes are " + join(names)
                                                      : fmt::format("did you mean \"{}\"?", near)));
  }
  CHANAS_RETURN_IF_ERROR(check(graph, parameters));
  for (const Pass& pass : fusion_passes()) {
    PassRun run{pass.name};
    run.ops_before = static_cast<int>(graph.ops.size());
    run.disabled = std::ranges::find(disabled, pass.name) != disabled.end();
    if (!run.disabled) {
      const auto start = std::chrono::steady_clock::now();
      Status status = pass.run(graph, parameters);
      const std::chrono::duration<double, std::micro> elapsed =
          std::chrono::steady_clock::now() - start;
      run.us = elapsed.count();
      if (status.ok()) status = check(graph, parameters);
      if (!status.ok()) return annotate(status, "pass " + pass.name);
    }
    run.ops_after = static_cast<int>(graph.ops.size());
    if (runs != nullptr) runs->push_back(std::move(run));
  }
  return absl::OkStatus();
}

Graph fused_graph(const Network& network) { return fuse(lower(network)); }
Graph fused_graph(const Unit& unit) { return fuse(lower(unit)); }

}  // namespace chanas
