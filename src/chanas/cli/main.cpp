#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <system_error>

#include "chanas/base/cancellation.h"
#include "chanas/base/log.h"
#include "chanas/cli/command.h"
#include "chanas/measure/measure.h"
#include "chanas/schedule/schedule.h"

namespace {

constexpr char kIntroduction[] =
    "CHaNAS searches the network architecture and its compiler schedule together: give it images, "
    "a\n"
    "device and a latency limit; it returns the most accurate network inside that limit and the\n"
    "compiled C library that runs it.\n\n"
    "  chanas run                                the built-in demo, some minutes\n"
    "  chanas run --data photos.tar.gz --space cifar-small --limit-ms 0.08\n"
    "                                            your images, your limit, this machine\n";

constexpr char kExitCodes[] =
    "exit codes: 0 done, 1 failed, 2 usage, 3 bad config or data, 4 limit cannot be met,\n"
    "            69 device unavailable, 75 try again, 130 interrupted with state saved";

}  // namespace

int main(int argc, char** argv) {
  using namespace chanas;
  install_signal_handlers();
  CLI::App app(kIntroduction, "chanas");
  app.footer(kExitCodes);
  app.set_version_flag("--version", fmt::format("{} (schedules v{}, measurements {})",
                                                CHANAS_VERSION, kScheduleVersion, kMeasuring));
  app.require_subcommand(1);
  app.fallthrough();
  Cli cli;
  app.add_flag("--json", cli.globals.json, "results as JSON on standard output");
  app.add_flag("--quiet", cli.globals.quiet, "no progress on standard error");
  add_run(app, cli);
  add_space(app, cli);
  add_tune(app, cli);
  add_stages(app, cli);
  add_rank_check(app, cli);
  add_bench(app, cli);
  add_lut(app, cli);
  add_explain(app, cli);
  add_doctor(app, cli);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  set_log_quiet(cli.globals.quiet);
  Status status;
  try {
    if (cli.action) status = cli.action();
  } catch (const std::exception& error) {
    const auto* system = dynamic_cast<const std::system_error*>(&error);
    // Who read our output has had enough, as in `chanas explain ... | head`.
    if (system != nullptr && system->code() == std::errc::broken_pipe) return 128 + SIGPIPE;
    // Of a file that was changed by hand, most likely: everything else comes as a status.
    status = absl::InternalError(std::string("unexpected: ") + error.what());
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", absl::IsCancelled(status) ? "chanas" : "error",
                 std::string(status.message()).c_str());
    if (absl::IsCancelled(status)) {
      std::fprintf(stderr,
                   "everything finished so far is saved; repeat the same command to go on\n");
    }
  }
  return exit_code(status);
}
