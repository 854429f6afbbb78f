#pragma once
// One file per subcommand; each adds itself to the program. A new subcommand is one file and one
// line in main.cpp.

#include <functional>
#include <string>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace CLI {
class App;
}

namespace chanas {

// What the chosen subcommand does; set by its parse callback, run by main after parsing.
using Action = std::function<Status()>;

// Options every command understands.
struct Globals {
  bool json = false;   // results as JSON on standard output
  bool quiet = false;  // no progress
};

struct Cli {
  Globals globals;
  Action action;
};

// Adds `name` with its help and an example; options are added to the returned app.
CLI::App* add_subcommand(CLI::App& app, Cli& cli, const std::string& name, const std::string& help,
                         const std::string& example);

void add_run(CLI::App& app, Cli& cli);
void add_stages(CLI::App& app, Cli& cli);  // train, predict, search, export, report
void add_space(CLI::App& app, Cli& cli);
void add_tune(CLI::App& app, Cli& cli);
void add_bench(CLI::App& app, Cli& cli);
void add_lut(CLI::App& app, Cli& cli);
void add_explain(CLI::App& app, Cli& cli);
void add_rank_check(CLI::App& app, Cli& cli);
void add_doctor(CLI::App& app, Cli& cli);

// Standard output: the JSON text, or rows aligned in columns (numbers to the right).
void print_json(const Json& json);
void print_table(const std::vector<std::string>& header,
                 const std::vector<std::vector<std::string>>& rows);

}  // namespace chanas
