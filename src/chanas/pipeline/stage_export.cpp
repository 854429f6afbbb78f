#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/deploy/deploy.h"
#include "chanas/graph/safetensors.h"
#include "chanas/pipeline/stages.h"

namespace chanas {
namespace {

struct Exported {
  Arch arch;
  Network network;
  SubnetExport subnet;
  SelftestResult selftest;
  double default_us = 0;  // the same network, unfused, under default schedules
  Json finalist;
};

// Both libraries take turns, so that a machine that slows down slows both.
constexpr int kTurns = 3;

SelftestResult middle(std::vector<SelftestResult> turns) {
  std::sort(turns.begin(), turns.end(), [](const SelftestResult& a, const SelftestResult& b) {
    return a.median_us < b.median_us;
  });
  return turns[turns.size() / 2];
}

Status measure_libraries(StageContext& context, ExportRequest request, Exported& out) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(Runner * runner, context.runner());
  CHANAS_ASSIGN_OR_RETURN(const LatencyTable* table, context.table());
  std::string tuned = request.folder;
  TemporaryFolder folder("chanas-untuned");
  request.folder = join_path(folder.path(), "export");
  CHANAS_ASSIGN_OR_RETURN(request.plan, table->plan(out.network, false));
  if (runner->target().simulated) {
    CHANAS_ASSIGN_OR_RETURN(NetworkMeasurement untuned, runner->measure_network(request.plan, 1));
    out.default_us = untuned.median_us;
    out.selftest.median_us = out.finalist["median_us"];
    out.selftest.p10_us = out.finalist["p10_us"];
    out.selftest.p90_us = out.finalist["p90_us"];
    return absl::OkStatus();
  }
  CHANAS_RETURN_IF_ERROR(export_network(request, [](const std::string&) {}).status());
  std::vector<SelftestResult> ours, theirs;
  for (int turn = 0; turn < kTurns; ++turn) {
    for (bool is_tuned : {true, false}) {
      CHANAS_ASSIGN_OR_RETURN(
          SelftestResult result,
          run_selftest(is_tuned ? tuned : request.folder, config.threads, config.latency_samples));
      if (!result.correct) {
        return absl::InternalError(fmt::format(
            "the exported library gives wrong results (error {:.2g})", result.max_relative_error));
      }
      (is_tuned ? ours : theirs).push_back(result);
    }
  }
  out.selftest = middle(ours);
  out.default_us = middle(theirs).median_us;
  return absl::OkStatus();
}

// The weights of one finalist, its library, and what the library itself measures.
StatusOr<Exported> export_finalist(StageContext& context, const ArchSpace& space,
                                   const Json& finalist) {
  const RunConfig& config = context.config;
  Exported out;
  out.finalist = finalist;
  CHANAS_ASSIGN_OR_RETURN(out.arch, arch_from_json(space, finalist["arch"]));
  out.network = to_network(space, out.arch);
  CHANAS_ASSIGN_OR_RETURN(
      out.subnet, export_subnet(space, context.data(), context.supernet(), out.arch,
                                context.directory.file("subnet"), config.recalibration_images));
  CHANAS_ASSIGN_OR_RETURN(SafetensorsFile weights, read_safetensors(out.subnet.weights_path));
  CHANAS_ASSIGN_OR_RETURN(const LatencyTable* table, context.table());

  ExportRequest request;
  request.folder = context.directory.file("export");
  request.symbol = config.symbol;
  request.name = out.network.name;
  request.graph = lower(out.network);
  request.parameters = std::move(weights.parameters);
  CHANAS_ASSIGN_OR_RETURN(request.plan, table->plan(out.network));
  request.classes = context.output("space")["classes"].get<std::vector<std::string>>();
  request.expected_us = finalist["median_us"];
  request.expected_p10_us = finalist["p10_us"];
  request.expected_p90_us = finalist["p90_us"];
  request.test_accuracy = out.subnet.accuracy;
  request.provenance = Json({{"arch", finalist["arch"]},
                             {"network", to_json(out.network)},
                             {"seed", config.seed},
                             {"space", space.name}})
                           .dump();
  CHANAS_RETURN_IF_ERROR(
      export_network(request, [](const std::string& step) { log_info("  {}", step); }).status());
  CHANAS_RETURN_IF_ERROR(measure_libraries(context, std::move(request), out));
  return out;
}

Status write_result(StageContext& context, const ArchSpace& space, const Exported& e) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(Runner * runner, context.runner());
  // The ends of the space, for comparison, judged as the winner was: on the test part.
  CHANAS_ASSIGN_OR_RETURN(
      std::vector<double> ends,
      context.evaluate("ends of the space", {smallest(space), largest(space)}, "test", 0));
  Json seconds = Json::object();
  for (const std::string& name : stage_names()) {
    if (auto record = context.directory.stage(name)) seconds[name] = record->seconds;
  }
  Json arch = to_json(e.arch);
  arch["id"] = arch_id(space, e.arch);
  Json result = {
      {"arch", arch},
      {"network", to_json(e.network)},
      {"resolution", e.network.resolution},
      {"macs", macs(e.network)},
      {"params", params(e.network)},
      {"accuracy",
       {{"test", e.subnet.accuracy},
        {"supernet", e.finalist["accuracy"]},
        {"smallest_net", ends[0]},
        {"largest_net", ends[1]}}},
      {"latency_us",
       {{"limit", context.output("narrow")["limit_us"]},
        {"predicted", e.finalist["predicted_us"]},
        {"measured", e.selftest.median_us},
        {"measured_p10", e.selftest.p10_us},
        {"measured_p90", e.selftest.p90_us},
        {"default_schedule", e.default_us}}},
      {"device", to_json(runner->target())},
      {"threads", config.threads},
      {"seconds", seconds},
      {"export", context.directory.file("export")},
      {"seed", config.seed},
      {"versions",
       {{"chanas", CHANAS_VERSION},
        {"schedule", std::to_string(kScheduleVersion)},
        {"store", std::to_string(kStoreSchemaVersion)}}},
  };
  return write_json(context.directory.file("result.json"), result);
}

}  // namespace

Status run_export_stage(StageContext& context, Json& output) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  const Json& verified = context.output("verify");
  double limit_us = verified["limit_us"];
  double least = 0;
  // The library itself has the last word on the limit; the next best finalist takes the place of
  // one that it finds too slow.
  for (const Json& finalist : verified["finalists"]) {
    CHANAS_ASSIGN_OR_RETURN(Exported exported, export_finalist(context, space, finalist));
    double us = exported.selftest.median_us;
    if (us > limit_us) {
      log_warning(
          "the exported library takes {:.4f} ms, over the limit of {:.4f} ms; trying the next "
          "finalist",
          us / 1000, limit_us / 1000);
      least = least == 0 ? us : std::min(least, us);
      continue;
    }
    CHANAS_RETURN_IF_ERROR(write_result(context, space, exported));
    output["arch"] = finalist["arch"];
    output["accuracy"] = exported.subnet.accuracy;
    output["folder"] = context.directory.file("export");
    output["median_us"] = us;
    return absl::OkStatus();
  }
  return absl::OutOfRangeError(
      fmt::format("no finalist's library ran inside {:.3f} ms; the fastest took {:.3f} ms: raise "
                  "the limit, or try again "
                  "on a quieter machine",
                  limit_us / 1000, least / 1000));
}

}  // namespace chanas
