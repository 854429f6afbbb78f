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
  Json out = {
      {"step", p.step}, {"loss", p.loss}, {"learning_rate", p.learning_rate}, {"stage", p.stage}};
  if (p.gap != 0) out["gap"] = p.gap;
  if (p.accuracy_largest >= 0) out["accuracy_largest"] = p.accuracy_largest;
  if (p.accuracy_smallest >= 0) out["accuracy_smallest"] = p.accuracy_smallest;
  if (p.accuracy_random >= 0) out["accuracy_random"] = p.accuracy_random;
  return out;
}

std::string detail(const TrainProgress& p) {
  std::string text = fmt::format("epoch {:.1f}, loss {:.3f}, ", p.epoch, p.loss);
  if (p.stage != "sandwich") text = p.stage + ", " + text;
  if (p.gap != 0) text += fmt::format("gap {:+.3f}, ", p.gap);
  text += fmt::format("rate {:.4f}, {:.0f} images/s, input wait {:.1f} %", p.learning_rate,
                      p.images_per_s, 100 * p.input_wait);
  if (p.accuracy_largest >= 0) {
    text +=
        fmt::format(", largest {:.1f} %, smallest {:.1f} %, a random one {:.1f} %",
                    p.accuracy_largest * 100, p.accuracy_smallest * 100, p.accuracy_random * 100);
  }
  return text;
}

}  // namespace

TrainConfig StageContext::training() const {
  TrainConfig train;
  train.epochs = config.budget_s > 0 ? 0 : config.train_epochs;
  train.budget_s = config.budget_s > 0 ? config.budget_s * kBudgetShare : config.train_budget_s;
  train.batch_size = config.batch_size;
  train.learning_rate = config.learning_rate;
  train.weight_decay = config.weight_decay;
  train.warmup_share = config.warmup_share;
  train.label_smoothing = config.label_smoothing;
  train.clip = config.clip;
  train.trainer = config.trainer;
  train.random_nets = config.random_nets;
  train.sampling = config.sampling;
  train.distillation = config.distillation;
  train.alpha_clip = config.alpha_clip;
  train.sort_share = config.sort_share;
  train.kernel_transform = config.kernel_transform;
  train.loss = config.loss;
  train.gap_lambda = config.gap_lambda;
  train.augment = config.augment;
  train.seed = config.seed;
  train.device = config.train_device;
  train.precision = config.precision;
  train.launcher = config.launcher;
  train.max_restarts = config.max_restarts;
  return train;
}

Status run_train_stage(StageContext& context, Json& output) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  Progress progress("training, %", 100);
  bool started = false;
  StatusOr<TrainResult> result = train_supernet(
      space, context.data(), context.training(), context.supernet(), [&](const TrainProgress& p) {
        if (context.options.quiet || p.steps == 0) return;
        const double percent =
            std::floor(100.0 * static_cast<double>(p.step) / static_cast<double>(p.steps));
        if (!started) progress.start_at(percent);
        started = true;
        progress.update(percent, detail(p));
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
  if (context.config.loss.starts_with("gap")) {
    log_info("  mean gap {:+.3f}, negative in {:.1f} % of the networks' steps", result->mean_gap,
             result->negative_gap_share * 100);
  }
  log_info("  {:.1f} epochs; ranking part: largest network {:.1f} %, smallest {:.1f} %",
           result->epochs, result->accuracy_largest * 100, result->accuracy_smallest * 100);
  return absl::OkStatus();
}

}  // namespace chanas
