#pragma once
// Graph passes: each takes a graph and its parameters and leaves an equivalent, verified pair.
// A new pass is one function and one line in the list in passes.cpp.

#include <string>
#include <vector>

#include "chanas/graph/graph.h"

namespace chanas {

struct Pass {
  std::string name;
  std::string help;  // what it does, for people
  // `parameters` may be null: the structure alone is transformed (latency needs no weights).
  // Both must be valid (verify, check_parameters).
  Status (*run)(Graph& graph, Parameters* parameters);
};

// In order: fold-batch-norm (BN into the convolution before it, whose parameters become
// "<conv>.weight" and "<conv>.bias"), fuse-activation (into the convolution's epilogue),
// fuse-residual (the add into the projection's epilogue), remove-dead (ops that the output does not
// need, and their parameters; inputs stay).
const std::vector<Pass>& fusion_passes();

// What one pass did: ops before and after it, and its time, in microseconds, without the checks.
struct PassRun {
  std::string name;
  bool disabled = false;
  int ops_before = 0, ops_after = 0;
  double us = 0;
};

// Runs the passes, graph and parameters checked before the first and after each; `disabled` names
// are skipped (kInvalidArgument for an unknown name tells the nearest). After an error the graph
// and the parameters are what the failing pass left and must not be used. `runs`, unless null,
// receives one entry per pass of the list.
Status run_passes(Graph& graph, Parameters* parameters,
                  const std::vector<std::string>& disabled = {},
                  std::vector<PassRun>* runs = nullptr);

// lower() + fusion, structure alone.
Graph fused_graph(const Network& network);
Graph fused_graph(const Unit& unit);

}  // namespace chanas
