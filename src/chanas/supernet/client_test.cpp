// All jobs through a real chanas-nn process, as the pipeline calls them; and what the caller sees
// when the process fails, is missing or is killed.

#include "chanas/supernet/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "chanas/base/cancellation.h"
#include "chanas/base/child_process.h"
#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/graph/interpreter.h"
#include "chanas/graph/safetensors.h"
#include "chanas/supernet/job.h"

namespace chanas {
namespace {

using testing::HasSubstr;

class ClientTest : public testing::Test {
 protected:
  ClientTest() {
    data_.builtin_images = 400;
    config_.epochs = 2;
    config_.batch_size = 32;
    config_.threads = 1;
  }
  ~ClientTest() override { reset_cancellation(); }

  SupernetFiles files(const std::string& name) {
    return {join_path(folder_.path(), name), program_};
  }
  // A program that does what a shell script says.
  std::string script(const std::string& text) {
    const std::string path = join_path(folder_.path(), "script");
    CHANAS_CHECK(write_file_atomic(path, "#!/bin/sh\n" + text).ok());
    ::chmod(path.c_str(), 0755);
    return path;
  }
  std::string weights(const std::string& name) {
    std::string newest;
    for (const auto& entry : std::filesystem::directory_iterator(files(name).folder)) {
      if (entry.path().extension() == ".safetensors") {
        newest = std::max(newest, entry.path().string());
      }
    }
    return *sha256_file(newest);
  }

  TemporaryFolder folder_{"client"};
  std::string program_ = join_path(CHANAS_BIN_DIR, "chanas-nn");
  ArchSpace space_ = *load_space("demo");
  DataConfig data_;
  TrainConfig config_;
};

TEST_F(ClientTest, WholeRoad) {
  auto info = inspect_data(space_, data_, program_);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->images, 400);
  EXPECT_EQ(info->size, 48);  // as drawn
  EXPECT_EQ(info->classes.size(), size_t{10});
  EXPECT_EQ(info->train + info->gap + info->ranking + info->test, 400);

  int calls = 0;
  auto trained = train_supernet(space_, data_, config_, files("a"), [&](const TrainProgress& p) {
    ++calls;
    EXPECT_LE(p.step, p.steps);
    EXPECT_TRUE(p.planned);
  });
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_GT(calls, 0);
  EXPECT_EQ(trained->steps, std::llround(2.0 * static_cast<double>(info->train) / 32));
  EXPECT_FALSE(trained->continued);

  Rng rng(1);
  std::vector<Arch> archs = {smallest(space_), largest(space_)};
  for (int i = 0; i < 3; ++i) archs.push_back(sample(space_, rng.choose(space_.cells()), rng));
  EvaluateConfig evaluation;
  evaluation.part = "test";
  evaluation.recalibration_images = 100;
  std::vector<size_t> order;
  auto accuracy = evaluate_subnets(space_, data_, files("a"), archs, evaluation,
                                   [&](size_t i, double) { order.push_back(i); });
  ASSERT_TRUE(accuracy.ok()) << accuracy.status();
  EXPECT_THAT(order, testing::ElementsAre(0, 1, 2, 3, 4));
  for (const double a : *accuracy) EXPECT_TRUE(a >= 0 && a <= 1) << a;
  // One arch's accuracy does not depend on the others.
  auto alone = evaluate_subnets(space_, data_, files("a"), {archs[3]}, evaluation, {});
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ(alone->front(), (*accuracy)[3]);

