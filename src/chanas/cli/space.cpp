#include "chanas/arch/space.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/predict/latency.h"
#include "chanas/tune/latency_table.h"
#include "chanas/tune/tuner.h"

namespace chanas {
namespace {

struct Flags {
  std::string space = "demo";
  bool list = false;
  double limit_ms = 0;
  DeviceFlags device;
};

std::string millions(int64_t n) { return fmt::format("{:.2f}", static_cast<double>(n) / 1e6); }

Status list_spaces(const Globals& globals) {
  Json json = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : space_names()) {
    CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(name));
    Network small = to_network(space, smallest(space)), large = to_network(space, largest(space));
    rows.push_back({name, std::to_string(space.cells().size()),
                    fmt::format("{:.1f}", log10_size(space)), millions(macs(small)),
                    millions(macs(large)), std::to_string(distinct_units(space).size())});
    json.push_back({{"name", name}, {"macs", {macs(small), macs(large)}}});
  }
  if (globals.json) {
    print_json(json);
  } else {
    print_table({"space", "sub-spaces", "log10 networks", "min Mmacs", "max Mmacs", "units"}, rows);
  }
  return absl::OkStatus();
}

Status show_space(const Flags& flags, const Globals& globals) {
  if (flags.list) return list_spaces(globals);
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(flags.space));
  std::optional<LatencyPredictor> latency;
  if (!flags.device.store.empty()) {
    CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
    CHANAS_ASSIGN_OR_RETURN(device.key, find_key(device, typical_weight_bytes(space)));
    CHANAS_ASSIGN_OR_RETURN(LatencyTable table,
                            LatencyTable::build(*device.store, device.key, device.runner->target(),
                                                space_elements(space)));
    CHANAS_ASSIGN_OR_RETURN(LatencyPredictor predictor, LatencyPredictor::build(space, table, {}));
    latency = std::move(predictor);
  } else if (flags.limit_ms > 0) {
    return absl::InvalidArgumentError(
        "--limit-ms needs a tuned table: name its database with --store (made by chanas tune or "
        "run)");
  }
  Json cells = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const SubSpace& cell : space.cells()) {
    Network small = to_network(space, smallest(space, cell)),
            large = to_network(space, largest(space, cell));
    std::vector<std::string> row = {
        describe(cell),          millions(macs(small)),
        millions(macs(large)),   millions(params(small)),
        millions(params(large)), std::to_string(distinct_units(space, cell).size())};
    Json json = {{"resolution", cell.resolution},
                 {"width", cell.width},
                 {"macs", {macs(small), macs(large)}},
                 {"params", {params(small), params(large)}}};
    if (latency) {
      double low = latency->minimum_us(cell), high = latency->latency_us(largest(space, cell));
      row.push_back(fmt::format("{:.3f}", low / 1000));
      row.push_back(fmt::format("{:.3f}", high / 1000));
      json["latency_us"] = {low, high};
      if (flags.limit_ms > 0) {
        Rng rng(1, describe(cell));
        int inside = 0;
        constexpr int kSamples = 1000;
        for (int i = 0; i < kSamples; ++i) {
          inside += latency->latency_us(sample(space, cell, rng)) <= flags.limit_ms * 1000;
        }
        row.push_back(fmt::format("{:.1f} %", inside * 100.0 / kSamples));
        json["inside_limit"] = inside * 1.0 / kSamples;
      }
    }
    cells.push_back(json);
    rows.push_back(std::move(row));
  }
  if (globals.json) {
    print_json({{"name", space.name},
                {"fingerprint", space_fingerprint(space)},
                {"log10_networks_per_cell", log10_size(space)},
                {"units", distinct_units(space).size()},
                {"workloads", tuning_tasks(space_elements(space)).size()},
                {"cells", cells}});
    return absl::OkStatus();
  }
  fmt::print(
      "space {}: {} sub-spaces of 10^{:.1f} networks, {} distinct units, {} workloads to tune\n",
      space.name, space.cells().size(), log10_size(space), distinct_units(space).size(),
      tuning_tasks(space_elements(space)).size());
  std::vector<std::string> header = {"sub-space",   "min Mmacs",   "max Mmacs",
                                     "min Mparams", "max Mparams", "units"};
  if (latency) header.insert(header.end(), {"min ms", "max ms"});
  if (latency && flags.limit_ms > 0) header.push_back("inside limit");
  print_table(header, rows);
  return absl::OkStatus();
}

}  // namespace

void add_space(CLI::App& app, Cli& cli) {
  CLI::App* sub = add_subcommand(
      app, cli, "space", "size and cost of a space, and what a limit allows",
      "chanas space paper\n  chanas space demo --store runs/demo/chanas.db --limit-ms 0.1");
  auto flags = std::make_shared<Flags>();
  sub->add_option("space", flags->space, "space name or TOML file")->capture_default_str();
  sub->add_flag("--list", flags->list, "the spaces that are built in");
  sub->add_option("--limit-ms", flags->limit_ms, "share of networks inside this limit")
      ->type_name("X");
  add_device_options(sub, flags->device);
  sub->callback(
      [flags, &cli] { cli.action = [flags, &cli] { return show_space(*flags, cli.globals); }; });
}

}  // namespace chanas
