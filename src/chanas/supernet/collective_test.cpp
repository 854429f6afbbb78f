// What launchers tell, how a batch is divided, and NCCL by way of a stand-in that joins threads.

#include "chanas/supernet/collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "chanas/supernet/collective_open.h"
#include "chanas/supernet/testing_ranks.h"

namespace chanas {
namespace {

using testing::HasSubstr;
using testing_supernet::on_two_ranks;

StatusOr<Launch> launch(const std::map<std::string, std::string>& environment) {
  return launch_from([&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(LaunchTest, ReadsEveryLauncher) {
  EXPECT_EQ(launch({})->world, 1);
  EXPECT_EQ(launch({})->launcher, "none");
  const auto torchrun = launch({{"RANK", "5"},
                                {"WORLD_SIZE", "8"},
                                {"LOCAL_RANK", "1"},
                                {"LOCAL_WORLD_SIZE", "4"},
                                {"MASTER_ADDR", "node3"},
                                {"MASTER_PORT", "1234"},
                                {"TORCHELASTIC_RESTART_COUNT", "2"},
                                {"SLURM_PROCID", "0"},
                                {"SLURM_NTASKS", "2"},
                                {"SLURM_STEP_ID", "0"}});
  ASSERT_TRUE(torchrun.ok()) << torchrun.status();
  EXPECT_EQ(torchrun->launcher, "torchrun");
  EXPECT_EQ(torchrun->rank, 5);
  EXPECT_EQ(torchrun->world, 8);
  EXPECT_EQ(torchrun->local_rank, 1);
  EXPECT_EQ(torchrun->local_world, 4);
  EXPECT_EQ(torchrun->master_address, "node3");
  EXPECT_EQ(torchrun->master_port, 1234);
  EXPECT_EQ(torchrun->restarts, 2);
  const auto mpi = launch({{"OMPI_COMM_WORLD_RANK", "1"},
                           {"OMPI_COMM_WORLD_SIZE", "2"},
                           {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                           {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  EXPECT_EQ(mpi->launcher, "openmpi");
  EXPECT_EQ(mpi->rank, 1);
  EXPECT_EQ(mpi->master_address, "127.0.0.1");
  const auto slurm = launch({{"SLURM_PROCID", "3"},
                             {"SLURM_NTASKS", "4"},
                             {"SLURM_LOCALID", "1"},
                             {"SLURM_STEP_ID", "0"},
                             {"SLURM_JOB_ID", "70001"},
                             {"SLURM_STEP_NODELIST", "gpu[07-09,12],x"}});
  EXPECT_EQ(slurm->launcher, "slurm");
  EXPECT_EQ(slurm->rank, 3);
  EXPECT_EQ(slurm->master_address, "gpu07");
  EXPECT_EQ(slurm->master_port, 30001);
}

// A batch script, or a shell in an allocation, is no rank: it would wait for peers for ever.
TEST(LaunchTest, ABatchScriptOfSlurmIsAlone) {
  EXPECT_EQ(launch({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}})->world, 1);
}

TEST(LaunchTest, NamesAVariableThatCannotBe) {
  for (const std::string bad : {"x", "", "2", "-1", "1 "}) {
    const auto result = launch({{"RANK", bad}, {"WORLD_SIZE", "2"}});
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(message(result.status())), HasSubstr("RANK is \"" + bad + "\""));
  }
}

TEST(LaunchTest, FirstHost) {
  EXPECT_EQ(first_host("a"), "a");
  EXPECT_EQ(first_host("a,b"), "a");
  EXPECT_EQ(first_host("n[3,5]"), "n3");
  EXPECT_EQ(first_host("n[003-005]"), "n003");
}

TEST(ShareTest, SharesAreEvenAndWhole) {
  for (const int world : {1, 2, 3, 7}) {
    for (const int count : {7, 8, 64, 65}) {
      int end = 0;
      for (int rank = 0; rank < world; ++rank) {
        const Share share = share_of(count, rank, world);
        EXPECT_EQ(share.begin, end);
        EXPECT_GE(share.end - share.begin, count / world);
        EXPECT_LE(share.end - share.begin, count / world + 1);
        end = share.end;
      }
      EXPECT_EQ(end, count);
    }
  }
}

TEST(CollectiveTest, RefusesWhatDoesNotFit) {
  Launch two;
  two.world = 2;
  two.launcher = "torchrun";
  const auto code = [&](const std::string& kind) {
    return open_collective(two, kind, -1).status();
  };
  EXPECT_THAT(std::string(message(code("single"))), HasSubstr("choose auto"));
  EXPECT_THAT(std::string(message(code("mpi"))), HasSubstr("start them with mpirun"));
  EXPECT_THAT(std::string(message(code("smoke"))), HasSubstr("expected auto, single, mpi or nccl"));
  EXPECT_THAT(std::string(message(open_nccl(two, -1, "libnothing.so").status())),
              HasSubstr("no NCCL here"));
  EXPECT_TRUE(open_collective({}, "auto", -1).ok());
}

TEST(NcclTest, SumsAndBroadcasts) {
  on_two_ranks([](Collective& ranks) {
    std::vector<float> values(1000, static_cast<float>(ranks.rank() + 1));
    ranks.sum(std::span(values));
    EXPECT_THAT(values, testing::Each(3.0f));
    double one = 0.5;
    ranks.sum(std::span(&one, 1));
    EXPECT_EQ(one, 1);
    EXPECT_EQ(ranks.of_first(ranks.rank() + 7), 7);
    EXPECT_TRUE(ranks.any(ranks.rank() == 1));
    EXPECT_FALSE(ranks.any(false));
    EXPECT_TRUE(ranks.agree(absl::OkStatus()).ok());
    const Status mine = ranks.first() ? absl::OkStatus() : absl::DataLossError("torn");
    const Status agreed = ranks.agree(mine);
    EXPECT_EQ(agreed.code(),
              ranks.first() ? absl::StatusCode::kAborted : absl::StatusCode::kDataLoss);
    int same = 4, different = ranks.rank();
    EXPECT_TRUE(ranks.check_same(std::as_bytes(std::span(&same, 1)), "fours").ok());
    EXPECT_TRUE(
        absl::IsDataLoss(ranks.check_same(std::as_bytes(std::span(&different, 1)), "the weights")));
  });
}

TEST(NcclTest, AnErrorIsALostPeer) {
  on_two_ranks([](Collective& ranks) {
    // The stand-in fails where it meets this number.
    float value = -12345;
    EXPECT_THROW(ranks.sum(std::span(&value, 1)), PeerLost);
    EXPECT_THROW(ranks.barrier(), PeerLost);
  });
}

}  // namespace
}  // namespace chanas
