#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/base/progress.h"
#include "chanas/measure/limits.h"
#include "chanas/pipeline/stages.h"
#include "chanas/report/report.h"

namespace chanas {
namespace {

std::string ms(double us) { return fmt::format("{:.3f} ms", us / 1000); }
std::string percent(double share) { return fmt::format("{:.1f} %", share * 100); }

void add_cells(const Json& narrow, ReportData& data) {
  size_t index = 0;
  for (const Json& cell : narrow["cells"]) {
    ReportData::Cell out;
    out.label = describe(SubSpace{cell["resolution"], cell["width"]});
    out.latencies_us = cell["latencies_us"].get<std::vector<double>>();
    out.chosen = narrow["chosen"] == index++;
    for (const Json& rule : cell["rules"]) {
      out.note += (out.note.empty() ? "" : ", ") + rule.get<std::string>();
    }
    out.sampled = cell["sampled"];
    out.inside = cell["inside"];
    out.mean_latency_us = cell["mean_latency_us"];
    out.mean_macs = cell["mean_macs"];
    out.accuracy_q90 = cell["accuracy_q90"];
    data.cells.push_back(std::move(out));
  }
}

void add_search(const Json& search, ReportData& data) {
  for (const Json& point : search["front"]) {
    data.front_predicted.push_back({"", point["latency_us"], point["accuracy"]});
  }
  for (const Json& point : search["cloud"]) data.cloud.push_back({"", point[0], point[1]});
  for (const Json& step : search["history"]) {
    data.search_progress.push_back({step[0], step[1], step[2]});
  }
}

Status add_winner(StageContext& context, const Json& result, ReportData& data) {
  CHANAS_ASSIGN_OR_RETURN(Network network, network_from_json(result["network"]));
  CHANAS_ASSIGN_OR_RETURN(const LatencyTable* table, context.table());
  MachineLimits machine;
  if (const Json& verify = context.output("verify"); verify.contains("machine")) {
    machine = {verify["machine"]["gflops"], verify["machine"]["cache_gb_per_s"]};
  }
  CHANAS_ASSIGN_OR_RETURN(const ExecutionPlan plan, table->plan(network));
  auto stage = plan.stages.begin();
  for (const Element& element : cut_network(network).elements) {
    const TableRow* row = table->find(element.key);
    CHANAS_CHECK(row != nullptr) << element.key;
    ReportData::TableRow& shown = data.rows.emplace_back();
    shown = {element.name, row->choice.cut, row->default_us, row->latency_us, row->trials};
    for (size_t i = 0; i < row->stages.size(); ++i) {
      const StageCost cost = stage_cost(plan, *stage++, machine);
      shown.macs += cost.macs;
      shown.roofline_us += cost.roofline_us;
    }
  }
  const Json& latency = result["latency_us"];
  const Json& accuracy = result["accuracy"];
  data.winner = ReportData::Point{"returned network", latency["measured"], accuracy["supernet"]};
  data.network = network;
  data.facts = {
      {"test accuracy", percent(accuracy["test"])},
      {"latency", ms(latency["measured"])},
      {"limit", ms(latency["limit"])},
      {"tuned over default schedules",
       fmt::format("{:.2f}x",
                   latency["default_schedule"].get<double>() / latency["measured"].get<double>())},
      {"smallest / largest network",
       percent(accuracy["smallest_net"]) + " / " + percent(accuracy["largest_net"])},
      {"multiply-adds", fmt::format("{:.2f}M", result["macs"].get<double>() / 1e6)},
      {"parameters", fmt::format("{:.3f}M", result["params"].get<double>() / 1e6)},
  };
  for (const auto& [name, value] : result["versions"].items()) {
    data.versions.push_back({name, value.get<std::string>()});
  }
  return absl::OkStatus();
}

}  // namespace

Status run_report_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(Runner * runner, context.runner());
  CHANAS_ASSIGN_OR_RETURN(std::string text, read_file(context.directory.file("result.json")));
  CHANAS_ASSIGN_OR_RETURN(Json result, parse_json(text));

  ReportData data;
  data.title = "CHaNAS: the most accurate network inside " + ms(result["latency_us"]["limit"]);
  data.device = runner->target().name;
  data.space_name = space.name;
  data.data_name = config.data;
  data.command = "chanas run --run-dir " + context.directory.path();
  data.threads = config.threads;
  data.limit_us = result["latency_us"]["limit"];
  add_search(context.output("search"), data);
  add_cells(context.output("narrow"), data);
  for (const char* group : {"finalists", "over_limit"}) {
    for (const Json& f : context.output("verify")[group]) {
      if (f["accuracy"] == 0.0) continue;  // over the limit: its accuracy was not taken
      data.measured.push_back({f["id"], f["median_us"], f["accuracy"]});
    }
  }
  const Json& tune = context.output("tune");
  for (const Json& pair : tune["pairs"]) data.latency_check.push_back({pair[0], pair[1]});
  data.latency_mape = tune["agreement"]["error"];
  data.latency_spearman = tune["agreement"]["spearman"];
  data.latency_hit10 = tune["agreement"]["within_10"];
  for (const Json& trial : tune["history"]) data.tuning.push_back({trial[0], trial[1]});
  for (const Json& p : context.output("train")["history"]) {
    data.training.push_back({p["step"], p["loss"], p["learning_rate"],
                             p.value("accuracy_largest", 0.0), p.value("accuracy_smallest", 0.0),
                             p.value("accuracy_random", 0.0), p.value("gap", 0.0)});
  }
  for (const std::string& name : stage_names()) {
    if (auto record = context.directory.stage(name)) {
      data.stage_seconds.push_back({name, format_duration(record->seconds)});
    }
  }
  CHANAS_RETURN_IF_ERROR(add_winner(context, result, data));
  std::string path = context.directory.file("report.html");
  CHANAS_RETURN_IF_ERROR(write_file_atomic(path, render_report(data)));
  log_info("  {}", path);
  output["path"] = path;
  return absl::OkStatus();
}

}  // namespace chanas
