#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/log.h"
#include "chanas/pipeline/stages.h"

namespace chanas {
namespace {

// Distinct networks of one cell. Half are uniform; half are drawn as the corners and edges of the
// space, by mutating the smallest and the largest, since the search will go there.
std::vector<Arch> labelled_archs(const ArchSpace& space, const SubSpace& cell, int count,
                                 uint64_t seed) {
  std::vector<Arch> archs;
  std::set<std::string> seen;
  Rng rng(seed, "predict");
  std::vector<Arch> ends = {smallest(space, cell), largest(space, cell)};
  // A small space may hold fewer distinct networks than asked for.
  for (int tries = 0; static_cast<int>(archs.size()) < count && tries < 50 * count; ++tries) {
    Arch arch = tries < 2        ? ends[static_cast<size_t>(tries)]
                : tries % 4 == 3 ? mutate(space, rng.choose(ends), 0.3, rng)
                                 : sample(space, cell, rng);
    if (seen.insert(arch_id(space, arch)).second) archs.push_back(std::move(arch));
  }
  return archs;
}

}  // namespace

Status run_predict_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  std::vector<Arch> archs =
      labelled_archs(space, context.chosen_cell(), config.samples, config.seed);
  CHANAS_ASSIGN_OR_RETURN(std::vector<double> accuracy,
                          context.evaluate("networks evaluated", archs, "ranking", config.images));
  std::vector<PredictorSample> samples;
  for (size_t i = 0; i < archs.size(); ++i) samples.push_back({archs[i], accuracy[i]});
  PredictorConfig predictor;
  predictor.hidden = config.hidden;
  predictor.seed = config.seed;
  CHANAS_ASSIGN_OR_RETURN(
      PredictorFit fit,
      fit_predictor(space, samples, predictor, context.directory.file("predictor.safetensors")));
  output["samples"] = fit.samples;
  output["rmse"] = fit.rmse;
  output["kendall_tau"] = fit.kendall_tau;
  output["spearman"] = fit.spearman;
  log_info(
      "  cross-validated on {} networks: error {:.2f} points, Kendall tau {:.2f}, rank correlation "
      "{:.2f}",
      fit.samples, fit.rmse * 100, fit.kendall_tau, fit.spearman);
  return absl::OkStatus();
}

}  // namespace chanas
