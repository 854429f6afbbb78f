#include "chanas/supernet/optimiser.h"

#include <cmath>

namespace chanas {

double norm_of(std::span<const float> gradients) {
  double square = 0;
  for (const float g : gradients) square += double{g} * double{g};
  return std::sqrt(square);
}

void sgd_step(const std::vector<Supernet::Parameter>& parameters, const SgdStep& step,
              std::span<const float> gradients, std::span<float> velocity,
              std::span<float> values) {
  const auto scale = static_cast<float>(step.gradient_scale), lr = static_cast<float>(step.rate);
  const auto mu = static_cast<float>(step.momentum);
  for (const Supernet::Parameter& p : parameters) {
    const float decay = p.decays ? static_cast<float>(step.weight_decay) : 0.0f;
    for (size_t i = p.offset; i < p.offset + p.size; ++i) {
      const float g = gradients[i] * scale + decay * values[i];
      velocity[i] = mu * velocity[i] + g;
      values[i] -= lr * (g + mu * velocity[i]);
    }
  }
}

}  // namespace chanas
