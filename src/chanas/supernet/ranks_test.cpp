// Training over several processes, as a user starts it: mpirun with two ranks against one process
// with the same batch, a lost rank, another number of ranks after a restart.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "chanas/base/cancellation.h"
#include "chanas/base/child_process.h"
#include "chanas/base/file.h"
#include "chanas/graph/safetensors.h"
#include "chanas/supernet/client.h"
#include "chanas/supernet/job.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

constexpr char kMpirun[] = "mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2";

class RanksTest : public testing::Test {
 protected:
  RanksTest() {
    data_.builtin_images = 300;
    config_.batch_size = 22;  // two and three ranks get unequal parts
    config_.threads = 1;
    config_.checkpoint_every_s = 1e6;
  }
  void SetUp() override {
    if (!file_exists(join_path(CHANAS_BIN_DIR, "chanas-mpi.so")) ||
        std::system("mpirun --version >/dev/null 2>&1") != 0) {
      GTEST_SKIP() << "no mpirun, or no MPI when this was built";
    }
    space_.classes = 10;
    const auto info = inspect_data(space_, data_, program_);
    ASSERT_TRUE(info.ok()) << info.status();
    space_.classes = static_cast<int>(info->classes.size());
    epoch_ = static_cast<double>(info->train);
  }

  void set_steps(int steps) { config_.epochs = steps * config_.batch_size / epoch_; }

  SupernetFiles files(const std::string& name) {
    return {join_path(folder_.path(), name), program_};
  }

  TrainResult completed(const std::string& name, const std::string& launcher) {
    config_.launcher = launcher;
    auto result = train_supernet(space_, data_, config_, files(name), {});
    CHANAS_CHECK(result.ok()) << name << ": " << result.status();
    return *result;
  }

  std::vector<std::string> checkpoints(const std::string& name) {
    return testing_supernet::weight_files(files(name).folder);
  }

  // Largest difference of any weight.
  double difference(const std::string& a, const std::string& b) {
    const auto left = read_safetensors(checkpoints(a).front());
    const auto right = read_safetensors(checkpoints(b).front());
    CHANAS_CHECK(left.ok() && right.ok());
    double most = 0;
    for (const auto& [name, tensor] : left->parameters.items) {
      const Tensor* other = right->parameters.find(name);
      CHANAS_CHECK(other != nullptr && other->shape == tensor.shape) << name;
      if (name.starts_with("momentum.")) continue;
      for (size_t i = 0; i < tensor.data.size(); ++i) {
        most = std::max(most, std::abs(double{tensor.data[i]} - double{other->data[i]}));
      }
    }
    return most;
  }

  const std::string program_ = join_path(CHANAS_BIN_DIR, "chanas-nn");
  TemporaryFolder folder_{"ranks"};
  ArchSpace space_ = testing_supernet::tiny_space();
  DataConfig data_;
  TrainConfig config_;
  double epoch_ = 0;
};

// That the ranks hold the same bits is checked by themselves at every save
// (Collective::check_same). With the gap loss in particular: the sign of a gap decides the
// gradient, so it must not depend on how the sums were divided, however small the gap is in the
// first steps.
TEST_F(RanksTest, TwoRanksEqualOneAfter50Steps) {
  set_steps(50);
  for (const std::string loss : {"plain", "gap"}) {
    config_.loss = loss;
    EXPECT_EQ(completed("one " + loss, "").steps, 50);
    EXPECT_EQ(completed("two " + loss, kMpirun).steps, 50);
    const double most = difference("one " + loss, "two " + loss);
    EXPECT_LT(most, 1e-5) << loss;
    EXPECT_GT(most, 0) << loss << ": the second one was not divided";
    RecordProperty("difference_" + loss, fmt::format("{:.1e}", most));
  }
}

// Ends with 75, and goes on with another number of ranks from the step where it was lost.
TEST_F(RanksTest, ALostRankEndsWith75AndARestartGoesOn) {
  set_steps(60);
  completed("undisturbed", "");
  // Each rank leaves its number and exit code; the second one dies at its own hand.
  const std::string rank = join_path(folder_.path(), "rank");
  ASSERT_TRUE(write_file_atomic(rank, R"(#!/usr/bin/env python3
import os, signal, subprocess, sys, time
folder, command = sys.argv[1], sys.argv[2:]
signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
# mpirun signals whole process groups: the rank is to get one signal, not two.
child = subprocess.Popen(command, start_new_session=True)
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    while not os.path.exists(folder + "/kill"):
        time.sleep(0.001)
    child.kill()
    child.wait()
    os.kill(os.getpid(), signal.SIGKILL)
code = child.wait()
with open(folder + "/code", "w") as file:
    file.write(str(code))
sys.exit(code)
)")
                  .ok());
  ASSERT_EQ(std::system(("chmod +x " + rank).c_str()), 0);
  config_.launcher = std::string(kMpirun) + " " + rank + " " + folder_.path();
  config_.max_restarts = 0;
  int64_t seen = 0;
  const auto result = train_supernet(space_, data_, config_, files("lost"), [&](const auto& p) {
    seen = p.step;
    if (p.step >= 5) CHANAS_CHECK(write_file_atomic(join_path(folder_.path(), "kill"), "").ok());
  });
  // mpirun ends with the code of the rank that it misses first: the killed one or the one left.
  ASSERT_TRUE(absl::IsAborted(result.status()) || absl::IsUnavailable(result.status()))
      << result.status();
  for (int i = 0; i < 100 && !file_exists(join_path(folder_.path(), "code")); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(*read_file(join_path(folder_.path(), "code")), "75");
  ASSERT_EQ(checkpoints("lost").size(), size_t{1});

  // One process instead of two.
  const TrainResult restarted = completed("lost", "");
  EXPECT_TRUE(restarted.continued);
  EXPECT_EQ(restarted.steps, 60);
  EXPECT_LT(difference("undisturbed", "lost"), 1e-5);
}

TEST_F(RanksTest, TheClientStartsLostRanksAgain) {
  set_steps(6);
  // The first attempt dies at once.
  const std::string once = join_path(folder_.path(), "once");
  config_.launcher = "sh -c 'x'";  // no shell reads this: words are words
  config_.max_restarts = 0;
  EXPECT_FALSE(train_supernet(space_, data_, config_, files("bad"), {}).ok());
  config_.max_restarts = 3;
  const std::string script = join_path(folder_.path(), "launch");
  ASSERT_TRUE(write_file_atomic(script, "#!/bin/sh\nif ! test -e " + once + "; then touch " + once +
                                            "; kill -9 $$; fi\nexec " + kMpirun + " \"$@\"\n")
                  .ok());
  ASSERT_EQ(std::system(("chmod +x " + script).c_str()), 0);
  EXPECT_EQ(completed("again", script).steps, 6);
  EXPECT_TRUE(file_exists(once));
}

}  // namespace
}  // namespace chanas
