#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/base/parallel.h"
#include "chanas/base/stats.h"
#include "chanas/measure/drift.h"
#include "chanas/measure/kernel_child.h"
#include "chanas/measure/measure.h"
#include "chanas/measure/protocol.h"

namespace chanas {
namespace {

// A candidate that ends its process may have been the victim of an earlier one; it gets a second
// process of its own.
constexpr int kLives = 2;

// How often a batch is measured while the device does not keep its speed.
constexpr int kBatchAttempts = 3;

constexpr double kSecondsPerStage = 20;

// What became of a candidate when there was no reply.
TrialError error_of(const Status& status) {
  if (status.code() == absl::StatusCode::kDeadlineExceeded) return TrialError::kTimeout;
  if (status.code() == absl::StatusCode::kResourceExhausted) return TrialError::kMemory;
  return TrialError::kCrash;
}

MeasureResult failure(TrialError error, std::string_view text) {
  MeasureResult result;
  result.error = error;
  result.message = text;
  return result;
}

// Medians over passes, of which most must be valid.
MeasureResult over_passes(const std::vector<MeasureResult>& passes) {
  std::vector<double> latency_us, warm_us, samples_us;
  for (const MeasureResult& pass : passes) {
    if (!pass.ok()) continue;
    latency_us.push_back(pass.latency_us);
    warm_us.push_back(pass.warm_us);
    samples_us.insert(samples_us.end(), pass.samples_us.begin(), pass.samples_us.end());
  }
  const bool valid = 2 * latency_us.size() > passes.size();
  MeasureResult result = *std::find_if(passes.begin(), passes.end(),
                                       [&](const auto& pass) { return pass.ok() == valid; });
  if (!valid) return result;
  result.latency_us = median(latency_us);
  result.warm_us = median(warm_us);
  result.samples_us = std::move(samples_us);
  return result;
}

// The "result" of a reply, or what the child says instead.
StatusOr<MeasureResult> result_of(const Json& reply) {
  if (std::string text = reply.value("message", ""); !text.empty()) return absl::AbortedError(text);
  return measure_result_from_json(reply.value("result", Json()));
}

class Children {
 public:
  Children(const std::string& program, const Target& target, const LocalRunnerOptions& options) {
    int count = options.children > 0 ? options.children : target.cores;
    for (int i = 0; i < count; ++i) children_.emplace_back(program, target, options.environment);
  }
  size_t size() const { return children_.size(); }
  KernelChild& operator[](size_t i) { return children_[i]; }

  // work(job, child) for every job in [0, jobs), on all children at once; the first error in the
  // order of the jobs ends it (jobs already begun are finished).
  Status for_each(size_t jobs, const std::function<Status(size_t, size_t)>& work) {
    return chanas::for_each(jobs, size(), work);
  }

 private:
  std::vector<KernelChild> children_;
};

class LocalRunner : public Runner {
 public:
  LocalRunner(const std::string& program, Target target, const LocalRunnerOptions& options)
      : target_(std::move(target)), children_(program, target_, options) {}

  // Finds out at once whether the program works.
  Status start() { return children_[0].ensure(MeasurePlan{}.memory_limit_bytes); }

  const Target& target() const override { return target_; }
  int batch_size() const override { return 4 * static_cast<int>(children_.size()); }
  StatusOr<std::vector<MeasureResult>> measure(std::span<const Candidate> candidates,
                                               const MeasurePlan& plan) override;
  StatusOr<NetworkMeasurement> measure_network(const ExecutionPlan& plan, int samples) override;

 private:
  // A candidate on its way. Its kernel lies in process `generation` of child `child`.
  struct Trial {
    size_t index = 0;
    int deaths = 0;
    bool done = false, built = false;
    int passes = 0;  // timed since it was built
    size_t child = 0;
    int generation = 0;
  };
  Status build(Trial& trial, const Candidate& candidate, const MeasurePlan& plan, size_t child,
               MeasureResult& result);
  Status run(Trial& trial, const MeasurePlan& plan, MeasureResult& result);
  Status run_all(std::span<Trial> trials, const MeasurePlan& plan,
                 std::vector<MeasureResult>& results);
  StatusOr<double> canary(const MeasurePlan& plan);
  StatusOr<double> steady_canary(const MeasurePlan& plan, DriftWatch& watch);
  StatusOr<bool> steadily(const MeasurePlan& plan, const std::function<Status()>& measure);
  static Status settle(Trial& trial, const Status& status, MeasureResult& result);

