#include "chanas/supernet/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/supernet/checkpoint.h"
#include "chanas/supernet/folder_lock.h"
#include "chanas/supernet/history.h"
#include "chanas/supernet/identity.h"
#include "chanas/supernet/plan.h"
#include "chanas/supernet/rollback.h"
#include "chanas/supernet/sorting.h"
#include "chanas/supernet/step_inputs.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMomentum = 0.9;
constexpr double kDefaultEpochs = 12;
constexpr int kRatedBatch = 64;  // learning_rate is for this many images
// A plan by time: made from this many seconds of steps, corrected at these positions by the speed
// since the one before.
constexpr double kCalibrationSeconds = 2;
constexpr double kSettled = 0.8;  // time of a step over that of the steps before
constexpr double kMostCalibration = 0.2;
constexpr std::array kCorrections = {0.3, 0.6};
// Of the budget, for what comes after the last step.
constexpr double kReservedShare = 0.03;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<TrainStage> stages_of(const ArchSpace& space, const TrainConfig& config,
                                  const Arch* alone) {
  if (alone != nullptr) return {{.name = "alone", .space = space}};
  return make_stages(space, config);
}

// The cores compute the steps, but for those of a GPU.
int input_threads(const TrainConfig& config, const Device& device) {
  return device.gpu < 0 ? 1 : std::max(1, set_threads(config.threads) - 1);
}

class Trainer {
 public:
  Trainer(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
          Augment augment, const std::string& folder, const TrainHooks& hooks, Collective& ranks,
          const Arch* alone)
      : space_(space),
        dataset_(dataset),
        config_(config),
        folder_(folder),
        hooks_(hooks),
        ranks_(ranks),
        alone_(alone),
        identity_(full_identity(space, dataset, config, alone)),
        stages_(stages_of(space, config, alone)),
        supernet_(alone == nullptr ? Supernet(space, config.seed, config.kernel_transform)
                                   : Supernet::alone(space, *alone, config.seed)),
        rollback_(space.classes),
        history_(space, dataset, config, folder, hooks, ranks, alone),
        inputs_(dataset, config, augment, ranks, input_threads(config, hooks.device)) {
    supernet_.use(hooks.device);
  }

  StatusOr<TrainResult> run() {
    CHANAS_RETURN_IF_ERROR(resume());
    CHANAS_RETURN_IF_ERROR(history_.start(state_));
    if (!state_.complete) {
      tell_plan();
      if (state_.steps == 0) make_plan();
      if (rollback_.points().empty()) rollback_.remember(state_, supernet_);
      CHANAS_RETURN_IF_ERROR(all_steps_or_save());
      CHANAS_RETURN_IF_ERROR(finish());
    }
    return result();
  }

 private:
  Status resume() {
    StatusOr<Checkpoint> checkpoint =
        load_checkpoint(folder_, identity_, supernet_.parameters(), hooks_.warn);
    const bool none = absl::IsNotFound(checkpoint.status());
    CHANAS_RETURN_IF_ERROR(ranks_.agree(none ? absl::OkStatus() : checkpoint.status()));
    // A folder that only some ranks see would be found here.
    int64_t step = none ? -1 : checkpoint->state.step;
    CHANAS_RETURN_IF_ERROR(ranks_.check_same(std::as_bytes(std::span(&step, 1)),
                                             fmt::format("the checkpoints in {}", folder_)));
    if (none) return absl::OkStatus();
    state_ = checkpoint->state;
    earlier_seconds_ = state_.seconds;
    continued_ = true;
    std::copy(checkpoint->values.begin(), checkpoint->values.end(), supernet_.values().begin());
    std::copy(checkpoint->momentum.begin(), checkpoint->momentum.end(),
              supernet_.momentum().begin());
    if (!checkpoint->teacher.empty()) set_teacher(checkpoint->teacher);
    rollback_ = Rollback(space_.classes, std::move(checkpoint->points));
    return check_weights();
  }

  Status check_weights() {
    return ranks_.check_same(std::as_bytes(supernet_.values()), "the weights");
  }

  void set_teacher(std::span<const float> values) {
    teacher_.emplace(space_, config_.seed, config_.kernel_transform);
    teacher_->use(hooks_.device);
    std::copy(values.begin(), values.end(), teacher_->values().begin());
  }

  double seconds() const { return earlier_seconds_ + seconds_since(hooks_.start); }

  int64_t steps_of(double epochs) const {
    const auto images = static_cast<double>(dataset_.part(Part::kTrain).size());
    return std::max<int64_t>(1, std::llround(epochs * images / config_.batch_size));
  }

