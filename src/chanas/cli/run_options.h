#pragma once
// The flags that `run` and the single-stage commands share.

#include <optional>
#include <string>

#include "chanas/cli/command.h"
#include "chanas/pipeline/pipeline.h"

namespace chanas {

struct RunFlags {
  std::string config, store, from, until;
  std::string run_dir = "runs/demo";
  std::optional<std::string> data, space, device, budget;
  std::optional<double> limit_ms;
  std::optional<int> threads;
  std::optional<uint64_t> seed;
  bool help_config = false;
};

void add_run_options(CLI::App* app, RunFlags& flags);
// File (or the run's stored config), then flags.
StatusOr<PipelineOptions> pipeline_options(const RunFlags& flags, const Globals& globals);
// Runs the pipeline and prints the result when it is finished.
Status run_and_print(const PipelineOptions& options, const Globals& globals);

}  // namespace chanas
