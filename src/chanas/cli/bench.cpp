#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/base/stats.h"
#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/cli/model.h"
#include "chanas/deploy/deploy.h"
#include "chanas/graph/onnx.h"
#include "chanas/measure/limits.h"
#include "chanas/tune/latency_table.h"

namespace chanas {
namespace {

struct Flags {
  std::string network = "mobilenet_v3_large";
  DeviceFlags device;
  int repeats = 3, samples = 50;
  bool layers = false, against_default = false;
  std::string onnx, folder, symbol = "model";
};

constexpr uint64_t kWeightSeed = 1;

// Tuned where a store is named, else default schedules.
StatusOr<ExecutionPlan> untuned_plan(const Device& device, const Model& model) {
  CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan,
                          default_plan(model.cut, device.runner->target(), device.plan.threads));
  plan.network = model.name;
  return plan;
}

StatusOr<ExecutionPlan> bench_plan(Device& device, const Model& model) {
  if (!device.store) return untuned_plan(device, model);
  const Target& target = device.runner->target();
  CHANAS_ASSIGN_OR_RETURN(device.key, find_key(device, model.weight_bytes));
  CHANAS_ASSIGN_OR_RETURN(LatencyTable table, LatencyTable::build(*device.store, device.key, target,
                                                                  model.cut.elements));
  return table.plan(model.cut, model.name);
}

Status write_model(const Flags& flags, const Model& model, const ExecutionPlan& plan) {
  const Graph& graph = model.cut.graph;
  if (!flags.onnx.empty()) {
    CHANAS_ASSIGN_OR_RETURN(std::string onnx,
                            to_onnx(graph, random_parameters(graph, kWeightSeed), model.name));
    CHANAS_RETURN_IF_ERROR(write_file_atomic(flags.onnx, onnx));
    log_info("wrote {}", flags.onnx);
  }
  if (flags.folder.empty()) return absl::OkStatus();
  ExportRequest request;
  request.folder = flags.folder;
  request.symbol = flags.symbol;
  request.name = model.name;
  request.graph = graph;
  request.parameters = random_parameters(graph, kWeightSeed);
  request.plan = plan;
  CHANAS_RETURN_IF_ERROR(
      export_network(request, [](const std::string& step) { log_info("  {}", step); }).status());
  log_info("exported to {}", flags.folder);
  return absl::OkStatus();
}

// Where the time goes: rows for people, the same as JSON.
Json stage_report(const ExecutionPlan& plan, const std::vector<double>& stage_us,
                  const MachineLimits& limits, std::vector<std::vector<std::string>>& rows) {
  Json layers = Json::array();
  double sum_us = 0, sum_macs = 0, sum_roofline = 0;
  auto row = [&](const std::string& name, const std::string& what, double us, double work,
                 double roofline) {
    rows.push_back({name, what, fmt::format("{:.1f}", us),
                    fmt::format("{:.1f}", 2e-3 * work / std::max(us, 1e-3)),
                    fmt::format("{:.1f}", roofline),
                    fmt::format("{:.0f} %", 100 * roofline / std::max(us, 1e-3))});
  };
  for (size_t i = 0; i < plan.stages.size() && i < stage_us.size(); ++i) {
    const Stage& stage = plan.stages[i];
    const StageCost cost = stage_cost(plan, stage, limits);
    layers.push_back({{"stage", stage.name},
                      {"workload", stage.workload.describe()},
                      {"us", stage_us[i]},
                      {"macs", cost.macs},
                      {"bytes", cost.bytes},
                      {"roofline_us", cost.roofline_us}});
    row(stage.name, stage.workload.describe(), stage_us[i], cost.macs, cost.roofline_us);
    sum_us += stage_us[i];
    sum_macs += cost.macs;
    sum_roofline += cost.roofline_us;
  }
  row("all", "", sum_us, sum_macs, sum_roofline);
  return layers;
}

Status bench(const Flags& flags, const Globals& globals) {
  CHANAS_ASSIGN_OR_RETURN(Model model, load_model(flags.network));
  CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
  CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, bench_plan(device, model));
  const bool tuned = device.store != nullptr;
  if (flags.against_default && !tuned) {
    return absl::InvalidArgumentError("--against-default compares the schedules of a --store");
  }
  const auto work = static_cast<double>(macs(model.cut.graph));
  log_info("{}: {:.1f}M multiply-adds, {} stages, {} schedules, {} thread(s)", model.name,
           work / 1e6, plan.stages.size(), tuned ? "tuned" : "default", plan.threads);
  CHANAS_RETURN_IF_ERROR(write_model(flags, model, plan));
  if (flags.repeats == 0) return absl::OkStatus();
  std::optional<ExecutionPlan> untuned;
  if (flags.against_default) {
    CHANAS_ASSIGN_OR_RETURN(untuned, untuned_plan(device, model));
  }
  Json repeats = Json::array();
  std::vector<std::vector<std::string>> rows;
  std::vector<double> speedups;
  NetworkMeasurement best;
  for (int i = 0; i < flags.repeats; ++i) {
    CHANAS_ASSIGN_OR_RETURN(NetworkMeasurement m,
                            device.runner->measure_network(plan, flags.samples));
    rows.push_back({std::to_string(i + 1), fmt::format("{:.3f}", m.median_us / 1000),
                    fmt::format("{:.3f}", m.p10_us / 1000), fmt::format("{:.3f}", m.p90_us / 1000),
                    fmt::format("{:.3f}", m.min_us / 1000),
                    fmt::format("{:.1f}", 2e-3 * work / m.median_us)});
    repeats.push_back({{"median_us", m.median_us},
                       {"p10_us", m.p10_us},
                       {"p90_us", m.p90_us},
                       {"min_us", m.min_us}});
    if (i == 0 || m.median_us < best.median_us) best = m;
    if (!untuned) continue;
    CHANAS_ASSIGN_OR_RETURN(const NetworkMeasurement d,
                            device.runner->measure_network(*untuned, flags.samples));
    speedups.push_back(d.median_us / m.median_us);
    rows.back().push_back(fmt::format("{:.3f}", d.median_us / 1000));
    rows.back().push_back(fmt::format("{:.3f}", speedups.back()));
    repeats.back()["default_us"] = d.median_us;
  }
  MachineLimits limits;
  if (flags.layers) limits = measure_limits(plan.target, plan.threads);
  std::vector<std::vector<std::string>> layer_rows;
  Json layers = stage_report(plan, best.stage_us, limits, layer_rows);
  if (globals.json) {
    print_json({{"network", model.name},
                {"threads", plan.threads},
                {"tuned", tuned},
                {"macs", macs(model.cut.graph)},
                {"repeats", repeats},
                {"limits", {{"gflops", limits.gflops}, {"cache_gb_per_s", limits.cache_gb_per_s}}},
                {"layers", layers}});
    return absl::OkStatus();
  }
  std::vector<std::string> header = {"repeat", "median ms", "p10", "p90", "min", "GFLOP/s"};
  if (untuned) header.insert(header.end(), {"default ms", "default / tuned"});
  print_table(header, rows);
  if (untuned) {
    fmt::print("\nover default schedules: {:.3f}x (median of {} turns)\n", median(speedups),
               speedups.size());
    std::fflush(stdout);
  }
  if (flags.layers) {
    fmt::print("\nroofline: {:.0f} GFLOP/s, {:.0f} GB/s from the cache, measured now\n",
               limits.gflops, limits.cache_gb_per_s);
    std::fflush(stdout);
    print_table({"stage", "workload", "us", "GFLOP/s", "roofline us", "reached"}, layer_rows);
  }
  return absl::OkStatus();
}

}  // namespace

