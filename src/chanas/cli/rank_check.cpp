#include "chanas/pipeline/rank_check.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/cli/command.h"
#include "chanas/cli/run_options.h"

namespace chanas {
namespace {

std::string text_of(const Json& tau) {
  return fmt::format("{:.2f} ({:.2f} to {:.2f})", tau["tau"].get<double>(),
                     tau["low"].get<double>(), tau["high"].get<double>());
}

}  // namespace

void add_rank_check(CLI::App& app, Cli& cli) {
  CLI::App* sub = add_subcommand(
      app, cli, "rank-check",
      "how well the supernet ranks networks: some are trained from scratch and compared",
      "chanas rank-check --run-dir runs/demo --networks 30");
  auto flags = std::make_shared<RunFlags>();
  auto networks = std::make_shared<int>(30);
  auto repeats = std::make_shared<int>(1);
  auto epochs = std::make_shared<double>(0);
  auto jobs = std::make_shared<int>(0);
  add_run_options(sub, *flags);
  sub->add_option("--networks", *networks, "networks trained from scratch, evenly spaced in size")
      ->check(CLI::Range(6, 10000))
      ->capture_default_str();
  sub->add_option("--repeats", *repeats, "trainings of each network, whose mean is the truth")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_option("--epochs", *epochs, "of each; 0: as many as the supernet had")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  sub->add_option("--jobs", *jobs, "trainings side by side, a thread each; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->callback([flags, networks, repeats, epochs, jobs, &cli] {
    cli.action = [flags, networks, repeats, epochs, jobs, &cli]() -> Status {
      CHANAS_ASSIGN_OR_RETURN(PipelineOptions run, pipeline_options(*flags, cli.globals));
      CHANAS_ASSIGN_OR_RETURN(Json result, rank_check({run, *networks, *repeats, *epochs, *jobs}));
      if (cli.globals.json) {
        print_json(result);
        return absl::OkStatus();
      }
      std::vector<std::vector<std::string>> rows;
      for (const Json& band : result["bands"]) {
        rows.push_back({band["name"], std::to_string(band["networks"].get<int>()),
                        text_of(band["supernet"]), text_of(band["macs"]), text_of(band["params"])});
      }
      print_table(
          {"Kendall tau-b with", "networks", "supernet accuracy", "multiply-adds", "parameters"},
          rows);
      if (result.contains("among_repeats")) {
        fmt::print(
            "\nsingle trainings from scratch agree among themselves by {:.2f}: chance decides the "
            "rest\n",
            result["among_repeats"].get<double>());
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace chanas
