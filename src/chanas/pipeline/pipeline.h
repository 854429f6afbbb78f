#pragma once
// The road from images to a deployed network: stages in order, each resumable (architecture in
// docs/architecture.md). A stage is done again only when something it depends on has changed.

#include <string>
#include <vector>

#include "chanas/pipeline/config.h"

namespace chanas {

struct PipelineOptions {
  RunConfig config;
  std::string run_dir;
  std::string store;  // path of the store; empty: "<run dir>/chanas.db"
  // First stage that is done again even when finished; empty: none is forced. What one seed gives
  // once and for all, trained weights and accuracies of networks, is kept.
  std::string from;
  std::string until;  // last stage; empty: all
  bool quiet = false;
};

// "space", "tune", "train", "narrow", "predict", "search", "verify", "export", "report".
const std::vector<std::string>& stage_names();

// Runs what is not finished. Statuses as in base/status.h: kOutOfRange when no network of the space
// can meet the limit (before any training; the message holds the smallest reachable latency),
// kCancelled after Ctrl-C, kAborted when the run directory is in use.
Status run_pipeline(const PipelineOptions& options);

// The config a run directory was started with; kNotFound when it holds no run.
StatusOr<RunConfig> stored_config(const std::string& run_dir);

// Path and text of "<run dir>/result.json"; kNotFound while the run is unfinished.
StatusOr<std::string> read_result(const std::string& run_dir);

}  // namespace chanas