  const std::string to = join_path(folder_.path(), "export");
  auto exported = export_subnet(space_, data_, files("a"), archs[3], to, 100, 1);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(exported->accuracy, (*accuracy)[3]);
  EXPECT_EQ(exported->params, params(to_network(space_, archs[3])));
  EXPECT_EQ(exported->test_images, info->test);
  const Graph graph = lower(to_network(space_, archs[3]));
  auto weights = read_safetensors(exported->weights_path);
  auto reference = read_safetensors(exported->reference_path);
  ASSERT_TRUE(weights.ok() && reference.ok());
  ASSERT_TRUE(check_parameters(graph, weights->parameters).ok());
  const Tensor *input = reference->parameters.find("input"),
               *logits = reference->parameters.find("logits");
  ASSERT_TRUE(input != nullptr && logits != nullptr);
  const auto image = static_cast<size_t>(input->shape[1] * input->shape[2] * 3);
  for (size_t i = 0; i < 4; ++i) {
    const auto begin = input->data.begin() + static_cast<std::ptrdiff_t>(i * image);
    const std::vector<float> output =
        interpret(graph, weights->parameters, {{begin, begin + static_cast<std::ptrdiff_t>(image)}})
            .back();
    const std::vector<float> expected(
        logits->data.begin() + static_cast<std::ptrdiff_t>(10 * i),
        logits->data.begin() + static_cast<std::ptrdiff_t>(10 * i + 10));
    EXPECT_LT(max_relative_error(output, expected), 1e-5);
  }

  std::vector<PredictorSample> samples;
  for (int i = 0; i < 20; ++i) {
    samples.push_back({sample(space_, rng.choose(space_.cells()), rng), 0.5 + 0.01 * i});
  }
  PredictorConfig predictor;
  predictor.hidden = 16;
  predictor.epochs = 5;
  const std::string path = join_path(folder_.path(), "predictor.safetensors");
  auto fitted = fit_predictor(space_, samples, predictor, path, {}, program_);
  ASSERT_TRUE(fitted.ok()) << fitted.status();
  EXPECT_EQ(fitted->predicted.size(), size_t{20});
  EXPECT_TRUE(file_exists(path));
}

// Killed hard at many points: the end is the same.
TEST_F(ClientTest, SurvivesKills) {
  config_.epochs = 3;
  config_.checkpoint_every_s = 0;
  auto undisturbed = train_supernet(space_, data_, config_, files("undisturbed"), {});
  ASSERT_TRUE(undisturbed.ok()) << undisturbed.status();

  const std::string job = join_path(folder_.path(), "job.json");
  ASSERT_TRUE(write_json(job, {{"space", to_json(space_)},
                               {"data", to_json(data_)},
                               {"train", to_json(config_)},
                               {"folder", files("killed").folder}})
                  .ok());
  Rng rng(4);
  int kills = 0;
  for (int i = 0; i < 5; ++i) {
    auto child = ChildProcess::start({program_, "train", job});
    ASSERT_TRUE(child.ok()) << child.status();
    // Killed shortly after its first sign of progress, in the middle of whatever it does then.
    auto line = child->read_line(60);
    if (line.ok() && line->find("\"result\"") == std::string::npos) ++kills;
    std::this_thread::sleep_for(std::chrono::milliseconds(rng.uniform(150)));
    child->kill();
  }
  EXPECT_GT(kills, 2);
  auto result = train_supernet(space_, data_, config_, files("killed"), {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->continued);
  EXPECT_EQ(weights("killed"), weights("undisturbed"));
  EXPECT_EQ(result->accuracy_largest, undisturbed->accuracy_largest);
}

TEST_F(ClientTest, CancellationSavesAndContinues) {
  config_.epochs = 50;
  const auto cancel = [](const TrainProgress&) { request_cancellation(); };
  auto cancelled_run = train_supernet(space_, data_, config_, files("a"), cancel);
  EXPECT_EQ(cancelled_run.status().code(), absl::StatusCode::kCancelled) << cancelled_run.status();
  reset_cancellation();
  int64_t first_step = -1;
  auto again = train_supernet(space_, data_, config_, files("a"), [&](const TrainProgress& p) {
    if (first_step < 0) first_step = p.step;
    request_cancellation();
  });
  EXPECT_TRUE(absl::IsCancelled(again.status()));
  EXPECT_GT(first_step, 1);
}

TEST_F(ClientTest, ErrorsKeepTheirCodeAndMessage) {
  DataConfig missing = data_;
  missing.source = join_path(folder_.path(), "nowhere");
  auto info = inspect_data(space_, missing, program_);
  EXPECT_EQ(info.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message(info.status())), HasSubstr("nowhere does not exist"));

  auto nothing = evaluate_subnets(space_, data_, files("empty"), {largest(space_)}, {}, {});
  EXPECT_EQ(nothing.status().code(), absl::StatusCode::kNotFound) << nothing.status();

  ArchSpace other = space_;
  other.classes = 5;
  auto classes = train_supernet(other, data_, config_, files("a"), {});
  EXPECT_EQ(classes.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(classes.status())), HasSubstr("5 classes"));

