#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "chanas/arch/space.h"
#include "chanas/base/names.h"
#include "chanas/base/progress.h"
#include "chanas/cli/command.h"
#include "chanas/cli/device.h"
#include "chanas/cli/model.h"
#include "chanas/graph/passes.h"
#include "chanas/pipeline/pipeline.h"
#include "chanas/tune/latency_table.h"

namespace chanas {
namespace {

struct Flags {
  std::string network;
  DeviceFlags device;
  std::string run_dir;
  std::string schedule, trace;
  bool passes = false;
  std::vector<std::string> without;
};

// The network that a finished run returned.
StatusOr<Network> winner(const std::string& run_dir, int64_t* weight_bytes) {
  CHANAS_ASSIGN_OR_RETURN(RunConfig config, stored_config(run_dir));
  CHANAS_ASSIGN_OR_RETURN(std::string text, read_result(run_dir));
  CHANAS_ASSIGN_OR_RETURN(Json result, parse_json(text));
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(config.space));
  *weight_bytes = typical_weight_bytes(space);
  return network_from_json(result["network"]);
}

// One stage's schedule in full: what every field decides, the loops, and the program.
Status show_stage(const Stage& stage, const ExecutionPlan& plan, const std::string& trace,
                  const Globals& globals, Json& json) {
  ScheduleSpace space = schedule_space(stage.workload, plan.target, plan.threads);
  Schedule schedule = stage.schedule;
  if (!trace.empty()) {
    CHANAS_ASSIGN_OR_RETURN(schedule, parse_schedule(space, trace));
    CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  }
  Candidate candidate{stage.workload, schedule};
  std::string loops, program;
  CHANAS_ASSIGN_OR_RETURN(loops, dump_candidate(candidate, plan.target, plan.threads, "loop_nest"));
  CHANAS_ASSIGN_OR_RETURN(program, dump_candidate(candidate, plan.target, plan.threads, "lowered"));
  if (globals.json) {
    json.push_back({{"stage", stage.name},
                    {"workload", stage.workload.describe()},
                    {"schedule", to_text(space, schedule)},
                    {"loop_nest", loops},
                    {"program", program}});
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < space.fields.size(); ++i) {
    const Field& field = space.fields[i];
    std::vector<std::string> choices;
    for (int choice : field.choices) choices.push_back(std::to_string(choice));
    rows.push_back({field.name, std::to_string(schedule.values[i]), join(choices),
                    std::string(primitive_name(field.primitive)),
                    std::string(field_help(field.name))});
  }
  fmt::print("{}: {}, {} thread(s)\n{}\n\n", stage.name, stage.workload.describe(), plan.threads,
             to_text(space, schedule));
  std::fflush(stdout);
  print_table({"field", "value", "of", "primitive", "meaning"}, rows);
  fmt::print("\nloops:\n{}\nprogram:\n{}\n", loops, program);
  return absl::OkStatus();
}

// --schedule names a stage ("units.3/depthwise") or an element with all its stages ("units.3").
Status show_schedules(const ExecutionPlan& plan, const Flags& flags, const Globals& globals) {
  std::vector<const Stage*> shown;
  std::vector<std::string> names;
  for (const Stage& stage : plan.stages) {
    names.push_back(stage.name);
    if (stage.name == flags.schedule || stage.name.starts_with(flags.schedule + "/")) {
      shown.push_back(&stage);
    }
  }
  if (shown.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("--schedule is \"{}\", expected a stage: {}", flags.schedule, join(names)));
  }
  if (!flags.trace.empty() && shown.size() > 1) {
    return absl::InvalidArgumentError(fmt::format(
        "--trace is one stage's, \"{}\" has {}; name one of them", flags.schedule, shown.size()));
  }
  Json json = Json::array();
  for (const Stage* stage : shown) {
    CHANAS_RETURN_IF_ERROR(
        annotate(show_stage(*stage, plan, flags.trace, globals, json), stage->name));
  }
  if (globals.json) print_json(json);
  return absl::OkStatus();
}

// The graph passes at work on one network.
Status show_passes(const Flags& flags, const Globals& globals) {
  if (flags.network.empty()) return absl::InvalidArgumentError("--passes needs a network");
  CHANAS_ASSIGN_OR_RETURN(Graph graph, load_unfused(flags.network));
  std::vector<PassRun> runs;
  CHANAS_RETURN_IF_ERROR(run_passes(graph, nullptr, flags.without, &runs));
  std::vector<std::vector<std::string>> rows;
  Json json = Json::array();
  for (size_t i = 0; i < runs.size(); ++i) {
    const PassRun& run = runs[i];
    const std::string& help = fusion_passes()[i].help;
    rows.push_back({run.name, std::to_string(run.ops_before), std::to_string(run.ops_after),
                    run.disabled ? "off" : fmt::format("{:.1f}", run.us), help});
    json.push_back({{"pass", run.name},
                    {"disabled", run.disabled},
                    {"ops_before", run.ops_before},
                    {"ops_after", run.ops_after},
                    {"us", run.us},
                    {"help", help}});
  }
  if (globals.json)
    print_json(json);
  else
    print_table({"pass", "ops before", "after", "us", "what it does"}, rows);
  return absl::OkStatus();
}

