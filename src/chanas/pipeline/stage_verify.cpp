#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chanas/base/log.h"
#include "chanas/base/progress.h"
#include "chanas/measure/limits.h"
#include "chanas/pipeline/stages.h"

namespace chanas {
namespace {

// When the first finalists are all over the limit, as many again are tried, up to this many rounds.
constexpr int kRounds = 5;

struct Finalist {
  Arch arch;
  double predicted_us = 0, predicted_accuracy = 0;
  NetworkMeasurement measured;
  double accuracy = 0;  // on the whole ranking part
};

Json to_json(const ArchSpace& space, const Finalist& f) {
  return {{"arch", to_json(f.arch)},           {"id", arch_id(space, f.arch)},
          {"predicted_us", f.predicted_us},    {"predicted_accuracy", f.predicted_accuracy},
          {"median_us", f.measured.median_us}, {"p10_us", f.measured.p10_us},
          {"p90_us", f.measured.p90_us},       {"accuracy", f.accuracy}};
}

}  // namespace

Status run_verify_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(Runner * runner, context.runner());
  CHANAS_ASSIGN_OR_RETURN(const LatencyTable* table, context.table());
  CHANAS_ASSIGN_OR_RETURN(const LatencyPredictor* latency, context.latency());
  double limit_us = context.output("narrow")["limit_us"];
  SubSpace cell = context.chosen_cell();

  std::vector<Finalist> candidates;
  for (const Json& entry : context.output("search")["best"]) {
    CHANAS_ASSIGN_OR_RETURN(Arch arch, arch_from_json(space, entry["arch"]));
    candidates.push_back({arch, entry["latency_us"], entry["accuracy"], {}, 0});
  }
  // The last resort of a tight limit: the fastest networks by the table, of the chosen cell and
  // then of all others, the largest of them first.
  std::vector<Finalist> fastest;
  for (const SubSpace& other : latency->cells()) {
    Arch arch = latency->minimum_arch(other);
    fastest.push_back({arch, latency->latency_us(arch), 0, {}, 0});
  }
  std::stable_sort(fastest.begin(), fastest.end(), [&](const Finalist& a, const Finalist& b) {
    return std::pair(a.arch.cell != cell, -a.predicted_us) <
           std::pair(b.arch.cell != cell, -b.predicted_us);
  });
  size_t searched = candidates.size();
  candidates.insert(candidates.end(), fastest.begin(), fastest.end());

  std::vector<Finalist> inside, over;
  auto per_round = static_cast<size_t>(config.finalists);
  for (size_t next = 0, round = 0; next < candidates.size() && inside.empty(); ++round) {
    if (round == kRounds) next = std::max(next, searched);
    Progress progress("finalists measured", static_cast<double>(per_round));
    for (size_t i = 0; i < per_round && next < candidates.size(); ++i, ++next) {
      Finalist& f = candidates[next];
      CHANAS_ASSIGN_OR_RETURN(ExecutionPlan plan, table->plan(to_network(space, f.arch)));
      CHANAS_ASSIGN_OR_RETURN(f.measured, runner->measure_network(plan, config.latency_samples));
      (f.measured.median_us <= limit_us * (1 - config.margin) ? inside : over).push_back(f);
      progress.update(static_cast<double>(i + 1));
    }
  }
  if (inside.empty()) {
    double least = over.front().measured.median_us;
    for (const Finalist& f : over) least = std::min(least, f.measured.median_us);
    return absl::OutOfRangeError(fmt::format(
        "no finalist measured inside {:.3f} ms; the fastest took {:.3f} ms: raise the limit",
        limit_us / 1000, least / 1000));
  }

  std::vector<Arch> archs;
  for (const Finalist& f : inside) archs.push_back(f.arch);
  CHANAS_ASSIGN_OR_RETURN(std::vector<double> accuracy,
                          context.evaluate("verify", archs, "ranking", 0));
  for (size_t i = 0; i < inside.size(); ++i) inside[i].accuracy = accuracy[i];
  std::stable_sort(inside.begin(), inside.end(), [](const Finalist& a, const Finalist& b) {
    return std::pair(-a.accuracy, a.measured.median_us) <
           std::pair(-b.accuracy, b.measured.median_us);
  });

  Json finalists = Json::array(), rejected = Json::array();
  for (const Finalist& f : inside) finalists.push_back(to_json(space, f));
  for (const Finalist& f : over) rejected.push_back(to_json(space, f));
  output["limit_us"] = limit_us;
  if (config.device == "local") {  // the others measure nothing
    const MachineLimits machine = measure_limits(runner->target(), config.threads);
    output["machine"] = {{"gflops", machine.gflops}, {"cache_gb_per_s", machine.cache_gb_per_s}};
  }
  output["finalists"] = finalists;
  output["over_limit"] = rejected;
  log_info("  {} of {} finalists inside {:.3f} ms; best {:.1f} % on the ranking part at {:.3f} ms",
           inside.size(), inside.size() + over.size(), limit_us / 1000, inside[0].accuracy * 100,
           inside[0].measured.median_us / 1000);
  return absl::OkStatus();
}

}  // namespace chanas
