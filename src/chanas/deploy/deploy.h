#pragma once
// Export: a folder that a C programmer can use without knowing CHaNAS. Layout in deploy/README.md:
//   model.h libmodel.a libmodel.so model.onnx graph.json weights.safetensors manifest.json
//   plan.json selftest example.c src/ (generated C, runtime sources, objects) report.html (by the
//   pipeline)

#include <functional>
#include <string>
#include <vector>

#include "chanas/graph/graph.h"
#include "chanas/measure/measure.h"

namespace chanas {

struct ExportRequest {
  std::string folder;                // new, empty or an earlier export; replaced as a whole
  std::string symbol = "model";      // prefix of C symbols: [a-z][a-z0-9_]*
  std::string name;                  // of the network, for people; empty: the symbol
  Graph graph;                       // one input; unfused or fused
  Parameters parameters;             // of the graph, BN statistics final
  ExecutionPlan plan;                // of the fused graph
  std::vector<std::string> classes;  // names, may be empty
  double expected_us = 0, expected_p10_us = 0,
         expected_p90_us = 0;  // measured end to end; 0: unknown
  double test_accuracy = 0;    // 0: unknown
  std::string provenance;      // JSON text put under "provenance" in the manifest
};

struct ExportResult {
  std::string folder;
  std::vector<std::string> files;  // relative, with checksums in manifest.json
  int64_t library_bytes = 0, weight_bytes = 0;
};

// kInvalidArgument when C functions cannot begin with `symbol`.
Status check_symbol(const std::string& symbol);

// kUnavailable when the C compiler is missing (names it and how to install it), kInvalidArgument
// when parameters or symbol do not fit or the folder holds anything but an export,
// kResourceExhausted on a full disk; an existing folder is untouched unless the new one is
// complete.
StatusOr<ExportResult> export_network(const ExportRequest& request,
                                      const std::function<void(const std::string&)>& progress);

// What `selftest --json` of an exported folder prints.
struct SelftestResult {
  bool correct = false;
  double max_relative_error = 0;
  double median_us = 0, p10_us = 0, p90_us = 0, min_us = 0;
  int threads = 1;
};
StatusOr<SelftestResult> run_selftest(const std::string& folder, int threads, int samples = 200);

}  // namespace chanas
