// The trainer: plan, optimiser, resume to the same bits, damaged checkpoints, rollback; and the
// accuracy that batch normalisation gets from recalibration.

#include "chanas/supernet/trainer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/supernet/evaluate.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing_supernet::colour_images;
using testing_supernet::tiny_space;

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() {
    config_.epochs = 3;
    config_.batch_size = 16;
    config_.checkpoint_every_s = 1e6;
    config_.threads = 1;  // small networks, and cores that other tests use
  }
  ~TrainerTest() override { reset_cancellation(); }

  std::string folder(const std::string& name) { return join_path(folder_.path(), name); }

  // Stops after `stop_after` steps of this attempt, as Ctrl-C would; < 0: never.
  StatusOr<TrainResult> run(const std::string& name, int64_t stop_after = -1) {
    reset_cancellation();
    TrainHooks hooks;
    int64_t steps = 0;
    hooks.warn = [this](const std::string& text) { warnings_.push_back(text); };
    hooks.note = [this](const std::string& text) { notes_.push_back(text); };
    hooks.on_gradient = [&](int64_t step, std::span<float> gradient) {
      if (on_gradient_) on_gradient_(step, gradient);
      if (++steps == stop_after) request_cancellation();
    };
    return train(space_, dataset_, config_, folder(name), hooks);
  }
  TrainResult completed(const std::string& name) {
    auto result = run(name);
    CHANAS_CHECK(result.ok()) << result.status();
    return *result;
  }

  std::vector<std::string> weight_files(const std::string& name) {
    return testing_supernet::weight_files(folder(name));
  }
  std::string weights(const std::string& name) { return *sha256_file(weight_files(name).front()); }

  void expect_refused(const std::string& name, absl::StatusCode code, const std::string& text) {
    auto result = run(name);
    EXPECT_EQ(result.status().code(), code) << result.status();
    EXPECT_THAT(std::string(message(result.status())), HasSubstr(text));
  }

  TemporaryFolder folder_{"trainer"};
  ArchSpace space_ = tiny_space();
  Dataset dataset_ = colour_images(3, 240);
  TrainConfig config_;
  std::vector<std::string> warnings_, notes_;
  std::function<void(int64_t, std::span<float>)> on_gradient_;
};

TEST_F(TrainerTest, LearnsAndTellsHow) {
  config_.epochs = 12;
  double norms = 0;
  on_gradient_ = [&](int64_t, std::span<float> gradient) {
    double squares = 0;
    for (const float g : gradient) squares += static_cast<double>(g) * g;
    norms += std::sqrt(squares);
  };
  const TrainResult result = completed("a");
  EXPECT_EQ(result.steps, std::llround(12 * dataset_.part(Part::kTrain).size() / 16.0));
  EXPECT_FALSE(result.continued);
  EXPECT_GT(result.accuracy_largest, 0.8);
  EXPECT_GT(result.accuracy_smallest, 0.6);
  EXPECT_NEAR(static_cast<double>(result.history.size()), 100, 2);
  EXPECT_LT(result.history.back().loss, result.history.front().loss);
  EXPECT_EQ(result.history.back().step, result.steps);
  int64_t step = 0;
  double told = 0;
  for (const TrainProgress& point : result.history) {
    told += point.gradient_norm * static_cast<double>(point.step - step);
    step = point.step;
  }
  EXPECT_NEAR(told, norms, 1e-6 * norms);
  int with_accuracy = 0;
  for (const TrainProgress& point : result.history) with_accuracy += point.accuracy_largest >= 0;
  EXPECT_EQ(with_accuracy, 5);
  EXPECT_LE(weight_files("a").size(), size_t{4});
  EXPECT_TRUE(file_exists(join_path(folder("a"), "history.csv")));
  // Again: nothing to do.
  const TrainResult again = completed("a");
  EXPECT_EQ(again.steps, result.steps);
  EXPECT_EQ(again.accuracy_largest, result.accuracy_largest);
}

TEST_F(TrainerTest, SameSeedSameBits) {
  completed("a");
  completed("b");
  EXPECT_EQ(weights("a"), weights("b"));
  config_.seed = 2;
  completed("c");
  EXPECT_NE(weights("a"), weights("c"));
}

