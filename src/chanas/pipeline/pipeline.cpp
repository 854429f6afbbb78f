#include "chanas/pipeline/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/base/log.h"
#include "chanas/base/names.h"
#include "chanas/base/progress.h"
#include "chanas/pipeline/stages.h"

namespace chanas {
namespace {

bool matches(const ConfigKey& key, const std::string& pattern) {
  return pattern == key.section + ".*" || pattern == key.section + "." + key.name;
}

// Keys that say where a stage works, not what comes out.
bool decides_nothing(const ConfigKey& key) {
  return key.section == "train" &&
         (key.name == "device" || key.name == "launcher" || key.name == "max_restarts");
}

// Everything a stage depends on, as text: the values of its keys and the inputs of the stages it
// comes after. Files of data, space and config are named by content where they are files.
std::string stage_inputs(const PipelineStage& stage, const RunConfig& config,
                         const std::map<std::string, std::string>& inputs) {
  std::string text = stage.name;
  for (const ConfigKey& key : config_keys(config)) {
    for (const std::string& pattern : stage.keys) {
      if (matches(key, pattern) && !decides_nothing(key))
        text += fmt::format("\n{}.{}={}", key.section, key.name, key.value);
    }
  }
  for (const std::string& name : stage.after) text += "\n" + name + ":" + inputs.at(name);
  return fingerprint(text);
}

Status check_stage_name(std::string_view flag, const std::string& name) {
  const std::vector<std::string>& names = stage_names();
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      fmt::format("{} \"{}\" is no stage; stages are {}", flag, name, join(names)));
}

// A run directory belongs to one config; another one may go on in it, but is told so.
Status store_config(const RunDirectory& directory, const RunConfig& config) {
  return write_file_atomic(directory.file("config.toml"),
                           "# resolved config of this run\n" + to_toml(config));
}

}  // namespace

const std::vector<PipelineStage>& stages() {
  static const auto& all = *new std::vector<PipelineStage>{
      {"space",
       "space and data",
       {},
       {"run.space", "run.data", "run.seed", "train.builtin_images"},
       run_space_stage},
      {"tune",
       "schedules of every workload",
       {"space"},
       {"run.device", "run.threads", "run.budget", "tune.*"},
       run_tune_stage},
      {"train", "supernet", {"space"}, {"run.budget", "train.*"}, run_train_stage},
      {"narrow",
       "choice of the sub-space",
       {"tune", "train"},
       {"run.limit_ms", "narrow.*", "predict.recalibration_images"},
       run_narrow_stage},
      {"predict", "accuracy predictor", {"narrow"}, {"predict.*"}, run_predict_stage},
      {"search", "evolution", {"predict"}, {"search.*"}, run_search_stage},
      {"verify",
       "measured latency and accuracy of the finalists",
       {"search"},
       {"verify.*"},
       run_verify_stage},
      {"export", "deployable library", {"verify"}, {}, run_export_stage},
      {"report", "report", {"export"}, {}, run_report_stage},
  };
  return all;
}

const std::vector<std::string>& stage_names() {
  static const auto& names = *[] {
    auto* out = new std::vector<std::string>;
    for (const PipelineStage& stage : stages()) out->push_back(stage.name);
    return out;
  }();
  return names;
}

Status run_pipeline(const PipelineOptions& options) {
  CHANAS_RETURN_IF_ERROR(validate(options.config));
  CHANAS_RETURN_IF_ERROR(check_stage_name("--from", options.from));
  CHANAS_RETURN_IF_ERROR(check_stage_name("--until", options.until));
  CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<RunDirectory> directory,
                          RunDirectory::open(options.run_dir));
  CHANAS_RETURN_IF_ERROR(store_config(*directory, options.config));

  StageContext context(options, *directory);
  std::map<std::string, std::string> inputs;
  bool forced = false;
  int number = 0;
  for (const PipelineStage& stage : stages()) {
    ++number;
    forced = forced || stage.name == options.from;
    inputs[stage.name] = stage_inputs(stage, options.config, inputs);
    std::optional<StageRecord> done = directory->stage(stage.name);
    std::string heading =
        fmt::format("[{}/{}] {}: {}", number, stages().size(), stage.name, stage.title);
    if (done && done->inputs == inputs[stage.name] && !forced) {
      log_info("{} (done before, {})", heading, format_duration(done->seconds));
    } else {
      // Networks that cannot exist are refused before anything expensive.
      if (stage.name == "train" || stage.name == "narrow") {
        CHANAS_RETURN_IF_ERROR(check_limit(context));
      }
      log_info("{}", heading);
      auto start = std::chrono::steady_clock::now();
      double before =
          done && done->inputs != inputs[stage.name] ? 0 : directory->spent_before(stage.name);
      Json output = Json::object();
      Status status = check_cancelled();
      if (status.ok()) status = stage.run(context, output);
      double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (!status.ok()) {
        (void)directory->add_spent(stage.name, seconds);
        return absl::IsCancelled(status) ? status : annotate(status, "stage " + stage.name);
      }
      CHANAS_RETURN_IF_ERROR(
          directory->put_stage(stage.name, {inputs[stage.name], before + seconds, output.dump()}));
    }
    if (stage.name == options.until) break;
  }
  return absl::OkStatus();
}

StatusOr<RunConfig> stored_config(const std::string& run_dir) {
  std::string path = join_path(run_dir, "config.toml");
  if (!file_exists(path)) {
    return absl::NotFoundError(
        fmt::format("{} holds no run (no config.toml); start one with: chanas run --run-dir {}",
                    run_dir, run_dir));
  }
  return load_config(path);
}

StatusOr<std::string> read_result(const std::string& run_dir) {
  std::string path = join_path(run_dir, "result.json");
  if (!file_exists(path)) {
    return absl::NotFoundError(
        fmt::format("{} is not finished (no result.json); go on with: chanas run --run-dir {}",
                    run_dir, run_dir));
  }
  return read_file(path);
}

}  // namespace chanas
