#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "chanas/base/cancellation.h"
#include "chanas/base/log.h"
#include "chanas/base/progress.h"
#include "chanas/pipeline/stages.h"
#include "chanas/predict/accuracy.h"

namespace chanas {
namespace {

// What the report's cloud and the list of candidates keep.
constexpr size_t kKeptBest = 200;
constexpr int kCloud = 400;

Json scored_json(const std::vector<Scored>& archs, size_t most) {
  Json out = Json::array();
  for (size_t i = 0; i < archs.size() && i < most; ++i) {
    out.push_back({{"arch", to_json(archs[i].arch)},
                   {"accuracy", archs[i].accuracy},
                   {"latency_us", archs[i].latency_us}});
  }
  return out;
}

}  // namespace

Status run_search_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(const LatencyPredictor* latency, context.latency());
  CHANAS_ASSIGN_OR_RETURN(
      AccuracyPredictor accuracy,
      AccuracyPredictor::load(space, context.directory.file("predictor.safetensors")));
  SubSpace cell = context.chosen_cell();
  double limit_us = context.output("narrow")["limit_us"];

  Evaluators evaluators = latency_evaluators(*latency);
  evaluators.accuracy = [&](std::span<const Arch> archs) { return accuracy.predict(archs); };

  EvolutionOptions options;
  options.population = config.population;
  options.generations = config.generations;
  options.seed = config.seed;
  // Finalists are measured with a margin; what cannot pass it need not be proposed.
  double search_limit = std::max(limit_us * (1 - config.margin), latency->minimum_us(cell));
  auto start = std::chrono::steady_clock::now();
  Progress progress("generations", config.generations);
  int generation = 0;
  CHANAS_ASSIGN_OR_RETURN(
      SearchResult result,
      evolve(space, cell, evaluators, search_limit, options, [&](const Generation& g) {
        progress.update(++generation,
                        fmt::format("best predicted {:.1f} %", g.best_accuracy * 100));
        return !cancelled();
      }));
  CHANAS_RETURN_IF_ERROR(check_cancelled());
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  Json history = Json::array();
  for (const Generation& g : result.history) {
    history.push_back({g.evaluations, g.best_accuracy, g.mean_accuracy});
  }
  std::vector<Arch> cloud;
  for (int i = 0; i < kCloud; ++i) {
    Rng rng(config.seed, "cloud", static_cast<uint64_t>(i));
    cloud.push_back(sample(space, cell, rng));
  }
  std::vector<double> predicted = accuracy.predict(cloud);
  Json points = Json::array();
  for (size_t i = 0; i < cloud.size(); ++i) {
    points.push_back({latency->latency_us(cloud[i]), predicted[i]});
  }
  output["best"] = scored_json(result.best, kKeptBest);
  output["front"] = scored_json(result.front, result.front.size());
  output["history"] = history;
  output["cloud"] = points;
  output["evaluations"] = result.evaluations;
  log_info("  {} architectures evaluated ({:.0f} per second), front of {}", result.evaluations,
           static_cast<double>(result.evaluations) / std::max(seconds, 1e-9), result.front.size());
  return absl::OkStatus();
}

}  // namespace chanas
