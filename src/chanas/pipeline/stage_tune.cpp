#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chanas/base/log.h"
#include "chanas/base/progress.h"
#include "chanas/pipeline/stages.h"
#include "chanas/predict/lut_check.h"
#include "chanas/tune/pretraining.h"
#include "chanas/tune/tuner.h"

namespace chanas {
namespace {

// Of a run's whole budget; the rest is training's and the other stages'.
constexpr double kBudgetShare = 0.22;

// The boundary term: fitted on half of the measured networks, judged on the other half.
Status fit(StageContext& context, Json& output) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(Runner * runner, context.runner());
  CHANAS_ASSIGN_OR_RETURN(const LatencyTable* table, context.table());
  int count = context.config.boundary_networks;
  std::vector<Network> networks =
      random_networks(space, space.cells(), 2 * count, context.config.seed);
  const NetworkCheckOptions options;
  Progress progress("whole networks", static_cast<double>(networks.size()) * options.rounds);
  CHANAS_ASSIGN_OR_RETURN(std::vector<NetworkCheck> measured,
                          measure_networks(*runner, *table, networks, options,
                                           [&](int done) { progress.update(done); }));
  BoundaryCheck check = check_boundary(measured, static_cast<int>(measured.size()) / 2);
  output["boundary"] = to_json(check.term);
  output["agreement"] = to_json(check.corrected);
  Json pairs = Json::array();
  for (size_t i = measured.size() / 2; i < measured.size(); ++i) {
    pairs.push_back({apply(check.term, measured[i].rows), measured[i].measured_us});
  }
  output["pairs"] = pairs;
  if (check.corrected.count > 0) {
    log_info(
        "  table against {} other whole networks: error {:.1f} %, rank correlation {:.3f}, "
        "{:.0f} % within 10 %",
        check.corrected.count, check.corrected.error * 100, check.corrected.spearman,
        check.corrected.within_10 * 100);
  }
  return absl::OkStatus();
}

}  // namespace

Status run_tune_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(Runner * runner, context.runner());
  CHANAS_ASSIGN_OR_RETURN(Store * store, context.store());
  CHANAS_ASSIGN_OR_RETURN(MeasurePlan plan, context.measure_plan());
  TuneOptions options;
  options.strategy = config.tune_strategy;
  options.trials = config.tune_trials;
  options.budget_s = config.budget_s > 0 ? config.budget_s * kBudgetShare : config.tune_budget_s;
  // Few trials are better spent near the default than on random points.
  options.random_starts = options.trials / 8;
  options.seed = config.seed;
  std::vector<TuningTask> tasks = tuning_tasks(space_elements(space));
  if (options.strategy == "gp") {
    options.lessons = pretraining_lessons(runner->target(), plan.threads, tasks);
  }
  log_info("  {} workloads on {}, {} thread(s)", tasks.size(), runner->target().name, plan.threads);

  Json history = Json::array();
  TuneProgress last;
  {
    const double total = static_cast<double>(tasks.size()) * options.trials;
    Progress progress("trials", total);
    if (options.budget_s > 0) progress.ends_within(options.budget_s);
    int drawn = -1;
    CHANAS_RETURN_IF_ERROR(tune(*runner, *store, tasks, plan, options, [&](const TuneProgress& p) {
      last = p;
      const double scale = total / std::max(1, p.total);
      if (drawn < 0) progress.start_at(p.done * scale);
      if (p.done - drawn >= std::max(1, p.total / 100)) {
        history.push_back({p.done, p.speedup});
        drawn = p.done;
      }
      if (context.options.quiet) return;
      progress.update(p.done * scale,
                      fmt::format("{} trials, {:.2f}x over default schedules, {} failed{}",
                                  p.trials, p.speedup, p.failures, to_confirm(p)));
    }));
  }
  history.push_back({last.done, last.speedup});
  output["workloads"] = tasks.size();
  output["trials"] = last.trials;
  output["failures"] = last.failures;
  output["speedup"] = last.speedup;
  output["history"] = history;
  return fit(context, output);
}

}  // namespace chanas
