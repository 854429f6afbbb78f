#pragma once
// Networks for tests: small, but with every feature that a lowering, a pass or a cut must handle.

#include <string>
#include <vector>

#include "chanas/arch/network.h"
#include "chanas/base/rng.h"
#include "chanas/graph/graph.h"

namespace chanas {

inline constexpr Activation kAllActivations[] = {Activation::kNone,    Activation::kRelu,
                                                 Activation::kRelu6,   Activation::kHSwish,
                                                 Activation::kSigmoid, Activation::kHSigmoid};

// A unit with every choice drawn: kernels 1-7, strides 1-3, SE, expansion, residual, activations.
Unit random_unit(Rng& rng, int h_in, int c_in);
// A stem, a few random units and a head with or without its parts; validate() accepts it.
Network random_network(Rng& rng);
// The same chain at another image size (zoo networks at a size that the interpreter is quick for).
Network at_resolution(Network network, int resolution);
// Standard normal values.
std::vector<float> random_values(const Shape& shape, Rng& rng);

}  // namespace chanas