TEST_F(TrainerTest, ContinuesToTheSameBits) {
  for (const std::string loss : {"plain", "gap", "progressive"}) {
    config_.loss = loss == "progressive" ? "gap_one_sided" : loss;
    config_.trainer = loss == "progressive" ? loss : "sandwich";
    config_.distillation = loss == "gap" ? "alpha" : "soft";
    config_.sort_share = loss == "gap" ? 0.3 : 0;
    const TrainResult undisturbed = completed(loss);
    for (const int64_t stop : {3, 8}) {
      const std::string name = loss + std::to_string(stop);
      int attempts = 0;
      StatusOr<TrainResult> result = absl::CancelledError("");
      while (absl::IsCancelled(result.status())) {
        result = run(name, stop);
        ASSERT_LT(++attempts, 60);
      }
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_GT(attempts, 2);
      EXPECT_TRUE(result->continued);
      EXPECT_EQ(weights(name), weights(loss)) << name;
      EXPECT_EQ(result->accuracy_largest, undisturbed.accuracy_largest);
      EXPECT_EQ(result->mean_gap, undisturbed.mean_gap);
      ASSERT_EQ(result->history.size(), undisturbed.history.size());
      for (size_t i = 0; i < result->history.size(); ++i) {
        EXPECT_EQ(result->history[i].loss, undisturbed.history[i].loss);
        EXPECT_EQ(result->history[i].gradient_norm, undisturbed.history[i].gradient_norm);
      }
    }
  }
}

TEST_F(TrainerTest, KeepsTheLastThreeCheckpointsAndTheBest) {
  config_.checkpoint_every_s = 0;
  config_.epochs = 6;
  // Spoilt from the middle on: the best network lies behind.
  on_gradient_ = [](int64_t step, std::span<float> gradient) {
    if (step < 30) return;
    for (float& g : gradient) g = -g;
  };
  completed("a");
  const std::vector<std::string> files = weight_files("a");
  ASSERT_EQ(files.size(), size_t{4});
  const auto state = [&](const std::string& file) {
    return (*read_json(std::filesystem::path(file).replace_extension(".json").string()))["state"];
  };
  const Json last = state(files[0]), best = state(files[3]);
  EXPECT_EQ(last["step"].get<int64_t>() - 1, state(files[1])["step"].get<int64_t>());
  EXPECT_EQ(last["best_step"], best["step"]);
  EXPECT_LT(best["step"].get<int64_t>(), 60);
  EXPECT_EQ(last["best_accuracy"], best["best_accuracy"]);
  for (const Json& point : last["history"]) {
    const double mean =
        (point["accuracy_largest"].get<double>() + point["accuracy_smallest"].get<double>()) / 2;
    EXPECT_LE(mean, best["best_accuracy"].get<double>());
  }
}

