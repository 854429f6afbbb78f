#pragma once
// Internal to the pipeline: what stages share, and the table of stages.

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "chanas/measure/measure.h"
#include "chanas/pipeline/config.h"
#include "chanas/pipeline/pipeline.h"
#include "chanas/pipeline/run_directory.h"
#include "chanas/predict/latency.h"
#include "chanas/search/search.h"
#include "chanas/store/store.h"
#include "chanas/supernet/client.h"
#include "chanas/tune/latency_table.h"

namespace chanas {

// What a stage works with. Heavy parts are made on first use and kept. Not thread safe.
class StageContext {
 public:
  StageContext(const PipelineOptions& options, RunDirectory& directory)
      : options(options), config(options.config), directory(directory) {}
  ~StageContext();

  const PipelineOptions& options;
  const RunConfig& config;
  RunDirectory& directory;
  // Of each stage up to the running one: a fingerprint of everything it depends on.
  std::map<std::string, std::string> inputs;

  StatusOr<ArchSpace> space();  // with the classes of the data
  StatusOr<Runner*> runner();
  StatusOr<Store*> store();
  StatusOr<MeasurePlan> measure_plan();
  StatusOr<const LatencyTable*> table();
  StatusOr<const LatencyPredictor*> latency();  // of all cells
  // In microseconds; half-way between the smallest and the largest network when none was given.
  StatusOr<double> limit_us();
  DataConfig data() const;
  TrainConfig training() const;    // settings of the supernet's training
  SupernetFiles supernet() const;  // each training in a folder of its own
  SubSpace chosen_cell();
  // Output of a finished stage; CHECKs that it is finished. Lives as long as the context.
  const Json& output(const std::string& stage);
  // Supernet accuracy of archs; `images` 0: the whole part. Kept in the run directory one by one.
  StatusOr<std::vector<double>> evaluate(const std::string& title, const std::vector<Arch>& archs,
                                         const std::string& part, int64_t images);

 private:
  std::map<std::string, std::unique_ptr<Json>> outputs_;
  std::optional<ArchSpace> space_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<LatencyTable> table_;
  std::unique_ptr<LatencyPredictor> latency_;
};

struct PipelineStage {
  std::string name;
  std::string title;                // for people
  std::vector<std::string> after;   // stages whose outputs it depends on
  std::vector<std::string> leaves;  // files that have to be there for it to count as done
  std::vector<std::string> keys;    // config keys it depends on, "section.name" or "section.*"
  Status (*run)(StageContext& context, Json& output);
};
const std::vector<PipelineStage>& stages();

Status run_space_stage(StageContext& context, Json& output);
Status run_tune_stage(StageContext& context, Json& output);
Status run_train_stage(StageContext& context, Json& output);
Status run_narrow_stage(StageContext& context, Json& output);
Status run_predict_stage(StageContext& context, Json& output);
Status run_search_stage(StageContext& context, Json& output);
Status run_verify_stage(StageContext& context, Json& output);
Status run_export_stage(StageContext& context, Json& output);
Status run_report_stage(StageContext& context, Json& output);

// The evaluators that `latency`, which must outlive them, answers; without accuracy.
Evaluators latency_evaluators(const LatencyPredictor& latency);

// kOutOfRange when no network of the space is inside the limit.
Status check_limit(StageContext& context);

}  // namespace chanas
