#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "chanas/base/log.h"
#include "chanas/pipeline/stages.h"

namespace chanas {
namespace {

// A distribution is drawn from this many points.
constexpr size_t kKeptLatencies = 101;

Json thin(const std::vector<double>& sorted) {
  Json out = Json::array();
  size_t count = std::min(sorted.size(), kKeptLatencies);
  for (size_t i = 0; i < count; ++i) {
    out.push_back(sorted[count == 1 ? 0 : i * (sorted.size() - 1) / (count - 1)]);
  }
  return out;
}

}  // namespace

Status run_narrow_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(const LatencyPredictor* latency, context.latency());
  CHANAS_ASSIGN_OR_RETURN(double limit_us, context.limit_us());
  CHANAS_ASSIGN_OR_RETURN(NarrowRule rule, parse_narrow_rule(config.rule));

  Status evaluation;
  Evaluators evaluators = latency_evaluators(*latency);
  if (config.probes > 0) {
    evaluators.accuracy = [&](std::span<const Arch> archs) {
      StatusOr<std::vector<double>> accuracy =
          context.evaluate("narrow", {archs.begin(), archs.end()}, "ranking", config.images);
      if (!accuracy.ok()) evaluation = accuracy.status();
      return accuracy.ok() ? *std::move(accuracy) : std::vector<double>();  // empty: gives up
    };
  }
  NarrowOptions options;
  options.delta = config.delta;
  options.probes = config.probes;
  options.seed = config.seed;
  StatusOr<NarrowResult> narrowed = narrow(space, evaluators, limit_us, options);
  CHANAS_RETURN_IF_ERROR(evaluation);  // the cause, where there is one
  CHANAS_ASSIGN_OR_RETURN(NarrowResult result, std::move(narrowed));

  int chosen = result.chosen(rule);
  CHANAS_CHECK(chosen >= 0) << "narrow found no cell for rule " << config.rule;
  Json cells = Json::array();
  for (size_t i = 0; i < result.cells.size(); ++i) {
    const CellStatistics& cell = result.cells[i];
    std::vector<std::string> rules;
    for (NarrowRule each : {NarrowRule::kPaper, NarrowRule::kTinyNas, NarrowRule::kAccuracy}) {
      if (result.chosen(each) == static_cast<int>(i)) rules.emplace_back(narrow_rule_name(each));
    }
    cells.push_back({{"resolution", cell.cell.resolution},
                     {"width", cell.cell.width},
                     {"sampled", cell.sampled},
                     {"inside", cell.inside},
                     {"mean_latency_us", cell.mean_latency_us},
                     {"mean_macs", cell.mean_macs},
                     {"accuracy_q90", cell.accuracy_q90},
                     {"minimum_us", cell.minimum_us},
                     {"latencies_us", thin(cell.latencies_us)},
                     {"rules", rules}});
  }
  output["limit_us"] = limit_us;
  output["rule"] = config.rule;
  output["cells"] = cells;
  output["chosen"] = chosen;
  const CellStatistics& cell = result.cells[static_cast<size_t>(chosen)];
  output["cell"] = {{"resolution", cell.cell.resolution}, {"width", cell.cell.width}};
  log_info("  limit {:.3f} ms; rule {} chooses {} ({} of {} sampled networks inside)",
           limit_us / 1000, config.rule, describe(cell.cell), cell.inside, cell.sampled);
  return absl::OkStatus();
}

}  // namespace chanas
