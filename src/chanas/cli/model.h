#pragma once
// What tune, bench and explain work on: a network of the zoo, a network file, or a graph file.

#include <string>

#include "chanas/base/status.h"
#include "chanas/graph/workload.h"

namespace chanas {

struct Model {
  std::string name;
  CutNetwork cut;            // fused
  int64_t weight_bytes = 0;  // what MeasurePlan::cold_bytes stands for
};

Model model_of(const Network& network);

// A graph file is JSON with the key "ops" (to_json(Graph)), from a layer to a whole network, e.g.
// {"ops": [{"kind": "input", "name": "image", "shape": [28, 28, 80]},
//          {"kind": "conv2d", "name": "conv", "inputs": [0], "shape": [28, 28, 112], "kernel": 3,
//           "bias": true}]}.
// kNotFound and kInvalidArgument as load_network, and what graph_from_json and cut_graph refuse.
StatusOr<Model> load_model(const std::string& name_or_path);

// The same before any pass, structure alone: what explain --passes shows them at work on.
StatusOr<Graph> load_unfused(const std::string& name_or_path);

}  // namespace chanas