TEST_F(TrainerTest, DiskFullLeavesOlderCheckpoints) {
  completed("undisturbed");
  config_.checkpoint_every_s = 0;
  ASSERT_TRUE(absl::IsCancelled(run("a", 5).status()));
  const std::vector<std::string> files = weight_files("a");
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{}, tight{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  tight = old;
  tight.rlim_cur = 20000;  // less than the weights
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const auto full = run("a");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(full.status().code(), absl::StatusCode::kResourceExhausted) << full.status();
  EXPECT_THAT(std::string(message(full.status())), HasSubstr(folder("a")));
  EXPECT_EQ(weight_files("a"), files);
  completed("a");
  EXPECT_EQ(weights("a"), weights("undisturbed"));
}

TEST_F(TrainerTest, ProgressiveLearnsAndTellsItsStages) {
  config_.trainer = "progressive";
  config_.epochs = 30;
  const TrainResult result = completed("a");
  EXPECT_THAT(notes_, Contains(HasSubstr("largest 0-")));
  EXPECT_THAT(notes_, Contains(HasSubstr("kernel 3,5 ")));
  std::vector<std::string> stages;
  for (const TrainProgress& point : result.history) {
    if (stages.empty() || stages.back() != point.stage) stages.push_back(point.stage);
  }
  EXPECT_THAT(stages,
              ElementsAre("largest", "kernel 3,5", "depth 1,2", "expand 3,4", "width 1,1.3"));
  EXPECT_GT(result.accuracy_largest, 0.8);
  EXPECT_GT(result.accuracy_smallest, 0.6);
}

TEST_F(TrainerTest, EveryLossAndSamplingLearns) {
  config_.epochs = 10;
  config_.sampling = "macs";
  for (const std::string& loss : loss_names()) {
    config_.loss = loss;
    const TrainResult result = completed(loss);
    EXPECT_GT(result.accuracy_largest, 0.6) << loss;
    EXPECT_EQ(result.negative_gap_share > 0, loss.starts_with("gap")) << loss;
    EXPECT_LT(result.negative_gap_share, 1) << loss;
    double gap = 0;
    for (const TrainProgress& point : result.history) gap += std::abs(point.gap);
    EXPECT_EQ(gap > 0, loss.starts_with("gap")) << loss;
  }
}

TEST_F(TrainerTest, TrainsOneNetworkAlone) {
  const Arch arch = smallest(space_, {16, 1.3});
  config_.epochs = 12;
  TrainHooks hooks;
  hooks.warn = [](const std::string&) {};
  const auto result = train(space_, dataset_, config_, folder("alone"), hooks, &arch);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->params, params(to_network(space_, arch)));
  EXPECT_GT(result->accuracy_test, 0.7);
  EXPECT_EQ(result->accuracy_largest, result->accuracy_smallest);
  // It is not a supernet, nor another network.
  EXPECT_EQ(load_supernet(space_, dataset_, folder("alone"), hooks.warn).status().code(),
            absl::StatusCode::kInvalidArgument);
  const Arch other = largest(space_, {16, 1.3});
  EXPECT_EQ(train(space_, dataset_, config_, folder("alone"), hooks, &other).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TrainerTest, RollsBackFromACollapse) {
  config_.epochs = 35;
  config_.random_nets = 0;
  // A shove that makes all outputs alike, once.
  int shoves = 0;
  on_gradient_ = [&](int64_t step, std::span<float> gradient) {
    if (step != 150 || shoves++ > 0) return;
    config_.clip = 0;
    for (float& g : gradient) g = 1e3f;
  };
  const TrainResult result = completed("a");
  EXPECT_GE(result.rollbacks, 1);
  EXPECT_THAT(warnings_, Contains(HasSubstr("back at chance at step")));
  EXPECT_GT(result.accuracy_largest, 0.6);
}

// Else a kill would go on with what was taken back, at the old rate.
TEST_F(TrainerTest, ARollbackTakesCheckpointsBackToo) {
  config_.epochs = 35;
  config_.random_nets = 0;
  config_.checkpoint_every_s = 0;
  int shoves = 0;
  int64_t newest = -1, back_at = -1;
  on_gradient_ = [&](int64_t step, std::span<float> gradient) {
    if (!warnings_.empty() && back_at < 0) {
      back_at = step;
      const std::string file = std::filesystem::path(weight_files("a").front()).filename();
      newest = std::stoll(file.substr(std::string("checkpoint-").size()));
    }
    if (step != 150 || shoves++ > 0) return;
    config_.clip = 0;
    for (float& g : gradient) g = 1e3f;
  };
  EXPECT_GE(completed("a").rollbacks, 1);
  EXPECT_GE(back_at, 0);
  EXPECT_EQ(newest, back_at);
}

// Killed on the way to the collapse, before it shows, and after: all go back to the same place.
TEST_F(TrainerTest, GoesBackAlikeWhetherKilledOrNot) {
  config_.epochs = 30;
  config_.random_nets = 0;
  const std::vector<std::vector<int64_t>> kills = {{}, {155}, {130, 35, 120}};
  std::vector<std::string> ends;
  for (const std::vector<int64_t>& steps : kills) {
    int shoves = 0;
    int64_t last = -1;
    std::vector<int64_t> back;
    on_gradient_ = [&](int64_t step, std::span<float> gradient) {
      if (step <= last) back.push_back(step);
      last = step;
      if (step != 150 || shoves++ > 0) return;
      for (float& g : gradient) g = 1e3f;
    };
    config_.clip = 0;
    const std::string name = "killed" + std::to_string(steps.size());
    for (const int64_t after : steps) ASSERT_TRUE(absl::IsCancelled(run(name, after).status()));
    EXPECT_GE(completed(name).rollbacks, 1);
    EXPECT_THAT(back, ElementsAre(150));
    ends.push_back(weights(name));
  }
  EXPECT_EQ(ends[1], ends[0]);
  EXPECT_EQ(ends[2], ends[0]);
}

TEST_F(TrainerTest, FallsBackToTheCheckpointBefore) {
  completed("undisturbed");
  config_.checkpoint_every_s = 0;
  ASSERT_TRUE(absl::IsCancelled(run("a", 10).status()));
  const std::vector<std::string> files = weight_files("a");
  ASSERT_EQ(files.size(), size_t{3});
  const std::string bytes = *read_file(files[0]);
  ASSERT_TRUE(write_file_atomic(files[0], bytes.substr(0, bytes.size() - 100)).ok());
  completed("a");
  EXPECT_THAT(warnings_, Contains(HasSubstr("going on from the one before")));
  EXPECT_THAT(warnings_, Contains(HasSubstr(files[0])));
  EXPECT_EQ(weights("a"), weights("undisturbed"));

  // The state file torn, too; and a kill's remains lie about.
  ASSERT_TRUE(absl::IsCancelled(run("b", 10).status()));
  const std::string newest = weight_files("b")[0];
  const std::string json = std::filesystem::path(newest).replace_extension(".json").string();
  ASSERT_TRUE(write_file_atomic(json, read_file(json)->substr(0, 200)).ok());
  ASSERT_TRUE(write_file_atomic(newest + ".tmp.1.1", "torn").ok());
  completed("b");
  EXPECT_EQ(weights("b"), weights("undisturbed"));
  EXPECT_FALSE(file_exists(newest + ".tmp.1.1"));

  // None left.
  for (const std::string& file : weight_files("b")) {
    ASSERT_TRUE(write_file_atomic(file, "no weights").ok());
  }
  expect_refused("b", absl::StatusCode::kDataLoss, "no checkpoint");
}

TEST_F(TrainerTest, GoesOnFromCheckpointsThatLackLaterFields) {
  completed("undisturbed");
  const auto stop_and_edit = [&](const std::string& name, const auto& edit) {
    ASSERT_TRUE(absl::IsCancelled(run(name, 10).status()));
    ASSERT_EQ(weight_files(name).size(), size_t{1});
    const std::string json =
        std::filesystem::path(weight_files(name)[0]).replace_extension(".json").string();
    Json checkpoint = *read_json(json);
    edit(checkpoint["state"]);
    EXPECT_EQ(checkpoint.erase("points"), size_t{1});
    ASSERT_TRUE(write_json(json, checkpoint).ok());
  };
  stop_and_edit("a", [](Json& state) {
    EXPECT_EQ(state.erase("point_gradient_norm"), size_t{1});
    EXPECT_EQ(state.erase("failed_at"), size_t{1});
    EXPECT_FALSE(state["history"].empty());
    for (Json& point : state["history"]) point.erase("gradient_norm");
  });
  completed("a");
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_EQ(weights("a"), weights("undisturbed"));
  // Without any other field it is damaged.
  stop_and_edit("b", [](Json& state) { EXPECT_EQ(state.erase("steps"), size_t{1}); });
  expect_refused("b", absl::StatusCode::kDataLoss, "'steps' not found");
}

TEST_F(TrainerTest, RefusesTheCheckpointsOfAnotherTraining) {
  ASSERT_TRUE(absl::IsCancelled(run("a", 3).status()));
  const auto invalid = absl::StatusCode::kInvalidArgument;
  config_.learning_rate = 0.05;
  expect_refused("a", invalid, "learning_rate is 0.08, now it is 0.05");
  config_.learning_rate = 0.08;
  dataset_ = colour_images(3, 240, 2);
  expect_refused("a", invalid, "images");
  dataset_ = colour_images(3, 240);
  space_.blocks[0].channels = 16;
  expect_refused("a", invalid, "space");
  space_ = tiny_space();
  const std::string newest = weight_files("a")[0];
  const std::string json = std::filesystem::path(newest).replace_extension(".json").string();
  Json state = *read_json(json);
  state["version"] = 99;
  ASSERT_TRUE(write_json(json, state).ok());
  expect_refused("a", invalid, "version 99");
}

TEST_F(TrainerTest, RefusesBadSettings) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  config_.loss = "gapp";
  expect_refused("a", invalid, "expected plain, data_matched");
  config_.loss = "plain";
  config_.augment = "strong";
  expect_refused("a", invalid, "expected none, light or crop");
  config_.augment = "light";
  config_.batch_size = 1;
  expect_refused("a", invalid, "batch_size");
  config_.batch_size = 16;
  dataset_ = colour_images(4, 240);
  expect_refused("a", invalid, "3 classes, the images have 4");
}

