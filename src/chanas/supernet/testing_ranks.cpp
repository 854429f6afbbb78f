#include "chanas/supernet/testing_ranks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "chanas/base/file.h"
#include "chanas/supernet/collective_open.h"

namespace chanas::testing_supernet {

void on_two_ranks(const std::function<void(Collective&)>& body) {
  // Another one each time: an old store may live on.
  static int port = 21000 + static_cast<int>(::getpid() % 10000);
  ++port;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&body, rank] {
      Launch launch;
      launch.rank = rank;
      launch.world = 2;
      launch.master_address = "127.0.0.1";
      launch.master_port = port;
      auto ranks = open_nccl(launch, -1, join_path(CHANAS_LIBRARY_DIR, "libnccl_stand_in.so"));
      CHANAS_CHECK(ranks.ok()) << ranks.status();
      try {
        body(**ranks);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace chanas::testing_supernet
