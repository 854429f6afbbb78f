#pragma once
// The update of a step on the CPU.

#include <span>
#include <vector>

#include "chanas/supernet/supernet.h"

namespace chanas {

// Supernet::gradient_norm() and Supernet::update(), on the CPU.
double norm_of(std::span<const float> gradients);
void sgd_step(const std::vector<Supernet::Parameter>& parameters, const SgdStep& step,
              std::span<const float> gradients, std::span<float> velocity, std::span<float> values);

}  // namespace chanas
