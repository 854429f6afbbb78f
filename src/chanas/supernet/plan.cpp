#include "chanas/supernet/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "chanas/base/names.h"
#include "chanas/data/augment.h"

namespace chanas {
namespace {

constexpr int kMacsBands = 8;
constexpr int kMacsDraws = 50, kFreshDraws = 10;
constexpr double kMutation = 0.2;

// Of OFA's table: epochs, peak rate over that of the first stage, random networks per step.
struct Measure {
  double epochs, rate;
  int networks;
};
constexpr Measure kFull{180, 1, 1}, kKernel{125, 0.37, 1};
constexpr Measure kFirstDepth{25, 0.031, 2}, kDepth{125, 0.092, 2};
constexpr Measure kFirstExpand{25, 0.031, 4}, kExpand{125, 0.092, 4};

ArchSpace only_largest(ArchSpace space) {
  const auto keep_last = [](auto& list) { list.erase(list.begin(), list.end() - 1); };
  keep_last(space.widths);
  keep_last(space.kernels);
  keep_last(space.expands);
  keep_last(space.depths);
  return space;
}

std::vector<TrainStage> progressive_stages(const ArchSpace& space) {
  std::vector<TrainStage> stages;
  std::vector<double> epochs;
  ArchSpace now = only_largest(space);
  const auto add = [&](const std::string& name, const Measure& measure, bool sort) {
    stages.push_back(
        {name, 0, 0, measure.rate, now, false, measure.networks, !stages.empty(), sort});
    epochs.push_back(measure.epochs);
  };
  // Lets the choices of one list join: the second largest first when there are more than two.
  const auto join = [&](const char* name, auto ArchSpace::*list, const Measure& first,
                        const Measure& measure, bool in_steps, bool sort) {
    const auto& all = space.*list;
    if (all.size() < 2) return;
    if (in_steps && all.size() > 2) {
      now.*list = {all.end() - 2, all.end()};
      add(fmt::format("{} {}", name, fmt::join(now.*list, ",")), first, sort);
    }
    now.*list = all;
    add(fmt::format("{} {}", name, fmt::join(now.*list, ",")), measure, sort);
  };
  add("largest", kFull, false);
  join("kernel", &ArchSpace::kernels, kKernel, kKernel, false, false);
  join("depth", &ArchSpace::depths, kFirstDepth, kDepth, true, false);
  join("expand", &ArchSpace::expands, kFirstExpand, kExpand, true, true);
  join("width", &ArchSpace::widths, kFirstExpand, kExpand, true, true);
  double sum = 0, begin = 0;
  for (const double e : epochs) sum += e;
  for (size_t i = 0; i < stages.size(); ++i) {
    stages[i].begin = begin;
    begin += epochs[i] / sum;
    stages[i].end = i + 1 == stages.size() ? 1 : begin;
  }
  return stages;
}

int64_t macs_of(const ArchSpace& space, const Arch& arch) { return macs(to_network(space, arch)); }

Arch draw_in_band(const ArchSpace& space, int resolution, Rng& rng) {
  const auto low =
      static_cast<double>(macs_of(space, smallest(space, {resolution, space.widths.front()})));
  const auto high =
      static_cast<double>(macs_of(space, largest(space, {resolution, space.widths.back()})));
  const double width = (high - low) / kMacsBands;
  const double center = low + (static_cast<double>(rng.uniform(kMacsBands)) + 0.5) * width;
  Arch best;
  double best_distance = -1;
  for (int i = 0; i < kMacsDraws; ++i) {
    // Fresh ones hardly reach the ends of the range: then the nearest one so far is changed.
    Arch arch = i < kFreshDraws ? sample(space, {resolution, rng.choose(space.widths)}, rng)
                                : mutate(space, best, kMutation, rng);
    const double distance = std::abs(static_cast<double>(macs_of(space, arch)) - center);
    if (best_distance < 0 || distance < best_distance) {
      best = std::move(arch);
      best_distance = distance;
    }
    if (best_distance <= width / 2) break;
  }
  return best;
}

Status one_of(std::string_view name, const std::string& value,
              const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), value) != known.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is \"{}\", expected {}", name, value, join(known)));
}

GapTerm gap_term(const std::string& loss) {
  return loss == "gap_one_sided"    ? GapTerm::kOneSided
         : loss == "gap_stop_train" ? GapTerm::kStopLoss
         : loss == "gap_stop_gap"   ? GapTerm::kStopOther
                                    : GapTerm::kAbsolute;
}

}  // namespace