  // --- Plan ---

  void tell_plan() {
    if (stages_.size() < 2 || !hooks_.note) return;
    std::string text;
    for (const TrainStage& stage : stages_) {
      text += fmt::format("{}{} {:.0f}-{:.0f} %", text.empty() ? "" : ", ", stage.name,
                          stage.begin * 100, stage.end * 100);
    }
    hooks_.note(fmt::format("stages of {} training: {}", config_.trainer, text));
  }

  // Each stage begins without momentum.
  Status enter_stage() {
    const auto stage = static_cast<int64_t>(stage_at(stages_, state_.position()));
    if (stage == state_.stage) return absl::OkStatus();
    while (state_.stage < stage) {
      const TrainStage &before = stages_[static_cast<size_t>(state_.stage)],
                       &after = stages_[static_cast<size_t>(++state_.stage)];
      if (after.taught && !teacher_) set_teacher(supernet_.values());
      if (after.sort_channels) {
        sort_channels(before.space, supernet_.parameters(), supernet_.values());
      }
    }
    std::ranges::fill(supernet_.momentum(), 0.0f);
    state_.mean_loss = state_.least_loss = -1;
    rollback_.forget();
    rollback_.remember(state_, supernet_);
    return save();
  }

  void make_plan() {
    state_.planned = config_.budget_s <= 0 || config_.epochs > 0;
    if (state_.planned) {
      state_.steps = steps_of(config_.epochs > 0 ? config_.epochs : kDefaultEpochs);
      return;
    }
    // Steps whose gradient is thrown away. The first one is slow, and on a GPU so are many: what
    // computes a shape is built when the shape is met.
    gradient(0);
    int64_t step = 0;
    double last = 0, share = 0;
    do {
      const Clock::time_point start = Clock::now();
      int64_t count = 0;
      while (count < 3 || ranks_.of_first(seconds_since(start)) < kCalibrationSeconds) {
        gradient(++step);
        ++count;
      }
      const double now = ranks_.of_first(seconds_since(start)) / static_cast<double>(count);
      share = last > 0 ? now / last : 0;
      last = now;
    } while (hooks_.device.gpu >= 0 && share < kSettled &&
             ranks_.of_first(seconds()) < kMostCalibration * config_.budget_s);
    plan_for(last);
  }

  void plan_for(double seconds_per_step) {
    const double left = config_.budget_s * (1 - kReservedShare) - seconds();
    const double steps = ranks_.of_first(std::floor(left / seconds_per_step));
    state_.steps = state_.step + std::max<int64_t>(10, static_cast<int64_t>(steps));
  }

  // The speed of the first seconds may mislead, that of a third less so.
  void correct_plan() {
    state_.base_position = state_.position();
    state_.base_step = state_.step;
    plan_for((seconds() - window_seconds_) / static_cast<double>(state_.step - window_step_));
    state_.planned = state_.base_position >= kCorrections.back();
    window_step_ = state_.step;
    window_seconds_ = seconds();
  }

  bool correction_is_due() const {
    if (state_.planned) return false;
    const double position = state_.position();
    return std::ranges::any_of(
        kCorrections, [&](double at) { return at > state_.base_position && position >= at; });
  }

  // --- Step ---

  std::vector<Arch> networks_of(int64_t step) const {
    return alone_ == nullptr
               ? draw_networks(stages_[static_cast<size_t>(state_.stage)], config_, step)
               : std::vector<Arch>{*alone_};
  }

  static StepInputs::Key input_key(int64_t step, const std::vector<Arch>& archs) {
    std::set<int> resolutions;
    for (const Arch& arch : archs) resolutions.insert(arch.cell.resolution);
    return {step, {resolutions.begin(), resolutions.end()}};
  }

  Collective* others() { return ranks_.alone() ? nullptr : &ranks_; }

  StepLoss gradient(int64_t step) {
    const TrainStage& stage = stages_[static_cast<size_t>(state_.stage)];
    const std::vector<Arch> archs = networks_of(step);
    const StepInputs::Key key = input_key(step, archs);
    Inputs inputs = inputs_.take(key, input_key(step + 1, networks_of(step + 1)));
    if (stage.taught) {
      const Arch teacher = largest(space_, {key.resolutions.back(), space_.widths.back()});
      for (Batch* batch : {&inputs.batch, &inputs.gap_batch})
        if (batch->n > 0) batch->teacher = teacher_->batch_logits(teacher, *batch, others());
    }
    supernet_.clear_gradients();
    const StepLoss loss = supernet_.accumulate(archs, inputs.batch,
                                               inputs.gap_batch.n > 0 ? &inputs.gap_batch : nullptr,
                                               loss_options(config_, step, others()));
    if (!ranks_.alone()) ranks_.sum(supernet_.gradients());
    return loss;
  }

