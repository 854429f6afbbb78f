#include "chanas/pipeline/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

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
  return (key.section == "train" &&
          (key.name == "device" || key.name == "launcher" || key.name == "max_restarts")) ||
         (key.section == "data" && (key.name == "memory_mb" || key.name == "max_damaged"));
}

// Of everything a stage depends on: the values of its keys and what the stages before it found.
// The first one names files (space, images) by what they hold now.
StatusOr<std::string> stage_inputs(const PipelineStage& stage, const RunConfig& config,
                                   const std::map<std::string, std::string>& outputs) {
  std::string text = stage.name;
  if (stage.after.empty()) {
    CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(config.space));
    text += "\n" + space_fingerprint(space) + "\n" + files_fingerprint(config.data);
  }
  for (const ConfigKey& key : config_keys(config)) {
    for (const std::string& pattern : stage.keys) {
      if (matches(key, pattern) && !decides_nothing(key))
        text += fmt::format("\n{}.{}={}", key.section, key.name, key.value);
    }
  }
  for (const std::string& name : stage.after) text += "\n" + name + ":" + outputs.at(name);
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

// Another config may go on in a run directory; stages that it changes nothing for are kept.
Status store_config(const RunDirectory& directory, const RunConfig& config) {
  if (StatusOr<RunConfig> before = stored_config(directory.path()); before.ok()) {
    std::vector<ConfigKey> old = config_keys(*before), now = config_keys(config);
    for (size_t i = 0; i < now.size(); ++i) {
      if (now[i].value == old[i].value) continue;
      log_info("{}.{} was {} in this run, now it is {}", now[i].section, now[i].name, old[i].value,
               now[i].value);
    }
  }
  return write_file_atomic(directory.file("config.toml"),
                           "# resolved config of this run\n" + to_toml(config));
}

}  // namespace

const std::vector<PipelineStage>& stages() {
  static const auto& all = *new std::vector<PipelineStage>{
      {"space",
       "space and data",
       {},
       {},
       {"run.space", "run.data", "run.seed", "train.builtin_images", "train.builtin_noise",
        "data.*"},
       run_space_stage},
      {"tune",
       "schedules of every workload",
       {"space"},
       {},
       {"run.device", "run.threads", "run.budget", "tune.*"},
       run_tune_stage},
      {"train", "supernet", {"space"}, {}, {"run.budget", "train.*"}, run_train_stage},
      {"narrow",
       "choice of the sub-space",
       {"tune", "train"},
       {},
       {"run.limit_ms", "narrow.*", "predict.images", "predict.recalibration_images"},
       run_narrow_stage},
      {"predict",
       "accuracy predictor",
       {"narrow"},
       {"predictor.safetensors"},
       {"predict.*"},
       run_predict_stage},
      {"search", "evolution", {"predict"}, {}, {"search.*", "verify.margin"}, run_search_stage},
      {"verify",
       "measured latency and accuracy of the finalists",
       {"search"},
       {},
       {"verify.*"},
       run_verify_stage},
      {"export",
       "deployable library",
       {"verify"},
       {"result.json", "export/manifest.json"},
       {"export.*"},
       run_export_stage},
      {"report", "report", {"export"}, {"report.html"}, {}, run_report_stage},
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
  // A run directory is not made for what cannot run.
  CHANAS_RETURN_IF_ERROR(load_space(options.config.space).status());
  CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<RunDirectory> directory,
                          RunDirectory::open(options.run_dir));
  CHANAS_RETURN_IF_ERROR(store_config(*directory, options.config));

  StageContext context(options, *directory);
  std::map<std::string, std::string> outputs;
  bool forced = false;
  int number = 0;
  for (const PipelineStage& stage : stages()) {
    ++number;
    forced = forced || stage.name == options.from;
    CHANAS_ASSIGN_OR_RETURN(std::string inputs, stage_inputs(stage, options.config, outputs));
    context.inputs[stage.name] = inputs;
    std::optional<StageRecord> done = directory->stage(stage.name);
    bool current = done && done->inputs == inputs &&
                   std::all_of(stage.leaves.begin(), stage.leaves.end(), [&](const auto& file) {
                     return file_exists(directory->file(file));
                   });
    std::string heading =
        fmt::format("[{}/{}] {}: {}", number, stages().size(), stage.name, stage.title);
    if (current && !forced) {
      log_info("{} (done before, {})", heading, format_duration(done->seconds));
    } else {
      // Networks that cannot exist are refused before anything expensive.
      if (stage.name == "train" || stage.name == "narrow") {
        CHANAS_RETURN_IF_ERROR(check_limit(context));
      }
      log_info("{}", heading);
      if (stage.name != "report") directory->remove("result.json");  // of what was there before
      auto start = std::chrono::steady_clock::now();
      double before = done && !current ? 0 : directory->spent_before(stage.name);
      Json output = Json::object();
      Status status = check_cancelled();
      if (status.ok()) status = stage.run(context, output);
      double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (!status.ok()) {
        (void)directory->add_spent(stage.name, seconds);
        return absl::IsCancelled(status) ? status : annotate(status, "stage " + stage.name);
      }
      done = StageRecord{inputs, before + seconds, output.dump()};
      CHANAS_RETURN_IF_ERROR(directory->put_stage(stage.name, *done));
    }
    outputs[stage.name] = fingerprint(done->output);
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
