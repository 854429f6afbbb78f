#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "chanas/base/file.h"
#include "chanas/cli/command.h"
#include "chanas/cli/run_options.h"

namespace chanas {

void add_run_options(CLI::App* app, RunFlags& flags) {
  app->add_option("--config", flags.config, "TOML file; none: the built-in demo")
      ->type_name("FILE");
  app->add_option("--run-dir", flags.run_dir, "folder of the run")
      ->type_name("DIR")
      ->capture_default_str();
  app->add_option("--data", flags.data, "images: builtin, folder of class folders, .tar or .tar.gz")
      ->type_name("DIR|ARCHIVE");
  app->add_option("--space", flags.space, "space name or file")->type_name("NAME|FILE");
  app->add_option("--device", flags.device, "local, or simulated")->type_name("NAME");
  app->add_option("--limit-ms", flags.limit_ms, "latency limit in milliseconds")
      ->type_name("X")
      ->check(CLI::PositiveNumber);
  app->add_option("--threads", flags.threads, "threads the network runs on")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  app->add_option("--budget", flags.budget, "time for everything, e.g. \"20 min\"")
      ->type_name("T")
      ->check([](const std::string& text) {
        return std::string(parse_duration(text).status().message());
      });
  app->add_option("--seed", flags.seed, "one seed, one result")->type_name("N");
  app->add_option("--store", flags.store, "database of measurements [<run dir>/chanas.db]")
      ->type_name("FILE");
}

StatusOr<PipelineOptions> pipeline_options(const RunFlags& flags, const Globals& globals) {
  PipelineOptions options;
  options.run_dir = flags.run_dir;
  options.store = flags.store;
  options.quiet = globals.quiet;
  // Going on with a run needs no flags: what it was started with is in its folder.
  if (!flags.config.empty()) {
    CHANAS_ASSIGN_OR_RETURN(options.config, load_config(flags.config));
  } else if (StatusOr<RunConfig> stored = stored_config(flags.run_dir); stored.ok()) {
    options.config = *stored;
  } else if (!absl::IsNotFound(stored.status())) {
    return stored.status();
  }
  RunConfig& c = options.config;
  if (flags.data) c.data = *flags.data;
  if (flags.space) c.space = *flags.space;
  if (flags.device) c.device = *flags.device;
  if (flags.limit_ms) c.limit_ms = *flags.limit_ms;
  if (flags.threads) c.threads = *flags.threads;
  if (flags.seed) c.seed = *flags.seed;
  if (flags.budget) {
    CHANAS_ASSIGN_OR_RETURN(c.budget_s, parse_duration(*flags.budget));
  }
  CHANAS_RETURN_IF_ERROR(validate(c));
  return options;
}

namespace {

void print_result(const Json& result, const std::string& run_dir) {
  const Json& latency = result.at("latency_us");
  const Json& accuracy = result.at("accuracy");
  auto ms = [](const Json& us) { return fmt::format("{:.3f} ms", us.get<double>() / 1000); };
  auto percent = [](const Json& share) {
    return fmt::format("{:.1f} %", share.get<double>() * 100);
  };
  const double slower =
      latency.at("default_schedule").get<double>() / latency.at("measured").get<double>();
  print_table(
      {"result", ""},
      {{"architecture", result.at("arch").at("id").get<std::string>()},
       {"test accuracy", percent(accuracy.at("test")) + "  (smallest network of the space " +
                             percent(accuracy.at("smallest_net")) + ", largest " +
                             percent(accuracy.at("largest_net")) + ")"},
       {"latency", ms(latency.at("measured")) + "  (limit " + ms(latency.at("limit")) +
                       ", predicted " + ms(latency.at("predicted")) + ")"},
       {"schedules",
        fmt::format("{} under default schedules: {:.2f}x {}", ms(latency.at("default_schedule")),
                    slower < 1 ? 1 / slower : slower, slower < 1 ? "faster" : "slower")},
       {"size", fmt::format("{:.2f}M multiply-adds, {:.3f}M parameters",
                            result.at("macs").get<double>() / 1e6,
                            result.at("params").get<double>() / 1e6)},
       {"library", result.at("export").get<std::string>()},
       {"report", join_path(run_dir, "report.html")}});
}

}  // namespace

Status run_and_print(const PipelineOptions& options, const Globals& globals) {
  CHANAS_RETURN_IF_ERROR(run_pipeline(options));
  StatusOr<std::string> text = read_result(options.run_dir);
  if (!text.ok()) return absl::OkStatus();  // stopped before export by --until
  const std::string path = join_path(options.run_dir, "result.json");
  StatusOr<Json> result = parse_json(*text);
  try {
    if (!result.ok()) throw std::runtime_error(std::string(result.status().message()));
    if (globals.json) {
      print_json(*result);
    } else {
      print_result(*result, options.run_dir);
    }
  } catch (const std::exception& error) {  // a key that is missing, or of another type
    return absl::DataLossError(
        fmt::format("{} is damaged ({}); remove it and repeat the command: it is written again",
                    path, error.what()));
  }
  return absl::OkStatus();
}

void add_run(CLI::App& app, Cli& cli) {
  CLI::App* sub = add_subcommand(
      app, cli, "run", "images to a deployed network: the whole pipeline",
      "chanas run --data photos.tar.gz --space cifar-small --limit-ms 0.08 --run-dir runs/photos");
  auto flags = std::make_shared<RunFlags>();
  add_run_options(sub, *flags);
  sub->add_option("--from", flags->from,
                  "first stage to do again (from trained weights and known accuracies)")
      ->type_name("STAGE")
      ->check(CLI::IsMember(stage_names()));
  sub->add_option("--until", flags->until, "last stage to do")
      ->type_name("STAGE")
      ->check(CLI::IsMember(stage_names()));
  sub->add_flag("--help-config", flags->help_config,
                "every key of the config file with its default");
  sub->callback([flags, &cli] {
    cli.action = [flags, &cli]() -> Status {
      if (flags->help_config) {
        std::vector<std::vector<std::string>> rows;
        for (const ConfigKey& key : config_keys()) {
          rows.push_back({"[" + key.section + "]", key.name, key.value, key.help});
        }
        print_table({"section", "key", "default", "meaning"}, rows);
        return absl::OkStatus();
      }
      CHANAS_ASSIGN_OR_RETURN(PipelineOptions options, pipeline_options(*flags, cli.globals));
      options.from = flags->from;
      options.until = flags->until;
      return run_and_print(options, cli.globals);
    };
  });
}

}  // namespace chanas
