#include "chanas/supernet/trainer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/progress.h"
#include "chanas/supernet/checkpoint.h"
#include "chanas/supernet/evaluate.h"
#include "chanas/supernet/job.h"

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

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Held while a training works in a folder.
class FolderLock {
 public:
  static StatusOr<FolderLock> take(const std::string& folder) {
    CHANAS_RETURN_IF_ERROR(make_folder(folder));
    const std::string path = join_path(folder, "lock");
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) return absl::InvalidArgumentError(fmt::format("cannot write in {}", folder));
    if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
      ::close(file);
      return absl::AbortedError(fmt::format("another training works in {}", folder));
    }
    // What a kill in the middle of writing left behind.
    std::error_code error;
    std::vector<std::filesystem::path> torn;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      if (entry.path().filename().string().find(".tmp.") != std::string::npos) {
        torn.push_back(entry.path());
      }
    }
    for (const auto& path : torn) std::filesystem::remove(path, error);
    return FolderLock(file);
  }
  FolderLock(FolderLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock() {
    if (file_ >= 0) ::close(file_);
  }

 private:
  explicit FolderLock(int file) : file_(file) {}
  int file_;
};

Json space_identity(const ArchSpace& space, const Dataset& dataset) {
  return {{"space", space_fingerprint(space)}, {"images", dataset.info.fingerprint}};
}

// Of TrainConfig: what decides little or nothing of the result.
const std::set<std::string> kMayChange = {"checkpoint_every_s", "collective",   "device",
                                          "launcher",           "max_restarts", "threads"};

