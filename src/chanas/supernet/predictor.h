#pragma once
// Fitting the accuracy predictor: a multi-layer perceptron on the arch encoding (paper section 5).

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "chanas/supernet/client.h"

namespace chanas {

// See fit_predictor in client.h. Deterministic for a seed and a number of threads.
StatusOr<PredictorFit> fit(const ArchSpace& space, const std::vector<PredictorSample>& samples,
                           const PredictorConfig& config, const std::string& path,
                           const std::function<void(double)>& on_progress);

}  // namespace chanas
