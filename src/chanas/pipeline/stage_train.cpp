#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "chanas/base/log.h"
#include "chanas/base/progress.h"
#include "chanas/pipeline/stages.h"

namespace chanas {
namespace {

// Of a run's whole budget.
constexpr double kBudgetShare = 0.58;

Json point(const TrainProgress& p) {
  Json out = {{"step", p.step}, {"loss", p.loss}, {"learning_rate", p.learning_rate}};
  if (p.accuracy_largest >= 0) out["accuracy_largest"] = p.accuracy_largest;
  if (p.accuracy_smallest >= 0) out["accuracy_smallest"] = p.accuracy_smallest;
  return out;
}

}  // namespace

Status run_train_stage(StageContext& context, Json& output) {
  const RunConfig& config = context.config;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  TrainConfig train;
  train.epochs = config.budget_s > 0 ? 0 : config.train_epochs;
  train.budget_s = config.budget_s > 0 ? config.budget_s * kBudgetShare : config.train_budget_s;
  train.batch_size = config.batch_size;
  train.learning_rate = config.learning_rate;
  train.loss = config.loss;
  train.gap_lambda = config.gap_lambda;
  train.augment = config.augment;
  train.seed = config.seed;
  train.device = config.train_device;
  train.precision = config.precision;
  train.launcher = config.launcher;
  train.max_restarts = config.max_restarts;

  Progress progress("training, %", 100);
  StatusOr<TrainResult> result =
      train_supernet(space, context.data(), train, context.supernet(), [&](const TrainProgress& p) {
        if (context.options.quiet || p.steps == 0) return;
        progress.update(
            std::floor(100.0 * static_cast<double>(p.step) / static_cast<double>(p.steps)),
            fmt::format("epoch {:.1f}, loss {:.3f}, {:.0f} images/s", p.epoch, p.loss,
                        p.images_per_s));
      });
  CHANAS_RETURN_IF_ERROR(result.status());
  Json history = Json::array();
  for (const TrainProgress& p : result->history) history.push_back(point(p));
  output["history"] = history;
  output["steps"] = result->steps;
  output["epochs"] = result->epochs;
  output["params"] = result->params;
  output["accuracy_largest"] = result->accuracy_largest;
  output["accuracy_smallest"] = result->accuracy_smallest;
  output["rollbacks"] = result->rollbacks;
  output["mean_gap"] = result->mean_gap;
  output["negative_gap_share"] = result->negative_gap_share;
  log_info("  {:.1f} epochs; ranking part: largest network {:.1f} %, smallest {:.1f} %",
           result->epochs, result->accuracy_largest * 100, result->accuracy_smallest * 100);
  return absl::OkStatus();
}

}  // namespace chanas
