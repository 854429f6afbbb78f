#include <CLI/CLI.hpp>
#include <memory>

#include "chanas/cli/command.h"
#include "chanas/cli/run_options.h"

namespace chanas {
namespace {

struct StageCommand {
  std::string name, until, help;
};

}  // namespace

void add_stages(CLI::App& app, Cli& cli) {
  const std::vector<StageCommand> commands = {
      {"train", "train", "the run up to the trained supernet"},
      {"predict", "predict",
       "the run up to the accuracy predictor, with its error and rank correlation"},
      {"search", "search", "the run up to the Pareto front of architectures"},
      {"export", "export", "the run up to the exported C library"},
      {"report", "report", "the run's HTML page"},
  };
  for (const StageCommand& command : commands) {
    CLI::App* sub =
        add_subcommand(app, cli, command.name, command.help + " (finished stages are kept)",
                       "chanas " + command.name + " --run-dir runs/demo");
    auto flags = std::make_shared<RunFlags>();
    auto again = std::make_shared<bool>(false);
    add_run_options(sub, *flags);
    sub->add_flag(
        "--again", *again,
        "do the stage again even when it is finished (from trained weights and known accuracies)");
    sub->callback([flags, again, command, &cli] {
      cli.action = [flags, again, command, &cli]() -> Status {
        CHANAS_ASSIGN_OR_RETURN(PipelineOptions options, pipeline_options(*flags, cli.globals));
        options.until = command.until;
        if (*again || command.name == "report") options.from = command.until;
        return run_and_print(options, cli.globals);
      };
    });
  }
}

}  // namespace chanas