TEST_F(TrainerTest, OneTrainingPerFolder) {
  ASSERT_TRUE(make_folder(folder("a")).ok());
  const int file = ::open(join_path(folder("a"), "lock").c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(::flock(file, LOCK_EX), 0);
  expect_refused("a", absl::StatusCode::kAborted, "another training");
  ::close(file);
  EXPECT_TRUE(run("a").ok());
}

TEST_F(TrainerTest, RollsBackFromALossThatIsNotFinite) {
  config_.checkpoint_every_s = 0;
  int poisoned = 0;
  on_gradient_ = [&](int64_t step, std::span<float> gradient) {
    if (step == 6 && poisoned++ < 2) gradient[5] = std::numeric_limits<float>::quiet_NaN();
  };
  const TrainResult result = completed("a");
  EXPECT_EQ(result.rollbacks, 2);
  EXPECT_THAT(warnings_, Contains(HasSubstr("half the learning rate")));
  EXPECT_TRUE(std::isfinite(result.history.back().loss));
  EXPECT_GT(result.accuracy_largest, 0.3);

  on_gradient_ = [](int64_t step, std::span<float> gradient) {
    if (step == 6) gradient[0] = std::numeric_limits<float>::infinity();
  };
  expect_refused("b", absl::StatusCode::kInternal, "lower learning_rate");
}

TEST_F(TrainerTest, PlansByTime) {
  config_.epochs = 0;
  config_.budget_s = 6;
  const auto start = std::chrono::steady_clock::now();
  const TrainResult result = completed("a");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // Loose: other programs may take the cores away in the middle.
  EXPECT_LT(seconds, 4 * config_.budget_s);
  EXPECT_GE(result.steps, 10);
  // What was planned is kept, whatever the speed after a continuation.
  config_.budget_s = 5;
  ASSERT_TRUE(absl::IsCancelled(run("b", 12).status()));
  Json state =
      *read_json(std::filesystem::path(weight_files("b")[0]).replace_extension(".json").string());
  EXPECT_GE(state["state"]["steps"].get<int64_t>(), 10);
}

// On networks that share the weights of a short training.
TEST_F(TrainerTest, RecalibrationBeatsStaleStatistics) {
  config_.epochs = 12;
  completed("a");
  auto supernet = load_supernet(space_, dataset_, folder("a"), [](const std::string&) {});
  ASSERT_TRUE(supernet.ok()) << supernet.status();
  Evaluator evaluator(dataset_, Part::kRanking, 0, 2000);
  double fresh_sum = 0, stale_sum = 0;
  Rng rng(3);
  const int count = 6;
  for (int i = 0; i < count; ++i) {
    const Arch arch = sample(space_, {16, i % 2 == 0 ? 1.0 : 1.3}, rng);
    Subnet large = supernet->subnet(largest(space_, {16, 1.3}));
    evaluator.recalibrate(large);
    const Parameters of_large = large.parameters();
    Subnet subnet = supernet->subnet(arch);
    evaluator.recalibrate(subnet);
    Parameters stale = subnet.parameters();
    // Statistics of the largest network, leading channels; its units are this one's superset.
    const auto slot_name = [&](const std::string& name) {
      if (!name.starts_with("units.")) return name;
      const size_t dot = name.find('.', 6);
      const int unit = std::stoi(name.substr(6, dot - 6));
      int slot = unit;
      if (unit > 0) {
        slot = unit <= arch.depth[0] ? unit : 1 + space_.max_depth() + (unit - 1 - arch.depth[0]);
      }
      return "units." + std::to_string(slot) + name.substr(dot);
    };
    for (auto& [name, tensor] : stale.items) {
      if (!name.ends_with(".running_mean") && !name.ends_with(".running_var")) continue;
      const Tensor* from = of_large.find(slot_name(name));
      ASSERT_NE(from, nullptr) << name;
      std::copy_n(from->data.begin(), tensor.data.size(), tensor.data.begin());
    }
    const double fresh = evaluator.accuracy(subnet);
    const double old = evaluator.accuracy(Subnet(subnet.network(), stale));
    EXPECT_GE(fresh, old - 0.05) << arch_id(space_, arch);
    fresh_sum += fresh / count;
    stale_sum += old / count;
  }
  EXPECT_GT(fresh_sum, stale_sum);
  RecordProperty("recalibrated", std::to_string(fresh_sum));
  RecordProperty("stale", std::to_string(stale_sum));
}

}  // namespace
}  // namespace chanas
