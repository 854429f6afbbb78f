#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "chanas/base/rng.h"
#include "chanas/graph/graph.h"

namespace chanas {
namespace {

auto position(auto& items, std::string_view name) {
  return std::ranges::lower_bound(items, name, {},
                                  [](const auto& item) { return std::string_view(item.first); });
}

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

Tensor random_tensor(const std::string& name, const std::vector<int64_t>& shape, uint64_t seed) {
  Rng rng(seed, name);
  Tensor tensor{shape, std::vector<float>(element_count(shape))};
  auto fill = [&](auto draw) {
    for (float& value : tensor.data) value = static_cast<float>(draw());
  };
  if (name.ends_with(".running_var")) {
    fill([&] { return rng.uniform_real(0.8, 1.25); });
  } else if (shape.size() == 4) {
    // He's rule where an activation follows. The linear projections have a quarter of it: the
    // residual sums of a deep network stay of the order of one, where SE gates do not blow up the
    // rounding differences between engines.
    const double gain = name.ends_with("project.conv.weight") ? 0.5 : 2.0;
    const double deviation = std::sqrt(gain / static_cast<double>(shape[1] * shape[2] * shape[3]));
    fill([&] { return deviation * rng.normal(); });
  } else {
    const double centre = name.ends_with(".weight") ? 1.0 : 0.0;
    fill([&] { return centre + 0.1 * rng.normal(); });
  }
  return tensor;
}

}  // namespace

const Tensor* Parameters::find(std::string_view name) const {
  const auto it = position(items, name);
  return it != items.end() && it->first == name ? &it->second : nullptr;
}

void Parameters::set(std::string_view name, Tensor tensor) {
  const auto it = position(items, name);
  if (it != items.end() && it->first == name)
    it->second = std::move(tensor);
  else
    items.emplace(it, std::string(name), std::move(tensor));
}

void Parameters::erase(std::string_view name) {
  const auto it = position(items, name);
  if (it != items.end() && it->first == name) items.erase(it);
}

std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(const Graph& graph) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> result;
  for (const Op& op : graph.ops) {
    if (is_convolution(op.kind)) {
      const int depth = op.kind == OpKind::kConv2d ? graph.ops[op.inputs[0]].shape.c : 1;
      result.push_back({op.name + ".weight", {op.shape.c, depth, op.kernel, op.kernel}});
      if (op.bias) result.push_back({op.name + ".bias", {op.shape.c}});
    } else if (op.kind == OpKind::kBatchNorm) {
      for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"})
        result.push_back({op.name + part, {op.shape.c}});
    }
  }
  return result;
}

Status check_parameters(const Graph& graph, const Parameters& parameters) {
  for (const auto& [name, shape] : parameter_shapes(graph)) {
    const Tensor* tensor = parameters.find(name);
    if (tensor == nullptr)
      return absl::InvalidArgumentError(
          fmt::format("parameter \"{}\" is missing; the graph needs it with shape [{}]", name,
                      fmt::join(shape, ", ")));
    if (tensor->shape != shape)
      return absl::InvalidArgumentError(
          fmt::format("parameter \"{}\" has shape [{}]; expected [{}]", name,
                      fmt::join(tensor->shape, ", "), fmt::join(shape, ", ")));
    if (static_cast<int64_t>(tensor->data.size()) != element_count(shape))
      return absl::InvalidArgumentError(
          fmt::format("parameter \"{}\" holds {} values; its shape [{}] has {}", name,
                      tensor->data.size(), fmt::join(shape, ", "), element_count(shape)));
    if (!std::ranges::all_of(tensor->data, [](float value) { return std::isfinite(value); }))
      return absl::InvalidArgumentError(
          fmt::format("parameter \"{}\" holds a NaN or an infinity; expected finite values", name));
    if (name.ends_with(".running_var") &&
        std::ranges::any_of(tensor->data, [](float value) { return value < 0; }))
      return absl::InvalidArgumentError(
          fmt::format("parameter \"{}\" holds a negative value; a variance is >= 0", name));
  }
  return absl::OkStatus();
}

Parameters random_parameters(const Graph& graph, uint64_t seed) {
  Parameters parameters;
  for (const auto& [name, shape] : parameter_shapes(graph))
    parameters.set(name, random_tensor(name, shape, seed));
  return parameters;
}

}  // namespace chanas