// All that decides the result.
Json full_identity(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config) {
  Json identity = space_identity(space, dataset);
  const Json settings = to_json(config);
  for (const auto& [key, value] : settings.items()) {
    if (!kMayChange.contains(key)) identity[key] = value;
  }
  return identity;
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
          Augment augment, const std::string& folder, const TrainHooks& hooks, Collective& ranks)
      : space_(space),
        dataset_(dataset),
        config_(config),
        augment_(augment),
        folder_(folder),
        hooks_(hooks),
        ranks_(ranks),
        identity_(full_identity(space, dataset, config)),
        supernet_(space, config.seed, config.kernel_transform),
        velocity_(supernet_.values().size()),
        quick_(dataset, Part::kRanking, kQuickImages, kQuickImages) {
    supernet_.use(hooks.device);
  }

  StatusOr<TrainResult> run() {
    CHANAS_RETURN_IF_ERROR(resume());
    if (!state_.complete) {
      if (state_.steps == 0) make_plan();
      remember();
      while (state_.step < state_.steps) {
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
    return check_weights();
  }

  Status check_weights() {
    return ranks_.check_same(std::as_bytes(supernet_.values()), "the weights");
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

  std::vector<int> images_of_step(Part part, int64_t step) {
    const std::vector<int>& all = dataset_.part(part);
    const auto size = static_cast<int64_t>(all.size());
    std::vector<int> images;
    for (int64_t i = step * config_.batch_size; i < (step + 1) * config_.batch_size; ++i) {
      auto& [epoch, order] = orders_[static_cast<size_t>(part)];
      if (order.empty() || epoch != i / size) {
        epoch = i / size;
        order = all;
        Rng(config_.seed, part == Part::kTrain ? "epoch" : "gap epoch",
            static_cast<uint64_t>(epoch))
            .shuffle(order);
      }
      images.push_back(order[static_cast<size_t>(i % size)]);
    }
    return images;
  }

  StepLoss gradient(int64_t step) {
    const auto index = static_cast<uint64_t>(step);
    const int resolution = Rng(config_.seed, "resolution", index).choose(space_.resolutions);
    Rng rng(config_.seed, "archs", index);
    std::vector<Arch> archs = {largest(space_, {resolution, space_.widths.back()})};
    for (int i = 0; i < config_.random_nets; ++i) {
      archs.push_back(sample(space_, {resolution, rng.choose(space_.widths)}, rng));
    }
    archs.push_back(smallest(space_, {resolution, space_.widths.front()}));

    // This rank's part of the step's images.
    const Share share = share_of(config_.batch_size, ranks_.rank(), ranks_.world());
    const auto batch_of = [&](Part part, uint64_t seed) {
      const std::vector<int> images = images_of_step(part, step);
      const auto size = static_cast<size_t>(share.end - share.begin);
      Batch batch = make_training_batch(
          dataset_, std::span(images).subspan(static_cast<size_t>(share.begin), size), resolution,
          augment_, seed,
          index * static_cast<uint64_t>(config_.batch_size) + static_cast<uint64_t>(share.begin));
      batch.first = share.begin;
      batch.whole = config_.batch_size;
      return batch;
    };
    const Batch batch = batch_of(Part::kTrain, config_.seed);
    Batch gap_batch;
    const bool gap = config_.loss == "gap";
    if (gap) gap_batch = batch_of(Part::kGap, config_.seed + 1);
    LossOptions options;
    options.label_smoothing = config_.label_smoothing;
    options.gap_lambda = config_.gap_lambda;
    options.dropout_seed = Rng(config_.seed, "dropout", index).next();
    if (!ranks_.alone()) options.ranks = &ranks_;
    std::fill(supernet_.gradients().begin(), supernet_.gradients().end(), 0.0f);
    const StepLoss loss = supernet_.accumulate(archs, batch, gap ? &gap_batch : nullptr, options);
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
    }
    const StepLoss loss = gradient(state_.step);
    if (hooks_.on_gradient) hooks_.on_gradient(state_.step, supernet_.gradients());
    double square = 0;
    for (const float g : supernet_.gradients()) square += double{g} * double{g};
    const double norm = std::sqrt(square);
    if (!std::isfinite(loss.loss) || !std::isfinite(norm)) return roll_back();

    const double clip = config_.clip > 0 ? std::min(1.0, config_.clip / std::max(norm, 1e-12)) : 1;
    sgd_step(supernet_.parameters(), supernet_.gradients(), clip, rate(), kMomentum,
             config_.weight_decay, velocity_, supernet_.values());
    const double before = position();
    state_.gap += loss.gap;
    state_.negative_gaps += loss.negative_gaps;
    state_.point_loss += loss.loss;
    ++state_.point_steps;
    ++state_.step;

    // Points by position: their number does not depend on how the plan came about.
    const auto points = [](double position) {
      return std::floor(position * kHistoryPoints + 1e-9);
    };
    if (points(position()) > points(before)) add_point();
    report(loss.loss);
    if (!state_.planned && position() >= kCorrectionPosition) {
      correct_plan();
      return save();
    }
    const bool due = seconds() - saved_seconds_ >= config_.checkpoint_every_s;
    return ranks_.of_first(due ? 1 : 0) > 0 ? save() : absl::OkStatus();
  }

  double rate() const {
    return config_.learning_rate * config_.batch_size / kRatedBatch * state_.rate_scale *
           rate_at(position(), config_.warmup_share);
  }

  TrainProgress progress() {
    TrainProgress p;
    p.step = state_.step;
    p.steps = state_.steps;
    p.planned = state_.planned;
    p.epoch = epochs();
    const double running = seconds() - first_step_seconds_;
    const auto steps = static_cast<double>(state_.step - first_step_);
    p.images_per_s = steps * config_.batch_size / std::max(running, 1e-9);
    p.seconds_left = running / steps * static_cast<double>(state_.steps - state_.step);
    p.loss = state_.point_loss / static_cast<double>(std::max<int64_t>(1, state_.point_steps));
    p.learning_rate = rate();
    return p;
  }

  double epochs() const {
    return static_cast<double>(state_.step * config_.batch_size) /
           static_cast<double>(dataset_.part(Part::kTrain).size());
  }

  void add_point() {
    TrainProgress point = progress();
    if ((state_.history.size() + 1) % (kHistoryPoints / kAccuracyPoints) == 0 && ranks_.first()) {
      point.accuracy_largest = quick_.accuracy(supernet_, largest(space_));
      point.accuracy_smallest = quick_.accuracy(supernet_, smallest(space_));
    }
    state_.history.push_back(point);
    state_.point_loss = 0;
    state_.point_steps = 0;
    if (hooks_.progress) hooks_.progress(point);
    reported_seconds_ = seconds();
  }

  void report(double loss) {
    if (!hooks_.progress || seconds() - reported_seconds_ < kProgressSeconds) return;
    TrainProgress p = progress();
    if (state_.point_steps == 0) p.loss = loss;
    hooks_.progress(p);
    reported_seconds_ = seconds();
  }

  // --- Safety ---

  void remember() {
    snapshot_state_ = state_;
    snapshot_values_.assign(supernet_.values().begin(), supernet_.values().end());
    snapshot_velocity_ = velocity_;
    saved_seconds_ = seconds();
  }

  Status save_alone() {
    state_.seconds = seconds();
    return save_checkpoint(folder_, identity_, supernet_.parameters(), state_, supernet_.values(),
                           velocity_);
  }

  Status save() {
    CHANAS_RETURN_IF_ERROR(check_weights());
    CHANAS_RETURN_IF_ERROR(ranks_.agree(ranks_.first() ? save_alone() : absl::OkStatus()));
    remember();
    return absl::OkStatus();
  }

  Status roll_back() {
    const int64_t step = state_.step;
    const int rollbacks = state_.rollbacks + 1;
    const double scale = state_.rate_scale / 2;
    if (rollbacks > kMaxRollbacks) {
      return absl::InternalError(fmt::format(
          "the loss is not finite at step {}, also after {} halvings of the learning rate; lower "
          "learning_rate ({}) in a new folder",
          step, kMaxRollbacks, config_.learning_rate));
    }
    state_ = snapshot_state_;
    restore(snapshot_values_, snapshot_velocity_);
    state_.rollbacks = rollbacks;
    state_.rate_scale = scale;
    hooks_.warn(fmt::format(
        "the loss is not finite at step {}: back to step {} with half the learning rate", step,
        state_.step));
    // On disk, or else a kill would bring the old rate back.
    return save();
  }

  Status finish() {
    if (ranks_.first()) {
      Evaluator evaluator(dataset_, Part::kRanking, 0, 2000);
      state_.accuracy_largest = evaluator.accuracy(supernet_, largest(space_));
      if (!cancelled()) state_.accuracy_smallest = evaluator.accuracy(supernet_, smallest(space_));
    }
    if (ranks_.any(cancelled())) return absl::CancelledError("interrupted");
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
  const Json identity_;
  Supernet supernet_;
  std::vector<float> velocity_;
  Evaluator quick_;
  TrainState state_, snapshot_state_;
  std::vector<float> snapshot_values_, snapshot_velocity_;
  // Shuffled images of the epoch that was used last, per part.
  std::array<std::pair<int64_t, std::vector<int>>, 4> orders_;
  bool continued_ = false;
  double earlier_seconds_ = 0, saved_seconds_ = 0, reported_seconds_ = 0;
  int64_t first_step_ = -1;  // of this attempt, for the speed
  double first_step_seconds_ = 0;
};

}  // namespace

double rate_at(double position, double warmup_share) {
  if (position < warmup_share) return position / warmup_share;
  const double rest = (position - warmup_share) / std::max(1e-9, 1 - warmup_share);
  return 0.5 * (1 + std::cos(std::acos(-1.0) * std::min(1.0, rest)));
}

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
  CHANAS_RETURN_IF_ERROR(in("random_nets", c.random_nets, 0, 16));
  CHANAS_RETURN_IF_ERROR(in("gap_lambda", c.gap_lambda, 0, 10));
  CHANAS_RETURN_IF_ERROR(in("threads", c.threads, 0, 1024));
  CHANAS_RETURN_IF_ERROR(in("checkpoint_every_s", c.checkpoint_every_s, 0, 1e9));
  CHANAS_RETURN_IF_ERROR(in("max_restarts", c.max_restarts, 0, 1000));
  if (c.loss != "plain" && c.loss != "gap") {
    return absl::InvalidArgumentError(fmt::format("loss is \"{}\", expected plain or gap", c.loss));
  }
  return parse_augment(c.augment).status();
}

StatusOr<TrainResult> train(const ArchSpace& space, const Dataset& dataset,
                            const TrainConfig& config, const std::string& folder,
                            const TrainHooks& hooks) {
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
    return Trainer(space, dataset, config, augment, folder, hooks, ranks).run();
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
  CHANAS_ASSIGN_OR_RETURN(
      Checkpoint checkpoint,
      load_checkpoint(folder, space_identity(space, dataset), supernet.parameters(), warn));
  if (!checkpoint.state.complete) {
    warn(fmt::format("the training in {} is not complete: step {} of {}", folder,
                     checkpoint.state.step, checkpoint.state.steps));
  }
  std::copy(checkpoint.values.begin(), checkpoint.values.end(), supernet.values().begin());
  return supernet;
}

}  // namespace chanas