std::vector<TrainStage> make_stages(const ArchSpace& space, const TrainConfig& config) {
  if (config.trainer == "progressive") return progressive_stages(space);
  std::vector<TrainStage> stages;
  const double begin = config.sort_share;
  if (begin > 0) stages.push_back({"largest", 0, begin, 1, only_largest(space), false, 1});
  stages.push_back(
      {"sandwich", begin, 1, 1, space, true, config.random_nets, false, !stages.empty()});
  return stages;
}

size_t stage_at(const std::vector<TrainStage>& stages, double position) {
  size_t i = 0;
  while (i + 1 < stages.size() && position >= stages[i].end) ++i;
  return i;
}

double rate_at(double position, double warmup_share) {
  if (position < warmup_share) return position / warmup_share;
  const double rest = (position - warmup_share) / std::max(1e-9, 1 - warmup_share);
  return 0.5 * (1 + std::cos(std::acos(-1.0) * std::min(1.0, rest)));
}

double rate_in(const std::vector<TrainStage>& stages, double position, double warmup_share) {
  const TrainStage& stage = stages[stage_at(stages, position)];
  const double inside = (position - stage.begin) / (stage.end - stage.begin);
  return stage.rate * rate_at(inside, warmup_share);
}

std::vector<Arch> draw_networks(const TrainStage& stage, const TrainConfig& config, int64_t step) {
  const ArchSpace& space = stage.space;
  Rng rng(config.seed, "archs", static_cast<uint64_t>(step));
  std::vector<Arch> archs;
  if (stage.sandwich) archs.push_back(largest(space));
  for (int i = 0; i < stage.networks; ++i) {
    const int resolution = rng.choose(space.resolutions);
    archs.push_back(config.sampling == "macs"
                        ? draw_in_band(space, resolution, rng)
                        : sample(space, {resolution, rng.choose(space.widths)}, rng));
  }
  Arch least = smallest(space);
  if (stage.sandwich && canonical(space, least) != canonical(space, archs.front())) {
    archs.push_back(std::move(least));
  }
  return archs;
}

LossOptions loss_options(const TrainConfig& config, int64_t step, Collective* ranks) {
  LossOptions options;
  options.label_smoothing = config.label_smoothing;
  options.gap = gap_term(config.loss);
  options.gap_lambda = config.gap_lambda;
  options.alpha_clip = config.distillation == "alpha" ? config.alpha_clip : 0;
  options.dropout_seed = Rng(config.seed, "dropout", static_cast<uint64_t>(step)).next();
  options.ranks = ranks;
  return options;
}

Status validate(const TrainConfig& c) {
  const auto in = [](std::string_view name, double value, double low, double high) -> Status {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{} is {}, expected {} to {}", name, value, low, high));
  };
  CHANAS_RETURN_IF_ERROR(in("epochs", c.epochs, 0, 1e6));
  CHANAS_RETURN_IF_ERROR(in("budget_s", c.budget_s, 0, 1e9));
  CHANAS_RETURN_IF_ERROR(in("batch_size", c.batch_size, 2, 65536));
  CHANAS_RETURN_IF_ERROR(in("learning_rate", c.learning_rate, 1e-9, 1e9));
  CHANAS_RETURN_IF_ERROR(in("warmup_share", c.warmup_share, 0, 0.9));
  CHANAS_RETURN_IF_ERROR(in("weight_decay", c.weight_decay, 0, 1));
  CHANAS_RETURN_IF_ERROR(in("label_smoothing", c.label_smoothing, 0, 0.9));
  CHANAS_RETURN_IF_ERROR(in("clip", c.clip, 0, 1e9));
  CHANAS_RETURN_IF_ERROR(one_of("trainer", c.trainer, {"sandwich", "progressive"}));
  CHANAS_RETURN_IF_ERROR(one_of("sampling", c.sampling, {"uniform", "macs"}));
  CHANAS_RETURN_IF_ERROR(one_of("distillation", c.distillation, {"soft", "alpha"}));
  CHANAS_RETURN_IF_ERROR(in("alpha_clip", c.alpha_clip, 1, 1e6));
  CHANAS_RETURN_IF_ERROR(in("sort_share", c.sort_share, 0, 0.9));
  CHANAS_RETURN_IF_ERROR(in("random_nets", c.random_nets, 0, 16));
  CHANAS_RETURN_IF_ERROR(one_of("loss", c.loss, loss_names()));
  CHANAS_RETURN_IF_ERROR(in("gap_lambda", c.gap_lambda, 0, 10));
  CHANAS_RETURN_IF_ERROR(in("threads", c.threads, 0, 1024));
  CHANAS_RETURN_IF_ERROR(in("checkpoint_every_s", c.checkpoint_every_s, 0, 1e9));
  CHANAS_RETURN_IF_ERROR(in("max_restarts", c.max_restarts, 0, 1000));
  return parse_augment(c.augment).status();
}

}  // namespace chanas
