#include "chanas/supernet/client.h"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "chanas/base/cancellation.h"
#include "chanas/base/child_process.h"
#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/supernet/job.h"

namespace chanas {
namespace {

Json job_of(const ArchSpace& space, const DataConfig& data) {
  return {{"space", to_json(space)}, {"data", to_json(data)}};
}

Status died(const ChildExit& exit) {
  const std::string how = exit.exited ? fmt::format("ended with code {}", exit.code)
                                      : fmt::format("was ended by signal {}", exit.signal);
  const bool killed = !exit.exited && exit.signal == 9;
  return absl::UnavailableError(fmt::format(
      "chanas-nn {} before it was done{}; the same command goes on from the last checkpoint", how,
      killed ? " (out of memory?)" : ""));
}

Status error_of(const Json& event) {
  return Status(static_cast<absl::StatusCode>(event.at("code").get<int>()),
                event.at("message").get<std::string>());
}

// What an interrupted child said before it ended: that its state is saved, unless it is not.
Status last_words(ChildProcess& child) {
  const ChildExit exit = child.wait();
  // Ended by the interruption itself, it had not begun.
  const bool obeyed = exit.exited || exit.signal == SIGINT;
  Status last = obeyed ? absl::CancelledError("interrupted, state saved") : died(exit);
  for (StatusOr<std::string> line = child.read_line(0); line.ok(); line = child.read_line(0)) {
    const StatusOr<Json> event = parse_json(*line);
    if (!event.ok() || !event->is_object()) continue;
    try {
      if (event->value("event", "") != "error") continue;
      const Status error = error_of(*event);
      if (!absl::IsCancelled(error)) last = annotate(error, "interrupted");
    } catch (const Json::exception&) {  // of a launcher
    }
  }
  return last;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

// Runs `<launcher> chanas-nn <job> <path>` and returns its result event. Other events go to
// on_event. `input` is what it finds on its standard input ("-" as path).
StatusOr<Json> run_program(const std::string& job, const std::string& path,
                           const std::string& input, const std::string& program,
                           const std::string& launcher,
                           const std::function<void(const Json&)>& on_event) {
  CHANAS_RETURN_IF_ERROR(check_cancelled());
  const std::string executable =
      program.empty() ? join_path(executable_folder(), "chanas-nn") : program;
  if (!file_exists(executable)) {
    return absl::UnavailableError(fmt::format(
        "{} is missing: this build has no training; build with LibTorch (preset release)",
        executable));
  }
  std::vector<std::string> command = words_of(launcher);
  if (!command.empty()) command.insert(command.begin(), "/usr/bin/env");  // it looks in PATH
  command.insert(command.end(), {executable, job, path});
  CHANAS_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::start(command));
  // One that does not take it is dead, and says so below.
  if (!input.empty()) child.write_line(input).IgnoreError();
  child.close_input();
  for (;;) {
    StatusOr<std::string> line = child.read_line(-1);
    if (absl::IsCancelled(line.status())) {
      // A terminal's Ctrl-C does not reach the child, which has a process group of its own.
      child.interrupt();
      return last_words(child);
    }
    if (!line.ok()) return died(child.wait());
    StatusOr<Json> event = parse_json(*line);
    if (!event.ok() || !event->is_object() || !event->contains("event")) {
      if (!launcher.empty()) {  // of the launcher, or of a rank on another machine
        log_warning_line(*line);
        continue;
      }
      return absl::InternalError(fmt::format("chanas-nn said \"{}\", expected an event", *line));
    }
    try {
      const std::string kind = event->at("event");
      if (kind == "result") {
        child.wait();
        event->erase("event");
        return event;
      }
      if (kind == "error") {
        child.wait();
        return error_of(*event);
      }
      if (kind == "warning") {
        log_warning_line(event->at("text").get<std::string>());
      } else if (kind == "note") {
        log_info("  {}", event->at("text").get<std::string>());
      } else {
        on_event(*event);
      }
    } catch (const Json::exception& error) {
      return absl::InternalError(fmt::format("chanas-nn said \"{}\": {}", *line, error.what()));
    }
  }
}

StatusOr<Json> run_job(const std::string& job, const Json& description, const std::string& program,
                       const std::function<void(const Json&)>& on_event) {
  const std::string text = description.dump(-1, ' ', false, Json::error_handler_t::replace);
  return run_program(job, "-", text, program, "", on_event);
}

template <typename T>
StatusOr<T> parse_result(const Json& json) {
  T result;
  CHANAS_RETURN_IF_ERROR(annotate(from_json(json, result), "result of chanas-nn"));
  return result;
}

void ignore_event(const Json&) {}

StatusOr<TrainResult> run_training(Json job, const TrainConfig& config, const SupernetFiles& files,
                                   const std::function<void(const TrainProgress&)>& on_progress) {
  job["train"] = to_json(config);
  job["folder"] = files.folder;
  Status bad_event;
  const auto on_event = [&](Json event) {
    event.erase("event");
    TrainProgress progress;
    bad_event.Update(from_json(event, progress));
    if (on_progress) on_progress(progress);
  };
  const bool alone = config.launcher.empty();
  const std::string path = join_path(files.folder, "job.json");
  if (!alone) {
    // Where the ranks of other machines see it.
    CHANAS_RETURN_IF_ERROR(make_folder(files.folder));
    CHANAS_RETURN_IF_ERROR(write_json(path, job));
  }
  StatusOr<Json> result;
  for (int attempt = 0;; ++attempt) {
    result = alone ? run_job("train", job, files.program, on_event)
                   : run_program("train", path, "", files.program, config.launcher, on_event);
    const bool lost = absl::IsAborted(result.status()) || absl::IsUnavailable(result.status());
    if (alone || !lost || cancelled() || attempt == config.max_restarts) break;
    log_warning_line(fmt::format("{}; starting all ranks again, {} of {}", message(result.status()),
                                 attempt + 1, config.max_restarts));
    // Killed ranks let go of the folder.
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  CHANAS_RETURN_IF_ERROR(result.status());
  CHANAS_RETURN_IF_ERROR(bad_event);
  return parse_result<TrainResult>(*result);
}

}  // namespace

StatusOr<DataInfo> inspect_data(const ArchSpace& space, const DataConfig& data,
                                const std::string& program) {
  CHANAS_ASSIGN_OR_RETURN(Json result, run_job("data", job_of(space, data), program, ignore_event));
  return parse_result<DataInfo>(result);
}

StatusOr<TrainResult> train_supernet(const ArchSpace& space, const DataConfig& data,
                                     const TrainConfig& config, const SupernetFiles& files,
                                     const std::function<void(const TrainProgress&)>& on_progress) {
  return run_training(job_of(space, data), config, files, on_progress);
}

StatusOr<TrainResult> train_subnet(const ArchSpace& space, const DataConfig& data,
                                   const TrainConfig& config, const Arch& arch,
                                   const SupernetFiles& files,
                                   const std::function<void(const TrainProgress&)>& on_progress) {
  Json job = job_of(space, data);
  job["arch"] = to_json(arch);
  return run_training(std::move(job), config, files, on_progress);
}

StatusOr<std::vector<double>> evaluate_subnets(
    const ArchSpace& space, const DataConfig& data, const SupernetFiles& files,
    const std::vector<Arch>& archs, const EvaluateConfig& config,
    const std::function<void(size_t index, double accuracy)>& on_accuracy) {
  Json job = job_of(space, data);
  job["evaluate"] = to_json(config);
  job["folder"] = files.folder;
  job["archs"] = Json::array();
  for (const Arch& arch : archs) job["archs"].push_back(to_json(arch));
  std::vector<double> accuracies;
  CHANAS_ASSIGN_OR_RETURN(Json result, run_job("evaluate", job, files.program, [&](const Json& e) {
                            accuracies.push_back(e.at("accuracy").get<double>());
                            if (on_accuracy) on_accuracy(accuracies.size() - 1, accuracies.back());
                          }));
  if (accuracies.size() != archs.size()) {
    return absl::InternalError(
        fmt::format("chanas-nn evaluated {} of {} architectures", accuracies.size(), archs.size()));
  }
  return accuracies;
}

StatusOr<PredictorFit> fit_predictor(const ArchSpace& space,
                                     const std::vector<PredictorSample>& samples,
                                     const PredictorConfig& config, const std::string& path,
                                     const std::function<void(double)>& on_progress,
                                     const std::string& program) {
  Json job = {{"space", to_json(space)}, {"predictor", to_json(config)}, {"path", path}};
  job["samples"] = Json::array();
  for (const PredictorSample& sample : samples) {
    job["samples"].push_back({{"arch", to_json(sample.arch)}, {"accuracy", sample.accuracy}});
  }
  CHANAS_ASSIGN_OR_RETURN(Json result,
                          run_job("fit-predictor", job, program, [&](const Json& event) {
                            if (on_progress) on_progress(event.at("share").get<double>());
                          }));
  return parse_result<PredictorFit>(result);
}

StatusOr<SubnetExport> export_subnet(const ArchSpace& space, const DataConfig& data,
                                     const SupernetFiles& files, const Arch& arch,
                                     const std::string& folder, int recalibration_images,
                                     int threads) {
  Json job = job_of(space, data);
  job["folder"] = files.folder;
  job["arch"] = to_json(arch);
  job["to"] = folder;
  job["recalibration_images"] = recalibration_images;
  job["threads"] = threads;
  CHANAS_ASSIGN_OR_RETURN(Json result, run_job("export", job, files.program, ignore_event));
  return parse_result<SubnetExport>(result);
}

}  // namespace chanas