void add_bench(CLI::App& app, Cli& cli) {
  CLI::App* sub = add_subcommand(app, cli, "bench", "end-to-end and per-layer latency of a network",
                                 "chanas bench mobilenet_v3_large --threads 2 --layers");
  auto flags = std::make_shared<Flags>();
  sub->add_option("network", flags->network, "network of the zoo, network file or graph file")
      ->capture_default_str();
  sub->add_option("--repeats", flags->repeats, "repetitions; 0: only write what is asked for")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  sub->add_option("--samples", flags->samples, "runs per repetition")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  sub->add_flag("--layers", flags->layers, "time of every stage, against the machine's limits");
  sub->add_flag("--against-default", flags->against_default,
                "measure default schedules too, in turns, and give the ratio");
  sub->add_option("--onnx", flags->onnx,
                  "also write the network (random weights) for other runtimes")
      ->type_name("FILE");
  sub->add_option("--export", flags->folder,
                  "also export it as a C library (the same random weights)")
      ->type_name("DIR");
  sub->add_option("--symbol", flags->symbol,
                  "prefix of the library's C functions and name of its files, so that several fit "
                  "into one program")
      ->capture_default_str();
  add_device_options(sub, flags->device);
  sub->callback(
      [flags, &cli] { cli.action = [flags, &cli] { return bench(*flags, cli.globals); }; });
}

}  // namespace chanas
