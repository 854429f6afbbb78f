#pragma once
// ONNX writing (opset 17, float32): a graph with its parameters as a model that ONNX Runtime and
// others load. Input "input" [1, C, H, W] (the ONNX world's NCHW), output "logits"
// [1, classes], or "output" [1, C, H, W] where the graph ends in a map.

#include <string>

#include "chanas/graph/graph.h"

namespace chanas {

// Serialised ModelProto. Accepts unfused and fused graphs. kInvalidArgument: the graph does not
// verify, has another input than its first op, a parameter is missing, or the model is over
// protobuf's 2 GB.
StatusOr<std::string> to_onnx(const Graph& graph, const Parameters& parameters,
                              const std::string& model_name);

}  // namespace chanas
