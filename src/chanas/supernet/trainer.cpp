#include "chanas/supernet/trainer.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/progress.h"
#include "chanas/supernet/checkpoint.h"
#include "chanas/supernet/curves.h"
#include "chanas/supernet/evaluate.h"
#include "chanas/supernet/folder_lock.h"
#include "chanas/supernet/job.h"
#include "chanas/supernet/plan.h"
#include "chanas/supernet/prefetch.h"
#include "chanas/supernet/sorting.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMomentum = 0.9;
constexpr double kDefaultEpochs = 12;
constexpr int kRatedBatch = 64;  // learning_rate is for this many images
constexpr int kMaxRollbacks = 10;
constexpr int kHistoryPoints = 100;
constexpr int kAccuracyPoints = 5;  // of the history, with accuracies
constexpr int64_t kQuickImages = 500;
constexpr double kProgressSeconds = 0.25;
// A plan by time: made from this many seconds of steps, corrected once when this share is over.
constexpr double kCalibrationSeconds = 2;
constexpr double kCorrectionPosition = 0.3;
// Of the budget, for what comes after the last step.
constexpr double kReservedShare = 0.03;
// The loss is followed by a running mean. Back at chance (the loss of equal outputs) after it was
// well below: the training has collapsed.
constexpr double kMeanWeight = 0.05;
constexpr double kLearnt = 0.85, kCollapsed = 0.99;  // of the loss at chance

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Json space_identity(const ArchSpace& space, const Dataset& dataset, const Arch* alone) {
  return {{"space", space_fingerprint(space)},
          {"images", dataset.info.fingerprint},
          {"network", alone == nullptr ? "supernet" : arch_id(space, *alone)}};
}

// Of TrainConfig: what decides little or nothing of the result.
const std::set<std::string> kMayChange = {"checkpoint_every_s", "collective",   "device",
                                          "launcher",           "max_restarts", "threads"};

// All that decides the result.
Json full_identity(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
                   const Arch* alone) {
  Json identity = space_identity(space, dataset, alone);
  const Json settings = to_json(config);
  for (const auto& [key, value] : settings.items()) {
    if (!kMayChange.contains(key)) identity[key] = value;
  }
  return identity;
}

std::vector<TrainStage> stages_of(const ArchSpace& space, const TrainConfig& config,
                                  const Arch* alone) {
  if (alone != nullptr) return {{.name = "alone", .space = space}};
  return make_stages(space, config);
}

GapTerm gap_term(const std::string& loss) {
  return loss == "gap_one_sided"    ? GapTerm::kOneSided
         : loss == "gap_stop_train" ? GapTerm::kStopLoss
         : loss == "gap_stop_gap"   ? GapTerm::kStopOther
                                    : GapTerm::kAbsolute;
}

Status check_fits(const ArchSpace& space, const Dataset& dataset) {
  if (space.channels != 3) {
    return absl::InvalidArgumentError(
        fmt::format("space {} has images of {} channels, expected 3", space.name, space.channels));
  }
  if (space.classes == static_cast<int>(dataset.classes.size())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("space {} has {} classes, the images have {}; set `classes` of the space",
                  space.name, space.classes, dataset.classes.size()));
}

class Trainer {
 public:
  Trainer(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
          Augment augment, const std::string& folder, const TrainHooks& hooks, Collective& ranks,
          const Arch* alone)
      : space_(space),
        dataset_(dataset),
        config_(config),
        augment_(augment),
        folder_(folder),
        hooks_(hooks),
        ranks_(ranks),
        alone_(alone),
        identity_(full_identity(space, dataset, config, alone)),
        stages_(stages_of(space, config, alone)),
        supernet_(alone == nullptr ? Supernet(space, config.seed, config.kernel_transform)
                                   : Supernet::alone(space, *alone, config.seed)),
        velocity_(supernet_.values().size()),
        quick_(dataset, Part::kRanking, kQuickImages, kQuickImages) {
    supernet_.use(hooks.device);
    streams_[0] = {.name = "epoch", .images = dataset.part(Part::kTrain)};
    streams_[1] = {.name = "gap epoch", .images = dataset.part(Part::kGap)};
    if (config.loss == "data_matched") {
      streams_[0].images.insert(streams_[0].images.end(), streams_[1].images.begin(),
                                streams_[1].images.end());
    }
  }

