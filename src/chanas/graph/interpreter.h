#pragma once
// The reference interpreter: plain loops, double accumulation. It judges every compiled kernel.

#include <vector>

#include "chanas/graph/graph.h"

namespace chanas {

// Runs an unfused or fused graph. `inputs` are the kInput values in order, each [h, w, c] dense
// NHWC. Returns every op's value when `all` is set, else one element, the output; back() is the
// output in both cases. Values are rounded to float32 once per op. The graph must pass verify, the
// parameters check_parameters and the inputs have the sizes of their ops (all checked: a violation
// is a bug of the caller). About 20 M multiply-adds in 20 ms; thread safe.
std::vector<std::vector<float>> interpret(const Graph& graph, const Parameters& parameters,
                                          const std::vector<std::vector<float>>& inputs,
                                          bool all = false);

// Scalar activation, the definition everyone shares: hswish x * relu6(x + 3) / 6, hsigmoid
// relu6(x + 3) / 6.
double apply_activation(Activation activation, double x);

// max |a - reference| / max(1, max |reference|) over all elements, so that "<= tolerance" is the
// usual mixed check; infinity when either holds a NaN or infinity. Sizes must be equal (checked).
double max_relative_error(const std::vector<float>& a, const std::vector<float>& reference);

}  // namespace chanas
