#include "chanas/measure/worker/worker.h"

#include <fmt/format.h>

#include <cstdio>
#include <iterator>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>

#include "chanas/base/stats.h"
#include "chanas/measure/protocol.h"
#include "chanas/measure/worker/fault.h"

namespace chanas {
namespace {

// Kernels that are kept; the parent uses their names again for every batch, ascending, so that
// those with larger names than the newest are the ones it has given up on.
constexpr size_t kKeptKernels = 256;

// The canary's calls; the median of their later half is its time.
constexpr int kCanaryCalls = 20;

int64_t resident_bytes() {
  long pages = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return int64_t{resident} * 4096;
}

StatusOr<int64_t> integer(const Json& request, const char* key, int64_t low, int64_t high) {
  auto it = request.find(key);
  if (it != request.end() && it->is_number_integer()) {
    int64_t value = it->get<int64_t>();
    if (value >= low && value <= high) return value;
  }
  return absl::InvalidArgumentError(
      fmt::format("request: \"{}\" is not a whole number from {} to {}", key, low, high));
}

StatusOr<std::string> text(const Json& request, const char* key) {
  auto it = request.find(key);
  if (it != request.end() && it->is_string()) return it->get<std::string>();
  return absl::InvalidArgumentError(fmt::format("request: \"{}\" is not a text", key));
}

// [[begin, bytes, stride], ...]
StatusOr<std::vector<PrefetchRange>> prefetch_ranges(const Json& request) {
  std::vector<PrefetchRange> ranges;
  for (const Json& range : request.value("prefetch", Json::array())) {
    const auto valid = [](const Json& bytes) {
      return bytes.is_number_integer() && bytes >= 0 && bytes <= int64_t{1} << 30;
    };
    if (!range.is_array() || range.size() != 3 || !std::ranges::all_of(range, valid))
      return absl::InvalidArgumentError(
          "request: \"prefetch\" is not a list of [begin, bytes, stride]");
    ranges.push_back({range[0].get<int64_t>(), range[1].get<int64_t>(), range[2].get<int64_t>()});
  }
  return ranges;
}

Json result_reply(const MeasureResult& result) { return {{"result", to_json(result)}}; }

}  // namespace

Json Worker::serve(const Json& request) {
  StatusOr<Json> reply = dispatch(request);
  Json json = reply.ok() ? *std::move(reply) : Json{{"message", message(reply.status())}};
  json["rss_bytes"] = resident_bytes();
  return json;
}

StatusOr<Json> Worker::dispatch(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(std::string op, text(request, "op"));
  if (op == "hello") return hello(request);
  if (op == "build") return build(request);
  if (op == "run") return run(request);
  if (op == "canary") return canary(request);
  if (op == "network") return network(request);
  if (op == "object") return object(request);
  if (op == "dump") return dump(request);
  return absl::InvalidArgumentError(fmt::format(
      "request: \"{}\" is not known, expected hello, build, run, canary, network, object or dump",
      op));
}

StatusOr<Json> Worker::hello(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(target_, target_from_json(request.value("target", Json())));
  return Json{
      {"protocol", kProtocolVersion}, {"schedule", kScheduleVersion}, {"triple", host_triple()}};
}

StatusOr<Worker::Task> Worker::task(const Json& request) const {
  CHANAS_ASSIGN_OR_RETURN(int64_t threads,
                          integer(request, "threads", 1, CHANAS_RUNTIME_MAX_THREADS));
  CHANAS_ASSIGN_OR_RETURN(Workload workload, workload_from_json(request.value("workload", Json())));
  Task task;
  CHANAS_ASSIGN_OR_RETURN(task.schedule, schedule_from_json(request.value("schedule", Json())));
  task.space = schedule_space(workload, target_, static_cast<int>(threads));
  CHANAS_RETURN_IF_ERROR(check_legal(task.space, task.schedule));
  return task;
}

StatusOr<Json> Worker::build(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(int64_t name, integer(request, "kernel", 0, INT64_MAX));
  MeasureResult result;
  try {
    StatusOr<Task> made = task(request);
    if (!made.ok()) {
      result.error = TrialError::kIllegal;
      result.message = message(made.status());
      return result_reply(result);
    }
    CHANAS_ASSIGN_OR_RETURN(chanas_runtime * runtime, runtimes_.get(made->space.threads));
    std::unique_ptr<Kernel> kernel = build_kernel(made->space, made->schedule, runtime,
                                                  references_.get(made->space.workload), result);
    if (kernel) {
      kernels_.erase(name);
      while (kernels_.size() >= kKeptKernels) kernels_.erase(std::prev(kernels_.end()));
      kernels_[name] = std::move(kernel);
    }
  } catch (const std::bad_alloc&) {
    result.error = TrialError::kMemory;
    result.message = "out of memory while it was compiled or checked";
  }
  return result_reply(result);
}

StatusOr<Json> Worker::run(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(int64_t name, integer(request, "kernel", 0, INT64_MAX));
  CHANAS_ASSIGN_OR_RETURN(int64_t samples, integer(request, "samples", 1, 1'000'000));
  CHANAS_ASSIGN_OR_RETURN(int64_t cold_bytes, integer(request, "cold_bytes", 0, int64_t{1} << 32));
  auto found = kernels_.find(name);
  if (found == kernels_.end()) {
    return absl::InvalidArgumentError(fmt::format("request: kernel {} was not built here", name));
  }
  Kernel& kernel = *found->second;
  std::string error;
  // A network's stages share memory, so that what fits into the second cache was used not long ago.
  // More is used by its first stages alone, and was touched a network ago.
  const int64_t second_caches = target_.l2_bytes * chanas_runtime_threads(kernel.runtime);
  const auto use = [&](bool large) {
    if ((static_cast<int64_t>(kernel.scratch_bytes) > second_caches) == large)
      use_scratch(kernel.runtime, kernel.scratch_bytes);
    if ((static_cast<int64_t>(kernel.output.size() * sizeof(float)) > second_caches) == large)
      rewrite(kernel.runtime, kernel.output.data(), kernel.output.size());
  };
  TimedCall timed{.call = [&] { return kernel.run(&error); },
                  .prepare =
                      [&] {
                        use(true);
                        cold_.stream(kernel.runtime, cold_bytes);
                        use(false);
                        fetch(kernel.runtime, kernel.weights.data(), kernel.fetching.fetched);
                        for (const FloatBuffer& input : kernel.inputs)
                          rewrite(kernel.runtime, input.data(), input.size());
                      }};
  std::optional<Pinned> pinned;
  if (request.value("pin", Json(true)) == true) pinned.emplace(kernel.runtime);
  return result_reply(time_call(timed, kernel.runtime, static_cast<int>(samples), cold_bytes > 0));
}

StatusOr<Json> Worker::canary(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(int64_t threads,
                          integer(request, "threads", 1, CHANAS_RUNTIME_MAX_THREADS));
  std::unique_ptr<Kernel>& kernel = canaries_[static_cast<int>(threads)];
  if (!kernel) {
    // Arithmetic out of the near caches, for about 0.1 ms on every thread: its time is the clock's.
    // Where a hypervisor moves the cores about, the start of the threads takes from 1 to 10 us,
    // which must not count.
    const Unit unit{.h_in = 14, .c_in = 96, .c_mid = 288 * static_cast<int>(threads), .c_out = 32};
    const ScheduleSpace space = schedule_space(unit_element(unit).cuts[0].groups[0].workload,
                                               target_, static_cast<int>(threads));
    CHANAS_ASSIGN_OR_RETURN(chanas_runtime * runtime, runtimes_.get(space.threads));
    MeasureResult result;
    kernel = build_kernel(space, default_schedule(space), runtime, references_.get(space.workload),
                          result);
    if (!kernel) return absl::InternalError("canary: " + result.message);
  }
  std::optional<Pinned> pinned;
  if (request.value("pin", Json(true)) == true) pinned.emplace(kernel->runtime);
  std::string error;
  std::vector<double> us;
  chanas_runtime_begin(kernel->runtime);
  for (int i = 0; i < kCanaryCalls; ++i) {
    const int64_t start = chanas_now_ns();
    kernel->run(&error);
    if (i >= kCanaryCalls / 2) us.push_back(static_cast<double>(chanas_now_ns() - start) * 1e-3);
  }
  chanas_runtime_end(kernel->runtime);
  return Json{{"us", disturb_canary(median(us))}};
}

StatusOr<Json> Worker::network(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(int64_t samples, integer(request, "samples", 1, 1'000'000));
  CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, plan_from_json(request.value("plan", Json())));
  CHANAS_ASSIGN_OR_RETURN(NetworkMeasurement measured,
                          networks_.measure(plan, static_cast<int>(samples)));
  return Json{{"measurement", to_json(measured)}};
}

StatusOr<Json> Worker::object(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(std::string symbol, text(request, "symbol"));
  CHANAS_ASSIGN_OR_RETURN(std::string path, text(request, "path"));
  CHANAS_ASSIGN_OR_RETURN(Task made, task(request));
  CHANAS_ASSIGN_OR_RETURN(std::vector<PrefetchRange> prefetch, prefetch_ranges(request));
  CHANAS_RETURN_IF_ERROR(
      compile_object(made.space, made.schedule, {.prefetch = std::move(prefetch)}, symbol, path));
  return Json::object();
}

StatusOr<Json> Worker::dump(const Json& request) {
  CHANAS_ASSIGN_OR_RETURN(std::string what, text(request, "what"));
  CHANAS_ASSIGN_OR_RETURN(Task made, task(request));
  if (what != "loop_nest" && what != "lowered") {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" cannot be shown, expected loop_nest or lowered", what));
  }
  CHANAS_ASSIGN_OR_RETURN(std::string shown, what == "lowered"
                                                 ? dump_lowered(made.space, made.schedule)
                                                 : dump_loop_nest(made.space, made.schedule));
  return Json{{"text", shown}};
}

}  // namespace chanas