  StatusOr<TrainResult> run() {
    CHANAS_RETURN_IF_ERROR(resume());
    CHANAS_RETURN_IF_ERROR(start_curves());
    if (!state_.complete) {
      tell_plan();
      if (state_.steps == 0) make_plan();
      remember();
      while (state_.step < state_.steps) {
        CHANAS_RETURN_IF_ERROR(enter_stage());
        CHANAS_RETURN_IF_ERROR(one_step_or_save());
        if (ranks_.any(cancelled())) {
          request_cancellation();
          CHANAS_RETURN_IF_ERROR(save());
          return check_cancelled();
        }
      }
      CHANAS_RETURN_IF_ERROR(finish());
    }
    return result();
  }

 private:
  // Images of a part in an order of its own for each pass.
  struct Stream {
    std::string name;
    std::vector<int> images;
    int64_t epoch = -1;  // of `order`
    std::vector<int> order = {};
  };

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
    restore(checkpoint->values, checkpoint->momentum);
    if (!checkpoint->teacher.empty()) set_teacher(checkpoint->teacher);
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

  void restore(const std::vector<float>& values, const std::vector<float>& velocity) {
    std::copy(values.begin(), values.end(), supernet_.values().begin());
    velocity_ = velocity;
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
    const auto stage = static_cast<int64_t>(stage_at(stages_, position()));
    if (stage == state_.stage) return absl::OkStatus();
    while (state_.stage < stage) {
      const TrainStage &before = stages_[static_cast<size_t>(state_.stage)],
                       &after = stages_[static_cast<size_t>(++state_.stage)];
      if (after.taught && !teacher_) set_teacher(supernet_.values());
      if (after.sort_channels) {
        sort_channels(before.space, supernet_.parameters(), supernet_.values());
      }
    }
    std::fill(velocity_.begin(), velocity_.end(), 0.0f);
    state_.mean_loss = state_.least_loss = -1;
    return save();
  }

  void make_plan() {
    state_.planned = config_.budget_s <= 0 || config_.epochs > 0;
    if (state_.planned) {
      state_.steps = steps_of(config_.epochs > 0 ? config_.epochs : kDefaultEpochs);
      return;
    }
    // Steps whose gradient is thrown away; the first one is slow.
    gradient(0);
    const Clock::time_point start = Clock::now();
    int64_t count = 0;
    while (count < 3 || ranks_.of_first(seconds_since(start)) < kCalibrationSeconds) {
      gradient(++count);
    }
    plan_for(seconds_since(start) / static_cast<double>(count));
  }

  void plan_for(double seconds_per_step) {
    const double left = config_.budget_s * (1 - kReservedShare) - seconds();
    const double steps = ranks_.of_first(std::floor(left / seconds_per_step));
    state_.steps = state_.step + std::max<int64_t>(10, static_cast<int64_t>(steps));
  }

  // The speed of the first seconds may mislead; that of nearly a third does not.
  void correct_plan() {
    state_.base_position = position();
    state_.base_step = state_.step;
    plan_for((seconds() - first_step_seconds_) / static_cast<double>(state_.step - first_step_));
    state_.planned = true;
  }

  double position() const {
    const auto done = static_cast<double>(state_.step - state_.base_step);
    const auto all = static_cast<double>(std::max<int64_t>(1, state_.steps - state_.base_step));
    return state_.base_position + (1 - state_.base_position) * done / all;
  }

  // --- Step ---

  std::vector<int> images_of_step(Stream& stream, int64_t step) {
    const auto size = static_cast<int64_t>(stream.images.size());
    std::vector<int> images;
    for (int64_t i = step * config_.batch_size; i < (step + 1) * config_.batch_size; ++i) {
      if (stream.epoch != i / size) {
        stream.epoch = i / size;
        stream.order = stream.images;
        Rng(config_.seed, stream.name, static_cast<uint64_t>(stream.epoch)).shuffle(stream.order);
      }
      images.push_back(stream.order[static_cast<size_t>(i % size)]);
    }
    return images;
  }

  struct InputKey {
    int64_t step = 0;
    int resolution = 0;
    bool operator==(const InputKey&) const = default;
  };
  struct Inputs {
    Batch batch, gap_batch;
  };