  EvaluateConfig part;
  part.part = "train";
  EXPECT_EQ(evaluate_subnets(space_, data_, files("a"), {}, part, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, TellsWhatHappenedToTheProgram) {
  auto missing = inspect_data(space_, data_, join_path(folder_.path(), "chanas-nn"));
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kUnavailable);
  auto killed = inspect_data(space_, data_, script("kill -9 $$\n"));
  EXPECT_EQ(killed.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(message(killed.status())), HasSubstr("signal 9"));
  auto ended = inspect_data(space_, data_, script("exit 3\n"));
  EXPECT_EQ(ended.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(message(ended.status())), HasSubstr("code 3"));
  auto babble = inspect_data(space_, data_, script("echo hello\n"));
  EXPECT_EQ(babble.status().code(), absl::StatusCode::kInternal);
  auto odd = inspect_data(space_, data_, script("echo '{\"event\": \"result\", \"imagez\": 1}'\n"));
  EXPECT_THAT(std::string(message(odd.status())), HasSubstr("did you mean \"images\"?"));
}

TEST_F(ClientTest, ALauncherMayTalk) {
  config_.launcher = "env";
  SupernetFiles talkative = files("launched");
  talkative.program = script("echo hello\necho '{\"event\": \"result\", \"steps\": 7}'\n");
  const auto result = train_supernet(space_, data_, config_, talkative, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->steps, 7);
}

TEST_F(ClientTest, AnInterruptionThatCouldNotSaveSaysSo) {
  SupernetFiles full = files("full");
  ASSERT_TRUE(write_file_atomic(join_path(folder_.path(), "last"),
                                R"({"event": "error", "code": 8, "message": "disk full"})"
                                "\n")
                  .ok());
  full.program = script(
      "trap 'cat ${0%script}last; exit 1' INT\n"
      "echo '{\"event\": \"progress\", \"step\": 1}'\n"
      "while :; do sleep 0.05; done\n");
  const auto stop = [](const TrainProgress&) { request_cancellation(); };
  const Status status = train_supernet(space_, data_, config_, full, stop).status();
  reset_cancellation();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(message(status)), HasSubstr("disk full"));
}

TEST(JobTest, SettingsReadBack) {
  TrainConfig config;
  config.learning_rate = 0.123456789012345;
  config.loss = "gap";
  config.seed = 1ull << 60;
  config.kernel_transform = false;
  TrainConfig back;
  ASSERT_TRUE(from_json(to_json(config), back).ok());
  EXPECT_EQ(to_json(back), to_json(config));
  EXPECT_EQ(back.learning_rate, config.learning_rate);

  Json typo = {{"learning_rat", 0.1}};
  EXPECT_THAT(std::string(message(from_json(typo, back))), HasSubstr("\"learning_rate\"?"));
  Json wrong = {{"batch_size", "many"}};
  EXPECT_EQ(from_json(wrong, back).code(), absl::StatusCode::kInvalidArgument);
  Json negative = {{"seed", -1}};
  EXPECT_FALSE(from_json(negative, back).ok());
  Json fraction = {{"batch_size", 1.5}};
  EXPECT_FALSE(from_json(fraction, back).ok());
}

}  // namespace
}  // namespace chanas