  Status all_steps_or_save() {
    try {
      return all_steps();
    } catch (const PeerLost&) {
      // Weights and momentum are still those of the last whole step. Without the peers' consent.
      if (ranks_.first()) save_alone().IgnoreError();
      throw;
    }
  }

  Status all_steps() {
    while (state_.step < state_.steps) {
      CHANAS_RETURN_IF_ERROR(enter_stage());
      CHANAS_RETURN_IF_ERROR(one_step());
      if (ranks_.any(cancelled())) {
        request_cancellation();
        CHANAS_RETURN_IF_ERROR(save());
        return check_cancelled();
      }
    }
    return absl::OkStatus();
  }

  Status one_step() {
    if (first_step_ < 0) {
      first_step_ = window_step_ = state_.step;
      first_step_seconds_ = window_seconds_ = seconds();
      first_step_wait_ = inputs_.wait_seconds();
    }
    const StepLoss loss = gradient(state_.step);
    if (hooks_.on_gradient) hooks_.on_gradient(state_.step, supernet_.gradients());
    const double norm = supernet_.gradient_norm();
    if (!std::isfinite(loss.loss) || !std::isfinite(norm)) {
      return roll_back("the loss is not finite");
    }
    if (rollback_.follow(loss.loss, state_)) return roll_back("the loss is back at chance");

    const double clip = config_.clip > 0 ? std::min(1.0, config_.clip / std::max(norm, 1e-12)) : 1;
    supernet_.update({.gradient_scale = clip,
                      .rate = rate(),
                      .momentum = kMomentum,
                      .weight_decay = config_.weight_decay});
    const double before = state_.position();
    count_step(loss, norm, state_);
    CHANAS_RETURN_IF_ERROR(history_.after_step(
        before, loss.loss, [this] { return progress(); }, supernet_, state_));
    rollback_.remember(state_, supernet_);
    if (correction_is_due()) {
      correct_plan();
      return save();
    }
    // Rank 0 takes the accuracies and keeps the time.
    const bool due =
        state_.best_step == state_.step || seconds() - saved_seconds_ >= config_.checkpoint_every_s;
    return ranks_.of_first(due ? 1 : 0) > 0 ? save() : absl::OkStatus();
  }

  double rate() const {
    return config_.learning_rate * config_.batch_size / kRatedBatch * state_.rate_scale *
           rate_in(stages_, state_.position(), config_.warmup_share);
  }

  TrainProgress progress() const {
    TrainProgress p;
    p.stage = stages_[static_cast<size_t>(state_.stage)].name;
    p.step = state_.step;
    p.steps = state_.steps;
    p.planned = state_.planned;
    p.epoch = epochs();
    const double running = seconds() - first_step_seconds_;
    const auto steps = static_cast<double>(state_.step - first_step_);
    p.images_per_s = steps * config_.batch_size / std::max(running, 1e-9);
    p.input_wait = (inputs_.wait_seconds() - first_step_wait_) / std::max(running, 1e-9);
    p.seconds_left = running / steps * static_cast<double>(state_.steps - state_.step);
    const auto count = static_cast<double>(std::max<int64_t>(1, state_.point_steps));
    p.loss = state_.point_loss / count;
    p.gap = state_.point_gap / count;
    p.negative_gap_share = state_.point_negative_gaps / count;
    p.gradient_norm = state_.point_gradient_norm / count;
    p.learning_rate = rate();
    return p;
  }

  double epochs() const {
    return static_cast<double>(state_.step * config_.batch_size) /
           static_cast<double>(dataset_.part(Part::kTrain).size());
  }

  // --- Safety ---

  Status save_alone() {
    state_.seconds = seconds();
    const std::span<const float> teacher =
        teacher_ ? std::as_const(*teacher_).values() : std::span<const float>();
    return save_checkpoint(folder_, identity_, supernet_.parameters(), state_, supernet_.values(),
                           supernet_.momentum(), teacher, rollback_.points());
  }

  Status save() {
    CHANAS_RETURN_IF_ERROR(check_weights());
    CHANAS_RETURN_IF_ERROR(ranks_.agree(ranks_.first() ? save_alone() : absl::OkStatus()));
    saved_seconds_ = seconds();
    return absl::OkStatus();
  }

