#include "chanas/supernet/prefetch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace chanas {
namespace {

TEST(PrefetchTest, GivesTheValueOfTheKeyWhateverWasGuessed) {
  std::vector<int> made;  // by one worker at a time
  {
    Prefetch<int, int> squares([&](const int& key) {
      made.push_back(key);
      return key * key;
    });
    EXPECT_EQ(squares.take(2, 3), 4);
    EXPECT_EQ(squares.take(3, 4), 9);
    EXPECT_EQ(squares.take(7, 8), 49);  // not 4
    EXPECT_EQ(squares.take(2, 3), 4);   // back, as after a rollback
    EXPECT_EQ(squares.take(3, 4), 9);
  }
  EXPECT_EQ(made, (std::vector<int>{2, 3, 4, 7, 8, 2, 3, 4}));
}

TEST(PrefetchTest, WorksAheadOnAnotherThread) {
  std::atomic<int> last = -1;
  std::atomic<std::thread::id> worker;
  Prefetch<int, int> values([&](const int& key) {
    worker = std::this_thread::get_id();
    last = key;
    return key;
  });
  values.take(0, 1);
  while (last != 1) std::this_thread::yield();
  EXPECT_EQ(values.take(1, 2), 1);
  EXPECT_NE(worker.load(), std::this_thread::get_id());
  EXPECT_GT(values.wait_seconds(), 0);
}

}  // namespace
}  // namespace chanas