  // On the worker thread: nothing here may touch what a step changes.
  Inputs make_inputs(const InputKey& key) {
    // This rank's part of the step's images.
    const Share share = share_of(config_.batch_size, ranks_.rank(), ranks_.world());
    const auto batch_of = [&](Stream& stream, uint64_t seed) {
      const std::vector<int> images = images_of_step(stream, key.step);
      Batch batch = make_training_batch(
          dataset_,
          std::span(images).subspan(static_cast<size_t>(share.begin),
                                    static_cast<size_t>(share.end - share.begin)),
          key.resolution, augment_, seed,
          static_cast<uint64_t>(key.step * config_.batch_size + share.begin));
      batch.first = share.begin;
      batch.whole = config_.batch_size;
      return batch;
    };
    Inputs inputs{batch_of(streams_[0], config_.seed), {}};
    if (config_.loss.starts_with("gap")) inputs.gap_batch = batch_of(streams_[1], config_.seed + 1);
    return inputs;
  }

  // The resolution is that of draw_networks().
  InputKey input_key(int64_t step) const {
    if (alone_ != nullptr) return {step, alone_->cell.resolution};
    return {
        step,
        Rng(config_.seed, "resolution", static_cast<uint64_t>(step)).choose(space_.resolutions)};
  }

  Collective* others() { return ranks_.alone() ? nullptr : &ranks_; }

  StepLoss gradient(int64_t step) {
    const auto index = static_cast<uint64_t>(step);
    const TrainStage& stage = stages_[static_cast<size_t>(state_.stage)];
    const std::vector<Arch> archs =
        alone_ == nullptr ? draw_networks(stage, config_, step) : std::vector<Arch>{*alone_};
    const InputKey key = input_key(step);
    CHANAS_CHECK(key.resolution == archs.front().cell.resolution) << key.resolution;
    Inputs inputs = inputs_.take(key, input_key(step + 1));
    if (stage.taught) {
      const Arch teacher = largest(space_, {key.resolution, space_.widths.back()});
      for (Batch* batch : {&inputs.batch, &inputs.gap_batch})
        if (batch->n > 0) batch->teacher = teacher_->batch_logits(teacher, *batch, others());
    }
    LossOptions options;
    options.label_smoothing = config_.label_smoothing;
    options.gap = gap_term(config_.loss);
    options.gap_lambda = config_.gap_lambda;
    options.alpha_clip = config_.distillation == "alpha" ? config_.alpha_clip : 0;
    options.dropout_seed = Rng(config_.seed, "dropout", index).next();
    options.ranks = others();
    std::fill(supernet_.gradients().begin(), supernet_.gradients().end(), 0.0f);
    const StepLoss loss = supernet_.accumulate(
        archs, inputs.batch, inputs.gap_batch.n > 0 ? &inputs.gap_batch : nullptr, options);
    ranks_.sum(supernet_.gradients());
    return loss;
  }

  Status one_step_or_save() {
    try {
      return one_step();
    } catch (const PeerLost&) {
      // Weights and momentum are still those of the last whole step. Without the peers' consent.
      if (ranks_.first()) save_alone().IgnoreError();
      throw;
    }
  }