Status explain(Flags flags, const Globals& globals) {
  if (flags.passes) return show_passes(flags, globals);
  int64_t weight_bytes = 0;
  Model model;
  if (!flags.run_dir.empty()) {
    CHANAS_ASSIGN_OR_RETURN(RunConfig config, stored_config(flags.run_dir));
    flags.device.device = config.device;
    flags.device.threads = config.threads;
    if (flags.device.store.empty()) flags.device.store = flags.run_dir + "/chanas.db";
    CHANAS_ASSIGN_OR_RETURN(Network network, winner(flags.run_dir, &weight_bytes));
    model = model_of(network);
  } else if (!flags.network.empty()) {
    CHANAS_ASSIGN_OR_RETURN(model, load_model(flags.network));
    weight_bytes = model.weight_bytes;
  } else {
    return absl::InvalidArgumentError("name a network, or a finished run with --run-dir");
  }
  if (!flags.schedule.empty() && flags.device.store.empty()) {
    CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
    CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan,
                            default_plan(model.cut, device.runner->target(), flags.device.threads));
    return show_schedules(plan, flags, globals);
  }
  if (flags.device.store.empty()) {
    return absl::InvalidArgumentError("name the database of measurements with --store");
  }
  CHANAS_ASSIGN_OR_RETURN(Device device, open_device(flags.device));
  CHANAS_ASSIGN_OR_RETURN(device.key, find_key(device, weight_bytes));
  const Target& target = device.runner->target();
  const std::vector<Element>& elements = model.cut.elements;
  CHANAS_ASSIGN_OR_RETURN(LatencyTable table,
                          LatencyTable::build(*device.store, device.key, target, elements));
  if (!flags.schedule.empty()) {
    CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, table.plan(model.cut, model.name));
    return show_schedules(plan, flags, globals);
  }
  auto now = std::chrono::duration_cast<std::chrono::seconds>(
                 std::chrono::system_clock::now().time_since_epoch())
                 .count();
  Json json = Json::array();
  std::vector<std::vector<std::string>> rows;
  double sum = 0;
  for (const Element& element : elements) {
    const TableRow& row = *table.find(element.key);
    auto cut = std::find_if(element.cuts.begin(), element.cuts.end(),
                            [&](const Cut& c) { return c.name == row.choice.cut; });
    for (size_t g = 0; g < cut->groups.size(); ++g) {
      const Workload& workload = cut->groups[g].workload;
      CHANAS_ASSIGN_OR_RETURN(std::optional<Record> record,
                              device.store->best(workload.fingerprint(), device.key));
      CHANAS_CHECK(record.has_value()) << workload.describe();
      ScheduleSpace space = schedule_space(workload, target, device.key.threads);
      std::string trace = to_text(space, record->schedule);
      sum += record->result.latency_us;
      rows.push_back({element.name, row.choice.cut, workload.describe(),
                      fmt::format("{:.2f}", record->result.latency_us), std::to_string(record->id),
                      record->origin, format_duration(static_cast<double>(now - record->time_s)),
                      trace});
      json.push_back({{"element", element.name},
                      {"key", element.key},
                      {"cut", row.choice.cut},
                      {"workload", workload.describe()},
                      {"fingerprint", workload.fingerprint()},
                      {"latency_us", record->result.latency_us},
                      {"record", record->id},
                      {"origin", record->origin},
                      {"age_s", now - record->time_s},
                      {"schedule", trace}});
    }
  }
  if (globals.json) {
    print_json({{"network", model.name},
                {"device", target.name},
                {"plan", device.key.plan},
                {"sum_us", sum},
                {"stages", json}});
    return absl::OkStatus();
  }
  fmt::print("{} on {} (plan {}): the table's rows sum to {:.3f} ms\n", model.name, target.name,
             device.key.plan, sum / 1000);
  std::fflush(stdout);
  print_table({"element", "cut", "workload", "us", "record", "origin", "age", "schedule"}, rows);
  return absl::OkStatus();
}

}  // namespace

void add_explain(CLI::App& app, Cli& cli) {
  CLI::App* sub = add_subcommand(
      app, cli, "explain",
      "where each microsecond of a network comes from: row, record, schedule, age",
      "chanas explain --run-dir runs/demo\n  chanas explain mobilenet_v3_large --store chanas.db\n"
      "  chanas explain mobilenet_v3_large --schedule units.3\n"
      "  chanas explain mobilenet_v3_large --passes --without fuse-residual");
  auto flags = std::make_shared<Flags>();
  sub->add_option("network", flags->network, "network of the zoo, network file or graph file");
  sub->add_option("--run-dir", flags->run_dir, "the network that this run returned")
      ->type_name("DIR");
  sub->add_option("--schedule", flags->schedule,
                  "show the schedules of this element or stage: fields, loops, program (default "
                  "schedules without --store)")
      ->type_name("STAGE");
  sub->add_option("--trace", flags->trace, "another schedule of that stage, as text")
      ->needs(sub->get_option("--schedule"));
  sub->add_flag("--passes", flags->passes,
                "show what each graph pass does to the network, and its time");
  sub->add_option("--without", flags->without, "graph passes to leave out")
      ->type_name("PASS")
      ->needs(sub->get_option("--passes"));
  add_device_options(sub, flags->device);
  sub->callback(
      [flags, &cli] { cli.action = [flags, &cli] { return explain(*flags, cli.globals); }; });
}

}  // namespace chanas
