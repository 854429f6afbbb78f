#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/stats.h"
#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/graph/workload.h"

namespace chanas {
namespace {

struct Check {
  std::string name;
  bool ok = true;
  std::string found, mend;
};

Check check_program(const std::string& name, const std::string& what) {
  std::string path = join_path(executable_folder(), name);
  bool there = ::access(path.c_str(), X_OK) == 0;
  return {name, there, there ? path : "missing",
          fmt::format("{} needs it: build with `make build` (PRESET=release)", what)};
}

Check check_compiler() {
  bool there = std::system("cc --version > /dev/null 2>&1") == 0;
  return {"C compiler", there, there ? "cc" : "missing", "export needs one: apt-get install gcc"};
}

Check check_disk(const std::string& folder) {
  struct statvfs info {};
  double gigabytes = 0;
  if (::statvfs(folder.c_str(), &info) == 0) {
    gigabytes = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize) / 1e9;
  }
  return {"disk", gigabytes > 2, fmt::format("{:.1f} GB free here", gigabytes),
          "a run needs about 1 GB: free some space or use --run-dir on another disk"};
}

// A fixed kernel measured a few times: a clock that wanders shows as spread.
Check check_clock(Runner& runner) {
  Unit unit{.h_in = 14,
            .c_in = 64,
            .c_mid = 128,
            .c_out = 64,
            .kernel = 3,
            .act = Activation::kRelu,
            .residual = true};
  Workload workload = unit_element(unit).cuts[0].groups[0].workload;
  ScheduleSpace space = schedule_space(workload, runner.target(), 1);
  std::vector<Candidate> one = {{workload, default_schedule(space)}};
  const std::string quiet =
      "stop other programs; on bare metal fix the clock: cpupower frequency-set -g performance";
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) {
    auto results = runner.measure(one, MeasurePlan{});
    if (!results.ok())
      return {"device", false, std::string(results.status().message()), "see the message"};
    const MeasureResult& result = (*results)[0];
    if (result.error == TrialError::kUnstable)
      return {"device clock", false, result.message, quiet};
    if (!result.ok())
      return {"device", false, result.message, "a default schedule must run: please report this"};
    times.push_back(result.latency_us);
  }
  double middle = median(times);
  double spread = (percentile(times, 1) - percentile(times, 0)) / middle;
  return {"device clock", spread < 0.25,
          fmt::format("{:.1f} us for {}, {:.0f} % spread over 5 measurements", middle,
                      workload.describe(), spread * 100),
          quiet};
}

Status doctor(const DeviceFlags& flags, const Globals& globals) {
  std::vector<Check> checks;
  checks.push_back(check_program("chanas-kernel", "tuning and measuring"));
  checks.push_back(check_program("chanas-nn", "training"));
  checks.push_back(check_compiler());
  checks.push_back(check_disk("."));
  if (!flags.store.empty()) {
    StatusOr<std::unique_ptr<Store>> store = Store::open(flags.store);
    Status status = store.ok() ? (*store)->check() : store.status();
    checks.push_back({"store", status.ok(),
                      status.ok() ? flags.store + " is sound" : std::string(status.message()),
                      "restore a copy, or remove it and tune again"});
  }
  DeviceFlags without_store = flags;
  without_store.store.clear();
  StatusOr<Device> device = open_device(without_store);
  if (device.ok()) {
    const Target& t = device->runner->target();
    checks.push_back({"device", true,
                      fmt::format("{}, {} core(s), {} floats per vector, {}", t.name, t.cores,
                                  t.vector_floats, t.triple),
                      ""});
    checks.push_back(check_clock(*device->runner));
  } else {
    checks.push_back({"device", false, std::string(device.status().message()), "see the message"});
  }
  bool ok = true;
  Json json = Json::array();
  for (const Check& check : checks) {
    ok = ok && check.ok;
    json.push_back({{"check", check.name},
                    {"ok", check.ok},
                    {"found", check.found},
                    {"mend", check.ok ? "" : check.mend}});
    if (globals.json) continue;
    fmt::print("{:<5} {:<14} {}\n", check.ok ? "ok" : "BAD", check.name, check.found);
    if (!check.ok) fmt::print("      -> {}\n", check.mend);
  }
  if (globals.json) print_json(json);
  return ok ? absl::OkStatus()
            : absl::UnavailableError(
                  "this machine is not ready; the lines above marked BAD say how to mend it");
}

}  // namespace

void add_doctor(CLI::App& app, Cli& cli) {
  CLI::App* sub =
      add_subcommand(app, cli, "doctor",
                     "checks programs, compiler, disk, device and store; says how to mend each",
                     "chanas doctor --store runs/demo/chanas.db");
  auto flags = std::make_shared<DeviceFlags>();
  add_device_options(sub, *flags);
  sub->callback(
      [flags, &cli] { cli.action = [flags, &cli] { return doctor(*flags, cli.globals); }; });
}

}  // namespace chanas