  Status one_step() {
    if (first_step_ < 0) {
      first_step_ = state_.step;
      first_step_seconds_ = seconds();
      first_step_wait_ = inputs_.wait_seconds();
    }
    const StepLoss loss = gradient(state_.step);
    if (hooks_.on_gradient) hooks_.on_gradient(state_.step, supernet_.gradients());
    double square = 0;
    for (const float g : supernet_.gradients()) square += double{g} * double{g};
    const double norm = std::sqrt(square);
    if (!std::isfinite(loss.loss) || !std::isfinite(norm)) {
      return roll_back("the loss is not finite");
    }
    if (follow(loss.loss)) return roll_back("the loss is back at chance");

    const double clip = config_.clip > 0 ? std::min(1.0, config_.clip / std::max(norm, 1e-12)) : 1;
    sgd_step(supernet_.parameters(), supernet_.gradients(), clip, rate(), kMomentum,
             config_.weight_decay, velocity_, supernet_.values());
    const double before = position();
    state_.gap += loss.gap;
    state_.negative_gaps += loss.negative_gaps;
    state_.point_loss += loss.loss;
    state_.point_gap += loss.gap;
    state_.point_negative_gaps += loss.negative_gaps;
    ++state_.point_steps;
    ++state_.step;

    // Points by position: their number does not depend on how the plan came about.
    const auto points = [](double position) {
      return std::floor(position * kHistoryPoints + 1e-9);
    };
    if (points(position()) > points(before)) CHANAS_RETURN_IF_ERROR(add_point());
    report(loss.loss);
    if (!state_.planned && position() >= kCorrectionPosition) {
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
           rate_in(stages_, position(), config_.warmup_share);
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
    p.learning_rate = rate();
    return p;
  }

  double epochs() const {
    return static_cast<double>(state_.step * config_.batch_size) /
           static_cast<double>(dataset_.part(Part::kTrain).size());
  }

  Arch largest_net() const { return alone_ != nullptr ? *alone_ : largest(space_); }
  Arch smallest_net() const { return alone_ != nullptr ? *alone_ : smallest(space_); }
  Arch random_net() const {
    if (alone_ != nullptr) return *alone_;
    Rng rng(config_.seed, "probe");
    return sample(space_, rng.choose(space_.cells()), rng);
  }

  Status add_point() {
    TrainProgress point = progress();
    if ((state_.history.size() + 1) % (kHistoryPoints / kAccuracyPoints) == 0 && ranks_.first()) {
      point.accuracy_largest = quick_.accuracy(supernet_, largest_net());
      point.accuracy_smallest = quick_.accuracy(supernet_, smallest_net());
      point.accuracy_random = quick_.accuracy(supernet_, random_net());
      const double mean = (point.accuracy_largest + point.accuracy_smallest) / 2;
      if (mean > state_.best_accuracy) {
        state_.best_accuracy = mean;
        state_.best_step = state_.step;
      }
    }
    state_.history.push_back(point);
    state_.point_loss = state_.point_gap = state_.point_negative_gaps = 0;
    state_.point_steps = 0;
    if (hooks_.progress) hooks_.progress(point);
    reported_seconds_ = seconds();
    return ranks_.agree(curves_ ? curves_->add(point) : absl::OkStatus());
  }

  Status start_curves() {
    Status status;
    if (ranks_.first()) {
      StatusOr<Curves> curves = Curves::start(folder_, state_.history);
      status = curves.status();
      if (curves.ok()) curves_ = *std::move(curves);
    }
    return ranks_.agree(status);
  }

  void report(double loss) {
    if (!hooks_.progress || seconds() - reported_seconds_ < kProgressSeconds) return;
    TrainProgress p = progress();
    if (state_.point_steps == 0) p.loss = loss;
    hooks_.progress(p);
    reported_seconds_ = seconds();
  }

  // --- Safety ---

  double chance() const { return std::log(space_.classes); }

  // True: collapsed.
  bool follow(double loss) {
    double& mean = state_.mean_loss;
    mean = mean < 0 ? loss : (1 - kMeanWeight) * mean + kMeanWeight * loss;
    if (state_.least_loss < 0 || mean < state_.least_loss) state_.least_loss = mean;
    return state_.least_loss < kLearnt * chance() && mean > kCollapsed * chance();
  }

  void remember() {
    snapshot_state_ = state_;
    snapshot_values_.assign(supernet_.values().begin(), supernet_.values().end());
    snapshot_velocity_ = velocity_;
  }

  Status save_alone() {
    state_.seconds = seconds();
    const std::span<const float> teacher =
        teacher_ ? std::as_const(*teacher_).values() : std::span<const float>();
    return save_checkpoint(folder_, identity_, supernet_.parameters(), state_, supernet_.values(),
                           velocity_, teacher);
  }

  Status save() {
    CHANAS_RETURN_IF_ERROR(check_weights());
    CHANAS_RETURN_IF_ERROR(ranks_.agree(ranks_.first() ? save_alone() : absl::OkStatus()));
    saved_seconds_ = seconds();
    // Not on the way to a collapse: a rollback would come back to it.
    const bool rising = state_.mean_loss > (state_.least_loss + chance()) / 2;
    if (!rising || state_.least_loss >= kLearnt * chance()) remember();
    return absl::OkStatus();
  }

  Status roll_back(const std::string& why) {
    const int64_t step = state_.step;
    const int rollbacks = state_.rollbacks + 1;
    const double scale = state_.rate_scale / 2;
    if (rollbacks > kMaxRollbacks) {
      return absl::InternalError(fmt::format(
          "{} at step {}, also after {} halvings of the learning rate; lower learning_rate ({}) "
          "in a new folder",
          why, step, kMaxRollbacks, config_.learning_rate));
    }
    state_ = snapshot_state_;
    restore(snapshot_values_, snapshot_velocity_);
    state_.rollbacks = rollbacks;
    state_.rate_scale = scale;
    hooks_.warn(fmt::format("{} at step {}: back to step {} with half the learning rate", why, step,
                            state_.step));
    CHANAS_RETURN_IF_ERROR(start_curves());
    // On disk, or else a kill would bring the old rate back.
    return save();
  }

  Status evaluate() {
    Evaluator evaluator(dataset_, Part::kRanking, 0, 2000);
    state_.accuracy_largest = evaluator.accuracy(supernet_, largest_net());
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    state_.accuracy_smallest = evaluator.accuracy(supernet_, smallest_net());
    if (alone_ != nullptr) {
      state_.accuracy_test = Evaluator(dataset_, Part::kTest, 0, 2000).accuracy(supernet_, *alone_);
    }
    return absl::OkStatus();
  }

  Status finish() {
    const Status evaluated = ranks_.first() ? evaluate() : absl::OkStatus();
    // A rank that is told to stop stops all.
    if (ranks_.any(!evaluated.ok())) return absl::CancelledError("interrupted");
    state_.complete = true;
    return save();
  }

  TrainResult result() const {
    TrainResult r;
    r.steps = state_.step;
    r.epochs = epochs();
    r.seconds = state_.seconds;
    r.params = static_cast<int64_t>(supernet_.values().size());
    r.continued = continued_;
    r.accuracy_largest = state_.accuracy_largest;
    r.accuracy_smallest = state_.accuracy_smallest;
    r.accuracy_test = state_.accuracy_test;
    const auto steps = static_cast<double>(std::max<int64_t>(1, state_.step));
    r.mean_gap = state_.gap / steps;
    r.negative_gap_share = state_.negative_gaps / steps;
    r.rollbacks = state_.rollbacks;
    r.history = state_.history;
    return r;
  }

  const ArchSpace& space_;
  const Dataset& dataset_;
  const TrainConfig& config_;
  const Augment augment_;
  const std::string& folder_;
  const TrainHooks& hooks_;
  Collective& ranks_;
  const Arch* const alone_;
  const Json identity_;
  const std::vector<TrainStage> stages_;
  Supernet supernet_;
  std::optional<Supernet> teacher_;
  std::vector<float> velocity_;
  Evaluator quick_;
  TrainState state_, snapshot_state_;
  std::vector<float> snapshot_values_, snapshot_velocity_;
  std::optional<Curves> curves_;
  std::array<Stream, 2> streams_;  // train, gap; of the worker thread
  bool continued_ = false;
  double earlier_seconds_ = 0, saved_seconds_ = 0, reported_seconds_ = 0;
  int64_t first_step_ = -1;  // of this attempt, for the speed
  double first_step_seconds_ = 0, first_step_wait_ = 0;
  // Last: its thread uses members above.
  Prefetch<InputKey, Inputs> inputs_{[this](const InputKey& key) { return make_inputs(key); }};
};

}  // namespace

void sgd_step(const std::vector<Supernet::Parameter>& parameters, std::span<const float> gradients,
              double gradient_scale, double rate, double momentum, double weight_decay,
              std::span<float> velocity, std::span<float> values) {
  const auto scale = static_cast<float>(gradient_scale), lr = static_cast<float>(rate);
  const auto mu = static_cast<float>(momentum);
  for (const Supernet::Parameter& p : parameters) {
    const float decay = p.decays ? static_cast<float>(weight_decay) : 0.0f;
    for (size_t i = p.offset; i < p.offset + p.size; ++i) {
      const float g = gradients[i] * scale + decay * values[i];
      velocity[i] = mu * velocity[i] + g;
      values[i] -= lr * (g + mu * velocity[i]);
    }
  }
}

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