  Status roll_back(const std::string& why) {
    const int64_t step = state_.step;
    CHANAS_RETURN_IF_ERROR(rollback_.go_back(why, config_.learning_rate, state_, supernet_.values(),
                                             supernet_.momentum()));
    hooks_.warn(fmt::format("{} at step {}: back to step {} with half the learning rate", why, step,
                            state_.step));
    window_step_ = state_.step;
    window_seconds_ = seconds();
    CHANAS_RETURN_IF_ERROR(history_.start(state_));
    // On disk, or else a kill would bring the old rate back.
    return save();
  }

  Status finish() {
    const Status evaluated =
        ranks_.first() ? history_.conclude(supernet_, state_) : absl::OkStatus();
    // A rank that is told to stop stops all.
    if (ranks_.any(!evaluated.ok())) {
      CHANAS_RETURN_IF_ERROR(save());
      return absl::CancelledError("interrupted");
    }
    state_.complete = true;
    rollback_.forget();
    return save();
  }

  TrainResult result() const {
    TrainResult r = summary(state_);
    r.epochs = epochs();
    for (const Supernet::Parameter& p : supernet_.parameters()) {
      r.params += static_cast<int64_t>(p.size);
    }
    r.continued = continued_;
    return r;
  }

  const ArchSpace& space_;
  const Dataset& dataset_;
  const TrainConfig& config_;
  const std::string& folder_;
  const TrainHooks& hooks_;
  Collective& ranks_;
  const Arch* const alone_;
  const Json identity_;
  const std::vector<TrainStage> stages_;
  Supernet supernet_;
  std::optional<Supernet> teacher_;
  TrainState state_;
  Rollback rollback_;
  History history_;
  StepInputs inputs_;
  bool continued_ = false;
  double earlier_seconds_ = 0, saved_seconds_ = 0;
  int64_t first_step_ = -1;  // of this attempt, for the speed
  double first_step_seconds_ = 0, first_step_wait_ = 0;
  int64_t window_step_ = 0;  // of which correct_plan() takes the speed
  double window_seconds_ = 0;
};

}  // namespace

StatusOr<TrainResult> train(const ArchSpace& space, const Dataset& dataset,
                            const TrainConfig& config, const std::string& folder,
                            const TrainHooks& hooks, const Arch* alone) {
  CHANAS_RETURN_IF_ERROR(validate(config));
  CHANAS_RETURN_IF_ERROR(check_fits(space, dataset));
  CHANAS_ASSIGN_OR_RETURN(Augment augment, parse_augment(config.augment));
  set_threads(config.threads);
  const std::unique_ptr<Collective> single = single_collective();
  Collective& ranks = hooks.ranks == nullptr ? *single : *hooks.ranks;
  if (config.batch_size < ranks.world()) {
    return absl::InvalidArgumentError(
        fmt::format("batch_size is {}, less than one image for each of the {} ranks",
                    config.batch_size, ranks.world()));
  }
  try {
    std::optional<FolderLock> lock;
    Status taken;
    if (ranks.first()) {
      StatusOr<FolderLock> first = FolderLock::take(folder);
      taken = first.status();
      if (first.ok()) lock.emplace(*std::move(first));
    }
    CHANAS_RETURN_IF_ERROR(ranks.agree(taken));
    return Trainer(space, dataset, config, augment, folder, hooks, ranks, alone).run();
  } catch (const PeerLost& lost) {
    return lost.status();
  }
}

StatusOr<Supernet> load_supernet(const ArchSpace& space, const Dataset& dataset,
                                 const std::string& folder,
                                 const std::function<void(const std::string&)>& warn) {
  CHANAS_RETURN_IF_ERROR(check_fits(space, dataset));
  CHANAS_ASSIGN_OR_RETURN(Json trained, checkpoint_identity(folder));
  Supernet supernet(space, 0, trained.value("kernel_transform", true));
  CHANAS_ASSIGN_OR_RETURN(Checkpoint checkpoint,
                          load_checkpoint(folder, space_identity(space, dataset, nullptr),
                                          supernet.parameters(), warn));
  if (!checkpoint.state.complete) {
    warn(fmt::format("the training in {} is not complete: step {} of {}", folder,
                     checkpoint.state.step, checkpoint.state.steps));
  }
  std::copy(checkpoint.values.begin(), checkpoint.values.end(), supernet.values().begin());
  return supernet;
}

}  // namespace chanas
