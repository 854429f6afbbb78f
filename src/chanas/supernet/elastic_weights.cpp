#include "chanas/supernet/elastic_weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "chanas/base/rng.h"

namespace chanas {
namespace {

using Variable = at::Tensor;

// In numbers: matrix products of a GPU read 16 bytes at a time, of bfloat16 too.
constexpr size_t kAlignment = 8;

bool is_statistic(const std::string& name) {
  return name.ends_with(".running_mean") || name.ends_with(".running_var");
}

bool is_scale(const std::string& name) {
  return name.find(".bn.") != std::string::npos && name.ends_with(".weight");
}

std::string transform_name(const std::string& weight, int from, int to) {
  // "units.3.depthwise.conv.weight" -> "units.3.depthwise.transform.7to5"
  const std::string stem = weight.substr(0, weight.rfind(".conv.weight"));
  return fmt::format("{}.transform.{}to{}", stem, from, to);
}

bool is_depthwise(const std::string& name) { return name.ends_with(".depthwise.conv.weight"); }

void add(const std::string& name, const std::vector<int64_t>& shape,
         std::vector<Supernet::Parameter>& parameters) {
  Supernet::Parameter p;
  p.name = name;
  p.shape = shape;
  p.size = 1;
  for (const int64_t extent : shape) p.size *= static_cast<size_t>(extent);
  p.offset = parameters.empty() ? 0 : parameters.back().offset + parameters.back().size;
  p.offset = (p.offset + kAlignment - 1) / kAlignment * kAlignment;
  // Matrices of the kernel transformation start at identity; decay would pull them off it.
  p.decays = shape.size() == 4;
  parameters.push_back(p);
}

// The leading part of a leaf, as a leaf whose gradient is that part of the leaf's: what reaches it
// is added there without a way back through the slicing.
Variable leading_part(const Variable& leaf, const std::vector<int64_t>& shape,
                      const std::string& name) {
  if (leaf.sizes() == at::IntArrayRef(shape)) return leaf;
  const at::NoGradGuard no_gradients;
  Variable part = leaf.detach(), gradient = leaf.grad();
  for (size_t d = 0; d < shape.size(); ++d) {
    const auto dim = static_cast<int64_t>(d);
    CHANAS_CHECK(shape[d] <= leaf.size(dim)) << name;
    if (shape[d] == leaf.size(dim)) continue;
    part = part.narrow(dim, 0, shape[d]);
    gradient = gradient.narrow(dim, 0, shape[d]);
  }
  part.set_requires_grad(true);
  part.mutable_grad() = gradient;
  return part;
}

// Depthwise window [c, 1, k, k] by the chain of transformations.
Variable cut_window(const ArchSpace& space, bool kernel_transform, const Tensors& weights,
                    const std::string& name, const std::vector<int64_t>& shape) {
  const Variable& whole = weights.at(name);
  Variable w = leading_part(whole, {shape[0], 1, whole.size(2), whole.size(3)}, name);
  // The first unit has one window, the elastic ones those of the space.
  for (auto to = space.kernels.rbegin(); to != space.kernels.rend(); ++to) {
    const int64_t from = w.size(3);
    if (*to >= from || from == shape[3]) continue;
    const int64_t margin = (from - *to) / 2;
    w = w.narrow(2, margin, *to).narrow(3, margin, *to);
    if (!kernel_transform) continue;
    const auto matrix = weights.find(transform_name(name, static_cast<int>(from), *to));
    CHANAS_CHECK(matrix != weights.end()) << name << " from " << from << " to " << *to;
    w = at::linear(w.reshape({shape[0], -1}), matrix->second).view({shape[0], 1, *to, *to});
  }
  CHANAS_CHECK(w.size(3) == shape[3]) << name;
  return w;
}

}  // namespace

std::string elastic_name(const ArchSpace& space, const std::string& name, int resolution) {
  const size_t norm = name.find(".bn.");
  if (norm == std::string::npos || space.resolutions.size() == 1) return name;
  // "stem.bn.weight" -> "stem.bn.r24.weight"
  return fmt::format("{}.bn.r{}{}", name.substr(0, norm), resolution, name.substr(norm + 3));
}

std::vector<Supernet::Parameter> elastic_parameters(const ArchSpace& space, const Network& largest,
                                                    bool kernel_transform) {
  std::vector<Supernet::Parameter> parameters;
  for (const auto& [name, shape] : parameter_shapes(lower(largest))) {
    if (is_statistic(name)) continue;
    std::string last;
    for (const int resolution : space.resolutions) {
      const std::string own = elastic_name(space, name, resolution);
      if (own != last) add(own, shape, parameters);
      last = own;
    }
    const size_t first = space.first_channels > 0 ? 1 : 0;
    const bool elastic = is_depthwise(name) && !(first == 1 && name.starts_with("units.0."));
    if (!elastic || !kernel_transform) continue;
    for (size_t k = space.kernels.size(); k-- > 1;) {
      const int from = space.kernels[k], to = space.kernels[k - 1];
      add(transform_name(name, from, to), {int64_t{to} * to, int64_t{to} * to}, parameters);
    }
  }
  return parameters;
}

void initialise(const std::vector<Supernet::Parameter>& parameters, const Network& largest,
                uint64_t seed, std::span<float> values) {
  for (const Supernet::Parameter& p : parameters) {
    float* to = &values[p.offset];
    if (p.shape.size() == 4) {
      Rng rng(seed, p.name);
      const bool classifier = p.name == "classifier.weight";
      const double fan_out =
          static_cast<double>((is_depthwise(p.name) ? 1 : p.shape[0]) * p.shape[2] * p.shape[3]);
      const double deviation = classifier ? 0.01 : std::sqrt(2 / fan_out);
      for (size_t i = 0; i < p.size; ++i) to[i] = static_cast<float>(deviation * rng.normal());
    } else if (p.shape.size() == 2) {
      for (int64_t i = 0; i < p.shape[0]; ++i) to[i * p.shape[0] + i] = 1;
    } else {
      std::fill_n(to, p.size, is_scale(p.name) ? 1.0f : 0.0f);
    }
  }
  for (size_t i = 0; i < largest.units.size(); ++i) {
    if (!largest.units[i].residual) continue;
    for (const Supernet::Parameter& p : parameters) {
      if (is_scale(p.name) && p.name.starts_with(fmt::format("units.{}.project.", i))) {
        std::fill_n(&values[p.offset], p.size, 0.0f);
      }
    }
  }
}

Tensors cut_weights(const ArchSpace& space, bool kernel_transform, const Tensors& weights,
                    const Arch& arch, const Network& network) {
  // Place of each of the network's units in the supernet.
  std::vector<size_t> slots;
  if (space.first_channels > 0) slots.push_back(0);
  const size_t first = slots.size(), depth = static_cast<size_t>(space.max_depth());
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    for (size_t u = 0; u < static_cast<size_t>(arch.depth[b]); ++u) {
      slots.push_back(first + b * depth + u);
    }
  }
  CHANAS_CHECK(slots.size() == network.units.size());
  Tensors tensors;
  for (const auto& [name, shape] : parameter_shapes(lower(network))) {
    if (is_statistic(name)) continue;
    std::string from = name;
    if (name.starts_with("units.")) {
      const size_t dot = name.find('.', 6);
      from =
          fmt::format("units.{}{}", slots[std::stoul(name.substr(6, dot - 6))], name.substr(dot));
    }
    if (is_depthwise(name)) {
      tensors[name] = cut_window(space, kernel_transform, weights, from, shape);
      continue;
    }
    tensors[name] =
        leading_part(weights.at(elastic_name(space, from, arch.cell.resolution)), shape, name);
  }
  return tensors;
}

}  // namespace chanas
