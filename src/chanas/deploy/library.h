#pragma once
// Internal to deploy: the C sources of an exported network and how they become a library.

#include <string>
#include <vector>

#include "chanas/deploy/deploy.h"

namespace chanas {

// What the reference run of the exported network gave.
struct Reference {
  std::vector<float> input;   // [h, w, c]
  std::vector<float> output;  // logits
};

std::string display_name(const ExportRequest& request);
// Learned ones: the running statistics of batch normalisation are not counted.
int64_t parameter_count(const Graph& graph);

// Writes <symbol>.h, example.c and src/ (model.c, selftest.c, weights, runtime) into `folder`.
Status write_sources(const ExportRequest& request, const std::vector<StageObject>& stages,
                     const std::vector<float>& weights, const Reference& reference,
                     const std::string& folder);

// Compiles src/ and the stage objects into lib<symbol>.a, lib<symbol>.so and selftest with the
// system's C compiler. kUnavailable when there is none; kInternal with the compiler's own words.
Status build_library(const ExportRequest& request, const std::vector<StageObject>& stages,
                     const std::string& folder);

}  // namespace chanas
