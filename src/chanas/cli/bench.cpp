#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "chanas/arch/network.h"
#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/graph/onnx.h"
#include "chanas/graph/passes.h"
#include "chanas/tune/latency_table.h"

namespace chanas {
namespace {

struct Flags {
  std::string network = "mobilenet_v3_large";
  DeviceFlags device;
  int repeats = 3, samples = 50;
  bool layers = false;
  std::string onnx;
};

// Tuned where the store has rows, else default schedules; says which.
StatusOr<ExecutionPlan> bench_plan(Device& device, const Network& network, bool* tuned) {
  CutNetwork cut = cut_network(network);
  *tuned = false;
  if (device.store) {
    CHANAS_ASSIGN_OR_RETURN(device.key, find_key(device, params(network) * int64_t{sizeof(float)}));
    CHANAS_ASSIGN_OR_RETURN(
        LatencyTable table,
        LatencyTable::build(*device.store, device.key, device.runner->target(), cut.elements));
    *tuned = true;
    return table.plan(network);
  }
  return default_plan(cut, device.runner->target(), device.plan.threads);
}

Status bench(const Flags& flags, const Globals& globals) {
  CHANAS_ASSIGN_OR_RETURN(Network network, load_network(flags.network));
  if (!flags.onnx.empty()) {
    Graph graph = lower(network);
    CHANAS_ASSIGN_OR_RETURN(std::string model,
                            to_onnx(graph, random_parameters(graph, 1), network.name));
    CHANAS_RETURN_IF_ERROR(write_file_atomic(flags.onnx, model));
    log_info("wrote {}", flags.onnx);
  }
  CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
  bool tuned = false;
  CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, bench_plan(device, network, &tuned));
  log_info("{}: {:.1f}M multiply-adds, {} stages, {} schedules, {} thread(s)", network.name,
           static_cast<double>(macs(network)) / 1e6, plan.stages.size(),
           tuned ? "tuned" : "default", plan.threads);
  Json repeats = Json::array();
  std::vector<std::vector<std::string>> rows;
  NetworkMeasurement best;
  for (int i = 0; i < flags.repeats; ++i) {
    CHANAS_ASSIGN_OR_RETURN(NetworkMeasurement m,
                            device.runner->measure_network(plan, flags.samples));
    rows.push_back(
        {std::to_string(i + 1), fmt::format("{:.3f}", m.median_us / 1000),
         fmt::format("{:.3f}", m.p10_us / 1000), fmt::format("{:.3f}", m.p90_us / 1000),
         fmt::format("{:.3f}", m.min_us / 1000),
         fmt::format("{:.1f}", 2e-3 * static_cast<double>(macs(network)) / m.median_us)});
    repeats.push_back({{"median_us", m.median_us},
                       {"p10_us", m.p10_us},
                       {"p90_us", m.p90_us},
                       {"min_us", m.min_us}});
    if (i == 0 || m.median_us < best.median_us) best = m;
  }
  Json layers = Json::array();
  std::vector<std::vector<std::string>> layer_rows;
  for (size_t i = 0; i < plan.stages.size() && i < best.stage_us.size(); ++i) {
    const Stage& stage = plan.stages[i];
    double work = static_cast<double>(macs(stage.workload.graph));
    layers.push_back({{"stage", stage.name},
                      {"workload", stage.workload.describe()},
                      {"us", best.stage_us[i]},
                      {"macs", work}});
    layer_rows.push_back({stage.name, stage.workload.describe(),
                          fmt::format("{:.1f}", best.stage_us[i]),
                          fmt::format("{:.1f}", 2e-3 * work / std::max(best.stage_us[i], 1e-3))});
  }
  if (globals.json) {
    print_json({{"network", network.name},
                {"threads", plan.threads},
                {"tuned", tuned},
                {"macs", macs(network)},
                {"repeats", repeats},
                {"layers", layers}});
    return absl::OkStatus();
  }
  print_table({"repeat", "median ms", "p10", "p90", "min", "GFLOP/s"}, rows);
  if (flags.layers) {
    fmt::print("\n");
    std::fflush(stdout);
    print_table({"stage", "workload", "us", "GFLOP/s"}, layer_rows);
  }
  return absl::OkStatus();
}

}  // namespace

void add_bench(CLI::App& app, Cli& cli) {
  CLI::App* sub = add_subcommand(app, cli, "bench", "end-to-end and per-layer latency of a network",
                                 "chanas bench mobilenet_v3_large --threads 2 --layers");
  auto flags = std::make_shared<Flags>();
  sub->add_option("network", flags->network, "network of the zoo, or a network file")
      ->capture_default_str();
  sub->add_option("--repeats", flags->repeats, "repetitions")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  sub->add_option("--samples", flags->samples, "runs per repetition")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  sub->add_flag("--layers", flags->layers, "time of every stage");
  sub->add_option("--onnx", flags->onnx,
                  "also write the network (random weights) for other runtimes")
      ->type_name("FILE");
  add_device_options(sub, flags->device);
  sub->callback(
      [flags, &cli] { cli.action = [flags, &cli] { return bench(*flags, cli.globals); }; });
}

}  // namespace chanas
