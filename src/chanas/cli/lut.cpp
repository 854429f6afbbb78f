#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "chanas/arch/space.h"
#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/base/names.h"
#include "chanas/base/progress.h"
#include "chanas/base/stats.h"
#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/pipeline/pipeline.h"
#include "chanas/predict/lut_check.h"
#include "chanas/store/exchange.h"

namespace chanas {
namespace {

struct Flags {
  DeviceFlags device;
  std::string run_dir, space = "demo", file;
  int rows = 20, networks = 50;
  NetworkCheckOptions network;
  uint64_t seed = 1;
  bool all = false, record = false;
};

// --run-dir stands for its store, device, threads and space.
Status apply_run_dir(Flags& flags) {
  std::string store = kDefaultStore;
  if (!flags.run_dir.empty()) {
    CHANAS_ASSIGN_OR_RETURN(RunConfig config, stored_config(flags.run_dir));
    store = join_path(flags.run_dir, "chanas.db");
    flags.device.device = config.device;
    flags.device.threads = config.threads;
    flags.space = config.space;
  }
  if (flags.device.store.empty()) flags.device.store = store;
  return absl::OkStatus();
}

// Of a database that is to be read: a name misspelt does not make one.
StatusOr<std::unique_ptr<Store>> open_existing(Flags& flags) {
  CHANAS_RETURN_IF_ERROR(apply_run_dir(flags));
  if (!file_exists(flags.device.store)) {
    return absl::NotFoundError(
        fmt::format("{}: no such database; name one with --store, or a run with --run-dir",
                    flags.device.store));
  }
  return Store::open(flags.device.store);
}

// Whole networks from which a boundary term can be fitted on one half and judged on the other.
constexpr size_t kFewestToFit = 20;

std::string age(int64_t time_s) {
  auto now = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  return format_duration(static_cast<double>(now.count() - time_s));
}

Status list(Flags flags, const Globals& globals) {
  CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, open_existing(flags));
  CHANAS_ASSIGN_OR_RETURN(auto keys, store->keys());
  Json json = Json::array();
  for (const auto& [key, count] : keys) {
    CHANAS_ASSIGN_OR_RETURN(std::vector<TuningSummary> rows, store->summaries(key));
    std::vector<std::vector<std::string>> table;
    Json listed = Json::array();
    for (const TuningSummary& row : rows) {
      double gain = row.best_us > 0 && row.default_us > 0 ? row.default_us / row.best_us : 0;
      table.push_back({row.description, fmt::format("{:.2f}", row.best_us),
                       fmt::format("{:.2f}", row.default_us),
                       gain > 0 ? fmt::format("{:.2f}", gain) : "-", std::to_string(row.trials),
                       std::to_string(row.failures), age(row.time_s)});
      listed.push_back({{"workload", row.workload},
                        {"kind", row.kind},
                        {"description", row.description},
                        {"best_us", row.best_us},
                        {"default_us", row.default_us},
                        {"trials", row.trials},
                        {"failures", row.failures},
                        {"time_s", row.time_s}});
    }
    json.push_back({{"device", key.device},
                    {"threads", key.threads},
                    {"plan", key.plan},
                    {"schedule_version", key.schedule_version},
                    {"records", count},
                    {"rows", listed}});
    if (globals.json) continue;
    fmt::print("{}: {} workloads, {} records\n", describe(key), rows.size(), count);
    std::fflush(stdout);
    print_table({"workload", "best us", "default us", "gain", "trials", "failed", "age"}, table);
  }
  if (globals.json) print_json(json);
  return absl::OkStatus();
}

std::vector<std::string> agreement_row(const std::string& what, const Agreement& a) {
  return {what,
          std::to_string(a.count),
          fmt::format("{:.1f} %", a.error * 100),
          fmt::format("{:+.1f} %", a.bias * 100),
          fmt::format("{:.3f}", a.spearman),
          fmt::format("{:.3f}", a.kendall),
          fmt::format("{:.0f} %", a.within_5 * 100),
          fmt::format("{:.0f} %", a.within_10 * 100)};
}

Status check(Flags flags, const Globals& globals) {
  CHANAS_RETURN_IF_ERROR(open_existing(flags).status());
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(flags.space));
  CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
  CHANAS_ASSIGN_OR_RETURN(device.key, find_key(device, typical_weight_bytes(space)));
  BoundaryTerm term;
  if (!flags.run_dir.empty()) {
    // The classifier of the run's networks is its data's.
    CHANAS_ASSIGN_OR_RETURN(Json stage, read_json(join_path(flags.run_dir, "stages/space.json")));
    space.classes = static_cast<int>(stage["output"]["classes"].size());
    CHANAS_ASSIGN_OR_RETURN(Json tuned, read_json(join_path(flags.run_dir, "stages/tune.json")));
    CHANAS_ASSIGN_OR_RETURN(term, boundary_from_json(tuned["output"]["boundary"]));
  }
  CHANAS_ASSIGN_OR_RETURN(LatencyTable table,
                          LatencyTable::build(*device.store, device.key, device.runner->target(),
                                              space_elements(space)));
  RowCheckOptions options;
  options.rows = flags.rows;
  options.seed = flags.seed;
  options.record = flags.record;
  CHANAS_ASSIGN_OR_RETURN(std::vector<RowCheck> rows,
                          check_rows(*device.runner, *device.store, table, device.plan, options));
  // Another stream than the networks that the boundary term was fitted on.
  std::vector<Network> networks =
      random_networks(space, space.cells(), flags.networks, flags.seed + 1000);
  std::vector<NetworkCheck> measured;
  {
    Progress progress("whole networks",
                      static_cast<double>(networks.size()) * flags.network.rounds);
    CHANAS_ASSIGN_OR_RETURN(
        measured, measure_networks(*device.runner, table, networks, flags.network, [&](int done) {
          if (!globals.quiet) progress.update(done);
        }));
  }
  // Without a run's term one is fitted on the first half, and all is judged on the second.
  const bool fit = term.networks == 0 && networks.size() >= kFewestToFit;
  const size_t half = fit ? networks.size() / 2 : 0;
  if (fit) term = check_boundary(measured, static_cast<int>(half)).term;
  const std::span<const NetworkCheck> judged = std::span(measured).subspan(half);
  std::vector<double> spreads;
  for (const NetworkCheck& n : judged) spreads.push_back(n.spread);
  const std::vector<KindCheck> kinds = check_kinds(measured);
  Agreement by_row = agreement(rows), plain = agreement(judged, {}),
            corrected = agreement(judged, term);
  int64_t oldest = 0;
  for (const auto& [key, row] : table.rows()) {
    if (oldest == 0 || row.oldest_s < oldest) oldest = row.oldest_s;
  }
  if (globals.json) {
    Json failures = Json::array();
    for (const RowCheck& row : rows) {
      if (!row.failure.empty()) failures.push_back({row.description, row.failure});
    }
    Json out = {{"rows", to_json(by_row)},   {"row_failures", failures},
                {"sum", to_json(plain)},     {"networks", to_json(corrected)},
                {"boundary", to_json(term)}, {"oldest_row_s", oldest}};
    out["networks"]["mape"] = out["networks"]["error"];
    for (const RowCheck& row : rows) {
      if (row.failure.empty())
        out["row_checks"].push_back({{"workload", row.workload},
                                     {"description", row.description},
                                     {"recorded_us", row.recorded_us},
                                     {"measured_us", row.measured_us}});
    }
    for (size_t i = 0; i < measured.size(); ++i) {
      const NetworkCheck& n = measured[i];
      Json stages = Json::array();
      for (const NetworkCheck::Stage& stage : n.stages) {
        stages.push_back({{"workload", stage.workload},
                          {"kind", stage.kind},
                          {"row_us", stage.row_us},
                          {"inside_us", stage.inside_us}});
      }
      out[i < half ? "fitted" : "judged"].push_back({{"network", n.name},
                                                     {"sum_us", n.rows.total_us()},
                                                     {"predicted_us", apply(term, n.rows)},
                                                     {"measured_us", n.measured_us},
                                                     {"p10_us", n.p10_us},
                                                     {"p90_us", n.p90_us},
                                                     {"rounds_us", n.rounds_us},
                                                     {"spread", n.spread},
                                                     {"stages", stages}});
    }
    for (const KindCheck& kind : kinds) {
      out["kinds"].push_back({{"kind", kind.kind},
                              {"stages", kind.stages},
                              {"row_us", kind.row_us},
                              {"inside_us", kind.inside_us}});
    }
    print_json(out);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> lines = {agreement_row("rows measured again", by_row),
                                                 agreement_row("networks, sum of rows", plain)};
  if (term.networks > 0) lines.push_back(agreement_row("networks, boundary term added", corrected));
  print_table({"predicted against measured", "count", "mean error", "bias", "spearman", "kendall",
               "within 5 %", "within 10 %"},
              lines);
  if (flags.network.rounds > 1 && !spreads.empty()) {
    fmt::print(
        "the same network in {} rounds: slowest over fastest {:+.1f} % (median), {:+.1f} % at "
        "most\n",
        flags.network.rounds, 100 * median(spreads), 100 * percentile(spreads, 1));
  }
  fmt::print("\n");
  std::fflush(stdout);
  std::vector<std::vector<std::string>> kind_lines;
  for (const KindCheck& kind : kinds) {
    kind_lines.push_back({kind.kind, std::to_string(kind.stages),
                          fmt::format("{:.1f}", kind.row_us / kind.stages),
                          fmt::format("{:.1f}", kind.inside_us / kind.stages),
                          fmt::format("{:+.1f} %", 100 * (kind.row_us / kind.inside_us - 1))});
  }
  print_table({"stages inside the networks", "count", "row us", "inside us", "row against inside"},
              kind_lines);
  fmt::print("oldest row: {} old\n", age(oldest));
  for (const RowCheck& row : rows) {
    if (!row.failure.empty()) fmt::print("failed: {}: {}\n", row.description, row.failure);
  }
  return absl::OkStatus();
}

// Tables of older schedules are left out: nothing could read them.
Status export_table(Flags flags, const Globals& globals) {
  CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, open_existing(flags));
  CHANAS_ASSIGN_OR_RETURN(auto keys, store->keys());
  Json tables = Json::array();
  for (const auto& [key, count] : keys) {
    if (key.schedule_version != kScheduleVersion) {
      log_info("left out: {} ({} records); this program makes schedules v{}", describe(key), count,
               kScheduleVersion);
      continue;
    }
    CHANAS_ASSIGN_OR_RETURN(Json rows, export_rows(*store, key, flags.all));
    tables.push_back(std::move(rows));
  }
  CHANAS_RETURN_IF_ERROR(write_json(flags.file, tables));
  if (globals.json) {
    print_json({{"tables", tables.size()}, {"file", flags.file}});
  } else {
    fmt::print("{} table(s) written to {}\n", tables.size(), flags.file);
  }
  return absl::OkStatus();
}