  Target target_;
  Children children_;
  std::map<int, DriftWatch> watches_;  // by threads
  bool has_canary_ = true;
};

// No reply: an interruption is passed on, the rest is a result, at the latest at the last life.
Status LocalRunner::settle(Trial& trial, const Status& status, MeasureResult& result) {
  if (status.code() == absl::StatusCode::kCancelled) return status;
  trial.built = trial.done = false;
  ++trial.deaths;
  TrialError error = error_of(status);
  if (error != TrialError::kCrash || trial.deaths >= kLives) {
    result = failure(error, message(status));
    trial.done = true;
  }
  return absl::OkStatus();
}

Status LocalRunner::build(Trial& trial, const Candidate& candidate, const MeasurePlan& plan,
                          size_t child, MeasureResult& result) {
  CHANAS_RETURN_IF_ERROR(check_cancelled());
  KernelChild& kernel = children_[child];
  CHANAS_RETURN_IF_ERROR(kernel.ensure(plan.memory_limit_bytes));
  StatusOr<Json> reply = kernel.call("build",
                                     {{"kernel", trial.index},
                                      {"workload", to_json(candidate.workload)},
                                      {"schedule", to_json(candidate.schedule)},
                                      {"threads", plan.threads}},
                                     plan.compile_timeout_s);
  if (!reply.ok()) return settle(trial, reply.status(), result);
  StatusOr<MeasureResult> built = result_of(*reply);
  if (!built.ok()) return settle(trial, built.status(), result);
  result = *std::move(built);
  trial.done = !result.ok();
  trial.built = result.ok();
  trial.passes = 0;
  trial.child = child;
  trial.generation = kernel.generation();
  // What a failed allocation leaves behind is not trusted.
  if (result.error == TrialError::kMemory) kernel.kill();
  return absl::OkStatus();
}

Status LocalRunner::run(Trial& trial, const MeasurePlan& plan, MeasureResult& result) {
  KernelChild& kernel = children_[trial.child];
  StatusOr<Json> reply = kernel.call("run",
                                     {{"kernel", trial.index},
                                      {"samples", plan.samples},
                                      {"cold_bytes", plan.rounded_cold_bytes()},
                                      {"pin", plan.pin}},
                                     plan.run_timeout_s);
  if (!reply.ok()) return settle(trial, reply.status(), result);
  StatusOr<MeasureResult> run = result_of(*reply);
  if (!run.ok()) return settle(trial, run.status(), result);
  run->compile_s = result.compile_s;
  run->relative_error = result.relative_error;
  result = *std::move(run);
  trial.done = true;
  ++trial.passes;
  return absl::OkStatus();
}

// The fixed kernel's time in us; 0 when it could not be had, which says nothing about a candidate.
// One that fails is not tried again: it may take built kernels with it every time.
StatusOr<double> LocalRunner::canary(const MeasurePlan& plan) {
  if (!has_canary_) return 0.0;
  KernelChild& kernel = children_[0];
  CHANAS_RETURN_IF_ERROR(kernel.ensure(plan.memory_limit_bytes));
  StatusOr<Json> reply =
      kernel.call("canary", {{"threads", plan.threads}, {"pin", plan.pin}}, plan.run_timeout_s);
  if (reply.status().code() == absl::StatusCode::kCancelled) return reply.status();
  const Json us = reply.ok() ? reply->value("us", Json()) : Json();
  if (us.is_number() && us.get<double>() > 0) return us.get<double>();
  has_canary_ = false;
  log_warning(
      "the kernel that watches the device's speed fails ({}); measuring goes on without",
      reply.ok() ? reply->value("message", "no time") : std::string(message(reply.status())));
  return 0.0;
}

// The canary's time when the device is as fast as usual, or as slow as it stays.
StatusOr<double> LocalRunner::steady_canary(const MeasurePlan& plan, DriftWatch& watch) {
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  for (;;) {
    CHANAS_ASSIGN_OR_RETURN(const double us, canary(plan));
    if (us == 0) return us;
    const double wait_s = watch.begin(us, now());
    if (wait_s == 0) {
      if (const std::string news = watch.news(now()); !news.empty()) log_warning("{}", news);
      return us;
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(wait_s));
    CHANAS_RETURN_IF_ERROR(check_cancelled());
  }
}

// Measures between two looks at the canary, again while those differ; whether they agreed at last.
StatusOr<bool> LocalRunner::steadily(const MeasurePlan& plan,
                                     const std::function<Status()>& measure) {
  DriftWatch& watch = watches_[plan.threads];
  for (int attempt = 1; attempt <= kBatchAttempts; ++attempt) {
    CHANAS_ASSIGN_OR_RETURN(const double before, steady_canary(plan, watch));
    CHANAS_RETURN_IF_ERROR(measure());
    CHANAS_ASSIGN_OR_RETURN(const double after, canary(plan));
    if (before == 0 || after == 0 || watch.accept(after)) return true;
  }
  return false;
}

// Times what is built.
Status LocalRunner::run_all(std::span<Trial> trials, const MeasurePlan& plan,
                            std::vector<MeasureResult>& results) {
  const auto is_here = [&](const Trial& trial) {
    const KernelChild& kernel = children_[trial.child];
    return trial.built && kernel.running() && kernel.generation() == trial.generation;
  };
  if (std::none_of(trials.begin(), trials.end(), is_here)) return absl::OkStatus();
  CHANAS_ASSIGN_OR_RETURN(const bool steady, steadily(plan, [&]() -> Status {
                            for (Trial& trial : trials) {
                              CHANAS_RETURN_IF_ERROR(check_cancelled());
                              if (is_here(trial))
                                CHANAS_RETURN_IF_ERROR(run(trial, plan, results[trial.index]));
                            }
                            return absl::OkStatus();
                          }));
  if (steady) return absl::OkStatus();
  for (const Trial& trial : trials) {
    MeasureResult& result = results[trial.index];
    if (!trial.built || !result.ok()) continue;
    result.error = TrialError::kUnstable;
    result.message = fmt::format(
        "the device was {} after the measurement than before it, {} times in a row; its clock "
        "changes, or something else runs",
        watches_[plan.threads].describe(), kBatchAttempts);
  }
  return absl::OkStatus();
}

StatusOr<std::vector<MeasureResult>> LocalRunner::measure(std::span<const Candidate> candidates,
                                                          const MeasurePlan& plan) {
  std::vector<MeasureResult> results(candidates.size());
  std::vector<Trial> trials;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto& [workload, schedule] = candidates[i];
    Status legal = check_legal(schedule_space(workload, target_, plan.threads), schedule);
    if (legal.ok()) {
      trials.push_back({.index = i});
    } else {
      results[i] = failure(TrialError::kIllegal, message(legal));
    }
  }
  for (size_t i = 0; i < children_.size(); ++i) children_[i].retire_if_grown();
  // Each round ends at least one trial or takes one of its lives; what a dying process takes with
  // it is built again.
  while (!trials.empty()) {
    CHANAS_RETURN_IF_ERROR(children_.for_each(trials.size(), [&](size_t i, size_t child) {
      Trial& trial = trials[i];
      return build(trial, candidates[trial.index], plan, child, results[trial.index]);
    }));
    const auto batch = static_cast<size_t>(batch_size());
    std::vector<std::vector<MeasureResult>> timed(trials.size());
    for (int pass = 0; pass < std::max(1, plan.passes); ++pass) {
      for (size_t begin = 0; begin < trials.size(); begin += batch) {
        const size_t count = std::min(batch, trials.size() - begin);
        CHANAS_RETURN_IF_ERROR(run_all(std::span(trials).subspan(begin, count), plan, results));
      }
      for (size_t i = 0; i < trials.size(); ++i) {
        Trial& trial = trials[i];
        if (!trial.built) continue;
        if (trial.passes > pass) {
          timed[i].push_back(results[trial.index]);
        } else {  // its process died under another kernel
          trial.built = trial.done = false;
        }
      }
    }
    for (size_t i = 0; i < trials.size(); ++i) {
      if (trials[i].built) results[trials[i].index] = over_passes(timed[i]);
    }
    std::erase_if(trials, [](const Trial& trial) { return trial.done; });
  }
  return results;
}

StatusOr<NetworkMeasurement> LocalRunner::measure_network(const ExecutionPlan& plan, int samples) {
  KernelChild& kernel = children_[0];
  MeasurePlan measure_plan;
  measure_plan.threads = plan.threads;
  const double timeout = 60 + kSecondsPerStage * static_cast<double>(plan.stages.size());
  Json reply;
  const auto run_network = [&]() -> Status {
    Status lost;
    for (int life = 0; life < kLives; ++life) {
      CHANAS_RETURN_IF_ERROR(check_cancelled());
      CHANAS_RETURN_IF_ERROR(kernel.ensure(measure_plan.memory_limit_bytes));
      StatusOr<Json> answer =
          kernel.call("network", {{"plan", to_json(plan)}, {"samples", samples}}, timeout);
      lost = answer.status();
      if (absl::IsCancelled(lost)) return lost;
      if (!lost.ok()) continue;
      reply = *std::move(answer);
      break;
    }
    if (!lost.ok()) {
      return absl::UnavailableError(
          fmt::format("network \"{}\", {} times: {}", plan.network, kLives, message(lost)));
    }
    if (std::string text = reply.value("message", ""); !text.empty()) {
      return absl::InvalidArgumentError(fmt::format("network \"{}\": {}", plan.network, text));
    }
    return absl::OkStatus();
  };
  // A network has no class of failure: what the last attempt found is the answer.
  CHANAS_RETURN_IF_ERROR(steadily(measure_plan, run_network).status());
  return network_measurement_from_json(reply.value("measurement", Json()));
}

}  // namespace

