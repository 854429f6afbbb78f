#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "chanas/arch/space.h"
#include "chanas/base/log.h"
#include "chanas/base/names.h"
#include "chanas/base/progress.h"
#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/cli/model.h"
#include "chanas/pipeline/config.h"
#include "chanas/tune/latency_table.h"
#include "chanas/tune/pretraining.h"
#include "chanas/tune/tuner.h"

namespace chanas {
namespace {

struct Flags {
  std::string what = "demo";
  DeviceFlags device{.device = "local", .store = kDefaultStore, .threads = 1};
  std::string strategy = "gp";
  std::string learn = "shipped";
  int trials = 16;
  std::string budget = "0";
  uint64_t seed = 1;
};

Status tune_command(const Flags& flags, const Globals& globals) {
  std::vector<Element> elements;
  int64_t weight_bytes = 0;
  if (StatusOr<Model> model = load_model(flags.what); model.ok()) {
    elements = model->cut.elements;
    weight_bytes = model->weight_bytes;
  } else if (StatusOr<ArchSpace> space = load_space(flags.what); space.ok()) {
    elements = space_elements(*space);
    weight_bytes = typical_weight_bytes(*space);
  } else {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" is neither a space ({}) nor a network ({}), nor a file of one: {}; {}",
                    flags.what, join(space_names()), join(zoo_names()), space.status().message(),
                    model.status().message()));
  }
  TuneOptions options;
  options.strategy = flags.strategy;
  options.trials = flags.trials;
  options.seed = flags.seed;
  CHANAS_ASSIGN_OR_RETURN(options.budget_s, parse_duration(flags.budget));
  CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
  device.plan.cold_bytes = weight_bytes;
  device.key = record_key(device.runner->target(), device.plan);
  std::vector<TuningTask> tasks = tuning_tasks(elements);
  if (options.strategy == "gp") {
    CHANAS_ASSIGN_OR_RETURN(options.lessons, lessons_of(flags.learn, device.runner->target(),
                                                        device.plan.threads, tasks));
  }
  log_info("tuning {} workloads of {} for {}, {} thread(s)", tasks.size(), flags.what,
           device.runner->target().name, device.plan.threads);
  TuneProgress last;
  const auto start = std::chrono::steady_clock::now();
  int known = -1;  // trials that the store held
  double per_minute = 0;
  {
    Progress progress("tune", static_cast<double>(tasks.size()) * options.trials);
    if (options.budget_s > 0) progress.ends_within(options.budget_s);
    CHANAS_RETURN_IF_ERROR(tune(
        *device.runner, *device.store, tasks, device.plan, options, [&](const TuneProgress& p) {
          last = p;
          const double scale =
              static_cast<double>(tasks.size()) * options.trials / std::max(1, p.total);
          if (known < 0) {
            known = p.trials;
            progress.start_at(p.done * scale);
          }
          const std::chrono::duration<double, std::ratio<60>> minutes =
              std::chrono::steady_clock::now() - start;
          per_minute = (p.trials - known) / std::max(minutes.count(), 1e-3);
          if (globals.quiet) return;
          progress.update(
              p.done * scale,
              fmt::format("{} trials, {:.0f} a minute, {:.2f}x over default, {} failed{}", p.trials,
                          per_minute, p.speedup, p.failures, to_confirm(p)));
        }));
  }
  CHANAS_ASSIGN_OR_RETURN(
      LatencyTable table,
      LatencyTable::build(*device.store, device.key, device.runner->target(), elements));
  double tuned = 0, untuned = 0;
  for (const auto& [key, row] : table.rows()) {
    tuned += row.latency_us;
    untuned += row.default_us;
  }
  if (globals.json) {
    print_json({{"workloads", tasks.size()},
                {"trials", last.trials},
                {"failures", last.failures},
                {"trials_per_minute", per_minute},
                {"rows", table.rows().size()},
                {"speedup_over_default", tuned > 0 ? untuned / tuned : 1},
                {"store", flags.device.store}});
  } else {
    fmt::print(
        "{} rows in {}: all rows together {:.2f}x faster than under default schedules ({} trials, "
        "{} failed, {:.0f} a minute)\n",
        table.rows().size(), flags.device.store, tuned > 0 ? untuned / tuned : 1, last.trials,
        last.failures, per_minute);
  }
  return absl::OkStatus();
}

}  // namespace

void add_tune(CLI::App& app, Cli& cli) {
  CLI::App* sub =
      add_subcommand(app, cli, "tune", "pre-schedule a space, or one network, for a device",
                     "chanas tune mobilenet_v3_large --trials 40 --store xeon.db --threads 1");
  auto flags = std::make_shared<Flags>();
  sub->add_option("what", flags->what, "space, network of the zoo, file of either, or graph file")
      ->capture_default_str();
  sub->add_option("--strategy", flags->strategy, "gp, evolution, random or grid")
      ->capture_default_str();
  sub->add_option("--learn", flags->learn,
                  "what gp learns from besides the store: shipped (records of other machines that "
                  "come with the program), none, or also another store's file")
      ->capture_default_str();
  sub->add_option("--trials", flags->trials, "schedules per workload")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  sub->add_option("--budget", flags->budget, "time, e.g. \"2 h\"; 0: none")->capture_default_str();
  sub->add_option("--seed", flags->seed, "seed of the search")->capture_default_str();
  add_device_options(sub, flags->device);
  sub->callback(
      [flags, &cli] { cli.action = [flags, &cli] { return tune_command(*flags, cli.globals); }; });
}

}  // namespace chanas