Status import_table(Flags flags, const Globals& globals) {
  CHANAS_RETURN_IF_ERROR(apply_run_dir(flags));
  CHANAS_ASSIGN_OR_RETURN(Json tables, read_json(flags.file));
  if (!tables.is_array()) tables = Json::array({tables});
  CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::open(flags.device.store));
  int64_t added = 0, known = 0;
  for (const Json& table : tables) {
    StatusOr<ImportResult> result = import_rows(*store, table);
    CHANAS_RETURN_IF_ERROR(annotate(result.status(), flags.file));
    added += result->added;
    known += result->known;
  }
  if (globals.json) {
    print_json({{"added", added}, {"known", known}});
  } else {
    fmt::print("{} records added, {} known already\n", added, known);
  }
  return absl::OkStatus();
}

}  // namespace

void add_lut(CLI::App& app, Cli& cli) {
  CLI::App* sub =
      add_subcommand(app, cli, "lut", "the latency table: list, check, export, import",
                     "chanas lut check --run-dir runs/demo\n  chanas lut list --store chanas.db");
  sub->require_subcommand(1);
  auto flags = std::make_shared<Flags>();
  auto command = [&](const std::string& name, const std::string& help, const std::string& example,
                     Status (*action)(Flags, const Globals&)) {
    CLI::App* one = add_subcommand(*sub, cli, name, help, "chanas lut " + name + " " + example);
    one->add_option("--run-dir", flags->run_dir, "the table of this run")->type_name("DIR");
    one->callback([flags, action, &cli] {
      cli.action = [flags, action, &cli] { return action(*flags, cli.globals); };
    });
    return one;
  };
  CLI::App* one =
      command("list", "latency, gain, trials and age of every workload", "--store chanas.db", list);
  add_store_option(one, flags->device);
  one = command("check", "measure a sample of workloads and of whole networks again",
                "--store chanas.db --space paper --networks 100", check);
  add_device_options(one, flags->device);
  one->add_option("--space", flags->space, "space of the networks")->capture_default_str();
  one->add_option("--rows", flags->rows, "workloads measured again")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  one->add_option("--networks", flags->networks, "whole networks measured")
      ->check(CLI::Range(0, 100'000))
      ->capture_default_str();
  one->add_option("--samples", flags->network.samples, "runs per network and round")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  one->add_option("--rounds", flags->network.rounds, "how often all networks are measured")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  one->add_option("--seed", flags->seed, "which rows and networks")->capture_default_str();
  one->add_flag("--record", flags->record, "keep the new measurements as the rows' own");
  one = command("export", "write the tables as JSON", "xeon.json --store chanas.db", export_table);
  add_store_option(one, flags->device);
  one->add_option("file", flags->file, "JSON file")->required();
  one->add_flag("--all", flags->all, "every record, not just the best and the default");
  one = command("import", "add the records of a JSON file", "xeon.json --store chanas.db",
                import_table);
  add_store_option(one, flags->device);
  one->add_option("file", flags->file, "JSON file")->required();
}

}  // namespace chanas