StatusOr<std::unique_ptr<Runner>> make_local_runner(const LocalRunnerOptions& options) {
  CHANAS_ASSIGN_OR_RETURN(Target target, local_target());
  CHANAS_ASSIGN_OR_RETURN(std::string program, find_kernel_program(options));
  auto runner = std::make_unique<LocalRunner>(program, std::move(target), options);
  CHANAS_RETURN_IF_ERROR(runner->start());
  return runner;
}

StatusOr<std::vector<StageObject>> compile_stage_objects(const ExecutionPlan& plan,
                                                         const std::string& prefix,
                                                         const std::string& folder,
                                                         const LocalRunnerOptions& options) {
  // The first stage with a (workload, schedule, prefetch) gives its object to the others.
  std::map<std::tuple<std::string, Schedule, std::vector<PrefetchRange>>, size_t> first;
  std::vector<size_t> distinct, source;
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const Stage& stage = plan.stages[i];
    auto [it, fresh] =
        first.try_emplace({stage.workload.fingerprint(), stage.schedule, stage.prefetch}, i);
    if (fresh) distinct.push_back(i);
    source.push_back(it->second);
  }
  auto object = [&](size_t i) -> StageObject {
    return {fmt::format("{}_stage_{}", prefix, i), join_path(folder, fmt::format("stage_{}.o", i))};
  };
  CHANAS_RETURN_IF_ERROR(make_folder(folder));
  CHANAS_ASSIGN_OR_RETURN(std::string program, find_kernel_program(options));
  LocalRunnerOptions for_cores = options;
  if (for_cores.children == 0) {
    CHANAS_ASSIGN_OR_RETURN(Target here, local_target());
    for_cores.children = here.cores;
  }
  Children children(program, plan.target, for_cores);
  CHANAS_RETURN_IF_ERROR(
      children.for_each(distinct.size(), [&](size_t job, size_t child) -> Status {
        const Stage& stage = plan.stages[distinct[job]];
        auto [symbol, path] = object(distinct[job]);
        CHANAS_RETURN_IF_ERROR(check_cancelled());
        CHANAS_RETURN_IF_ERROR(children[child].ensure(MeasurePlan{}.memory_limit_bytes));
        Json prefetch = Json::array();
        for (const PrefetchRange& range : stage.prefetch)
          prefetch.push_back({range.begin, range.bytes, range.stride});
        StatusOr<Json> reply = children[child].call("object",
                                                    {{"workload", to_json(stage.workload)},
                                                     {"schedule", to_json(stage.schedule)},
                                                     {"threads", plan.threads},
                                                     {"prefetch", prefetch},
                                                     {"symbol", symbol},
                                                     {"path", path}},
                                                    60 + kSecondsPerStage);
        if (!reply.ok()) return annotate(reply.status(), stage.name);
        std::string text = reply->value("message", "");
        if (!text.empty()) return absl::InternalError(fmt::format("{}: {}", stage.name, text));
        return absl::OkStatus();
      }));
  std::vector<StageObject> objects;
  for (size_t i : source) objects.push_back(object(i));
  return objects;
}

StatusOr<std::string> dump_candidate(const Candidate& candidate, const Target& target, int threads,
                                     const std::string& what, const LocalRunnerOptions& options) {
  CHANAS_ASSIGN_OR_RETURN(std::string program, find_kernel_program(options));
  LocalRunnerOptions one = options;
  one.children = 1;
  Children children(program, target, one);
  CHANAS_RETURN_IF_ERROR(children[0].ensure(MeasurePlan{}.memory_limit_bytes));
  CHANAS_ASSIGN_OR_RETURN(Json reply, children[0].call("dump",
                                                       {{"workload", to_json(candidate.workload)},
                                                        {"schedule", to_json(candidate.schedule)},
                                                        {"threads", threads},
                                                        {"what", what}},
                                                       MeasurePlan{}.compile_timeout_s));
  if (std::string text = reply.value("message", ""); !text.empty()) {
    return absl::InvalidArgumentError(text);
  }
  return reply.value("text", "");
}

}  // namespace chanas
