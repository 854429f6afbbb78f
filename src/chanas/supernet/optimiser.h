#pragma once
// The update of a step.

#include <span>
#include <vector>

#include "chanas/supernet/supernet.h"

namespace chanas {

// Euclidean norm, summed in double.
double norm_of(std::span<const float> gradients);

// SGD with Nesterov momentum as PyTorch has it, where gradients are set to zero between steps, not
// to none: a weight that no network of the step uses still moves by its momentum and decays.
// `gradients` are scaled first.
void sgd_step(const std::vector<Supernet::Parameter>& parameters, std::span<const float> gradients,
              double gradient_scale, double rate, double momentum, double weight_decay,
              std::span<float> velocity, std::span<float> values);

}  // namespace chanas
