#include "chanas/base/cancellation.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace chanas {
namespace {

// Death tests, as each runs in a process of its own: handlers and flags stay there.
[[noreturn]] void expect(bool condition) { std::_Exit(condition ? 0 : 1); }

void first_signal(int signal) {
  install_signal_handlers();
  const bool before = cancelled();
  ::raise(signal);
  expect(!before && cancelled());
}

TEST(CancellationDeathTest, FirstSignalAsks) {
  EXPECT_EXIT(first_signal(SIGINT), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(first_signal(SIGTERM), testing::ExitedWithCode(0), "");
}

void second_signal(int signal) {
  install_signal_handlers();
  ::raise(SIGINT);
  ::raise(signal);
  expect(true);
}

TEST(CancellationDeathTest, SecondSignalEndsTheProgram) {
  EXPECT_EXIT(second_signal(SIGINT), testing::ExitedWithCode(130), "");
  EXPECT_EXIT(second_signal(SIGTERM), testing::ExitedWithCode(143), "");
}

void signal_after_request() {
  install_signal_handlers();
  request_cancellation();
  ::raise(SIGINT);
  expect(cancelled());
}

TEST(CancellationDeathTest, OwnRequestIsNoSignal) {
  EXPECT_EXIT(signal_after_request(), testing::ExitedWithCode(0), "");
}

void write_to_a_closed_pipe() {
  install_signal_handlers();
  int ends[2];
  if (::pipe(ends) != 0) std::_Exit(2);
  ::close(ends[0]);
  expect(::write(ends[1], "x", 1) < 0 && errno == EPIPE);
}

TEST(CancellationDeathTest, ClosedPipeIsAnErrorNotTheEnd) {
  EXPECT_EXIT(write_to_a_closed_pipe(), testing::ExitedWithCode(0), "");
}

TEST(Cancellation, Check) {
  EXPECT_TRUE(check_cancelled().ok());
  request_cancellation();
  EXPECT_TRUE(cancelled());
  EXPECT_EQ(check_cancelled(), absl::CancelledError("interrupted"));
  reset_cancellation();
  EXPECT_FALSE(cancelled());
  EXPECT_TRUE(check_cancelled().ok());
}

}  // namespace
}  // namespace chanas
