#include "chanas/base/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"

namespace chanas {
namespace {

using testing::HasSubstr;

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kDeadline = absl::StatusCode::kDeadlineExceeded;
constexpr auto kCancelled = absl::StatusCode::kCancelled;
constexpr double kLong = 30;  // for what must happen; no test waits for it in vain

StatusOr<ChildProcess> try_shell(const std::string& script, const ChildOptions& options = {}) {
  return ChildProcess::start({"/bin/sh", "-c", script}, options);
}

ChildProcess shell(const std::string& script, const ChildOptions& options = {}) {
  StatusOr<ChildProcess> child = try_shell(script, options);
  CHANAS_CHECK(child.ok()) << child.status();
  return *std::move(child);
}

std::string line_of(ChildProcess& child) {
  const StatusOr<std::string> line = child.read_line(kLong);
  return line.ok() ? *line : child.read_line(0).status().ToString();
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A process that nobody has reaped yet counts as dead.
bool is_running(pid_t pid) {
  const StatusOr<std::string> stat = read_file("/proc/" + std::to_string(pid) + "/stat");
  if (!stat.ok()) return false;
  const size_t state = stat->rfind(") ");
  return state != std::string::npos && stat->at(state + 2) != 'Z' && stat->at(state + 2) != 'X';
}

bool dies(pid_t pid) {
  for (int i = 0; i < 1000 && is_running(pid); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return !is_running(pid);
}

class ChildProcessTest : public testing::Test {
 protected:
  ~ChildProcessTest() override { reset_cancellation(); }
};

TEST_F(ChildProcessTest, TalksInLines) {
  ChildProcess child = shell("while read line; do echo \"<$line>\"; done; exit 3");
  for (const std::string& text : std::vector<std::string>{"one", "", "two words"}) {
    ASSERT_TRUE(child.write_line(text).ok());
    EXPECT_EQ(line_of(child), "<" + text + ">");
  }
  child.close_input();
  const ChildExit exit = child.wait();
  EXPECT_TRUE(exit.exited);
  EXPECT_EQ(exit.code, 3);
  EXPECT_EQ(exit.signal, 0);
}

TEST_F(ChildProcessTest, SeveralLinesAtOnceAndHalfALineAtTheEnd) {
  ChildProcess child = shell("printf 'a\\n\\nb\\nhalf'");
  EXPECT_EQ(line_of(child), "a");
  EXPECT_EQ(line_of(child), "");
  EXPECT_EQ(line_of(child), "b");
  EXPECT_EQ(child.read_line(kLong).status().code(), kUnavailable);
}

TEST_F(ChildProcessTest, LinesLargerThanAnyPipe) {
  ChildProcess child = ChildProcess::start({"/bin/cat"}).value();
  const std::string line(4 << 20, 'x');
  // The child is stuck writing while we are: nobody may wait for the other.
  ASSERT_TRUE(child.write_line(line, kLong).ok());
  ASSERT_TRUE(child.write_line("next", kLong).ok());
  EXPECT_EQ(line_of(child), line);
  EXPECT_EQ(line_of(child), "next");
}

TEST_F(ChildProcessTest, CannotStart) {
  const Status missing = ChildProcess::start({"/no/such/program"}).status();
  EXPECT_EQ(missing.code(), kUnavailable);
  EXPECT_THAT(std::string(message(missing)), HasSubstr("/no/such/program"));
  EXPECT_THAT(std::string(message(missing)), HasSubstr("No such file"));

  const TemporaryFolder folder("child_process_test");
  const std::string text = join_path(folder.path(), "text");
  ASSERT_TRUE(write_file_atomic(text, "not a program").ok());
  EXPECT_EQ(ChildProcess::start({text}).status().code(), kUnavailable);

  ChildOptions options;
  options.stderr_path = "/no/such/folder/log";
  const Status no_log = try_shell("true", options).status();
  EXPECT_EQ(no_log.code(), kUnavailable);
  EXPECT_THAT(std::string(message(no_log)), HasSubstr("/no/such/folder/log"));

  options = {};
  options.cores = {1 << 20};
  EXPECT_EQ(try_shell("true", options).status().code(), kUnavailable);
  options.cores = {CPU_SETSIZE - 1};
  EXPECT_EQ(try_shell("true", options).status().code(), kUnavailable);
}

TEST_F(ChildProcessTest, LeavesNothingOpenWhenItCannotStart) {
  const auto count = [] {
    int open = 0;
    for (int i = 0; i < 256; ++i) open += ::fcntl(i, F_GETFD) >= 0;
    return open;
  };
  // Only the first child opens anything that stays.
  shell("true").wait();
  const int before = count();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(ChildProcess::start({"/no/such/program"}).ok());
    EXPECT_EQ(shell("true").wait().code, 0);
  }
  EXPECT_EQ(count(), before);
}

TEST_F(ChildProcessTest, DiesWhileWeWait) {
  ChildProcess child = shell("sleep 0.1; kill -SEGV $$");
  const Status status = child.read_line(kLong).status();
  EXPECT_EQ(status.code(), kUnavailable);
  EXPECT_THAT(std::string(message(status)), HasSubstr("signal 11"));
  const ChildExit exit = child.wait();
  EXPECT_FALSE(exit.exited);
  EXPECT_EQ(exit.signal, SIGSEGV);
  // Still known after it was reaped, by every way of asking.
  EXPECT_EQ(child.kill().signal, SIGSEGV);
  EXPECT_THAT(child.read_line(0).status().ToString(), HasSubstr("signal 11"));
}

TEST_F(ChildProcessTest, ExitCodeIsInTheMessage) {
  ChildProcess child = shell("echo last; exit 7");
  EXPECT_EQ(line_of(child), "last");
  EXPECT_THAT(child.read_line(kLong).status().ToString(), HasSubstr("exit code 7"));
}

// The death of the child counts, not the end of the pipe, which a grandchild may hold.
TEST_F(ChildProcessTest, DiesButLeavesItsOutputToAGrandchild) {
  ChildProcess child = shell("sleep 1000 & echo $!; exit 5");
  const pid_t grandchild = std::stoi(line_of(child));
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(child.read_line(kLong).status().code(), kUnavailable); }),
            kLong / 2);
  EXPECT_EQ(child.wait().code, 5);
  EXPECT_TRUE(dies(grandchild));
}

TEST_F(ChildProcessTest, WritingToADeadChildIsAnError) {
  ChildProcess child = shell("exit 0");
  while (is_running(child.pid())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(child.write_line("hello").code(), kUnavailable);
  child.wait();
  EXPECT_EQ(child.write_line("hello").code(), kUnavailable);
  child.close_input();
  EXPECT_EQ(child.write_line("hello").code(), kUnavailable);
}

TEST_F(ChildProcessTest, HangingChildMissesItsDeadline) {
  ChildProcess child = shell("echo ready; sleep 1000");
  EXPECT_EQ(line_of(child), "ready");
  const double seconds =
      seconds_of([&] { EXPECT_EQ(child.read_line(0.2).status().code(), kDeadline); });
  EXPECT_GE(seconds, 0.2);
  EXPECT_LT(seconds, kLong / 2);
  EXPECT_EQ(child.read_line(0).status().code(), kDeadline);
  EXPECT_EQ(child.kill().signal, SIGKILL);
}

TEST_F(ChildProcessTest, AnswerThatIsThereBeatsDeadlineAndCancellation) {
  ChildProcess child = shell("echo answer; sleep 1000");
  while (true) {
    request_cancellation();
    const StatusOr<std::string> line = child.read_line(0);
    if (line.ok()) {
      EXPECT_EQ(*line, "answer");
      break;
    }
    ASSERT_EQ(line.status().code(), kCancelled);
  }
}

TEST_F(ChildProcessTest, ChildThatDoesNotReadMissesItsDeadline) {
  ChildProcess child = shell("sleep 1000");
  const std::string line(4 << 20, 'x');
  EXPECT_EQ(child.write_line(line, 0.2).code(), kDeadline);
}

TEST_F(ChildProcessTest, CancellationWhileWaiting) {
  ChildProcess child = shell("sleep 1000");
  for (const bool writing : {false, true}) {
    std::thread canceller([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      request_cancellation();
    });
    const double seconds = seconds_of([&] {
      const Status status =
          writing ? child.write_line(std::string(4 << 20, 'x')) : child.read_line(-1).status();
      EXPECT_EQ(status.code(), kCancelled);
    });
    EXPECT_LT(seconds, kLong / 2);
    canceller.join();
    reset_cancellation();
  }
}

TEST_F(ChildProcessTest, MemoryLimit) {
  const std::string script = "x=$(head -c 300000000 /dev/zero | tr '\\000' a); echo done ${#x}";
  ChildOptions options;
  options.memory_limit_bytes = 64 << 20;
  options.stderr_path = "/dev/null";
  ChildProcess child = shell(script, options);
  EXPECT_EQ(child.read_line(kLong).status().code(), kUnavailable);
  const ChildExit exit = child.wait();
  EXPECT_TRUE(exit.signal != 0 || exit.code != 0);
}

TEST_F(ChildProcessTest, Limits) {
  ChildOptions options;
  options.memory_limit_bytes = 512 << 20;
  ChildProcess child = shell("ulimit -v; ulimit -c", options);
  EXPECT_EQ(line_of(child), "524288");
  EXPECT_EQ(line_of(child), "0");
}

TEST_F(ChildProcessTest, Cores) {
  cpu_set_t allowed;
  ASSERT_EQ(::sched_getaffinity(0, sizeof allowed, &allowed), 0);
  int last = 0;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(static_cast<size_t>(i), &allowed)) last = i;
  }
  const std::string script = "grep Cpus_allowed_list /proc/self/status";
  ChildOptions options;
  options.cores = {last};
  ChildProcess pinned = shell(script, options);
  EXPECT_EQ(line_of(pinned), "Cpus_allowed_list:\t" + std::to_string(last));

  // Unchanged means: as the calling thread.
  std::thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(last), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    ChildProcess inherited = shell(script);
    EXPECT_EQ(line_of(inherited), "Cpus_allowed_list:\t" + std::to_string(last));
  }).join();
}

TEST_F(ChildProcessTest, Environment) {
  ::setenv("CHANAS_TEST_OLD", "old", 1);
  ::setenv("CHANAS_TEST_KEPT", "kept", 1);
  ChildOptions options;
  options.environment = {"CHANAS_TEST_OLD=new", "CHANAS_TEST_ADDED=a=b c"};
  ChildProcess child =
      shell("echo $CHANAS_TEST_OLD,$CHANAS_TEST_KEPT,$CHANAS_TEST_ADDED; env | grep -c TEST_OLD",
            options);
  EXPECT_EQ(line_of(child), "new,kept,a=b c");
  EXPECT_EQ(line_of(child), "1");
  EXPECT_STREQ(std::getenv("CHANAS_TEST_OLD"), "old");
  ::unsetenv("CHANAS_TEST_OLD");
  ::unsetenv("CHANAS_TEST_KEPT");
}

TEST_F(ChildProcessTest, StandardErrorIsAppendedToAFile) {
  const TemporaryFolder folder("child_process_test");
  ChildOptions options;
  options.stderr_path = join_path(folder.path(), "log");
  shell("echo one >&2", options).wait();
  shell("echo two >&2", options).wait();
  EXPECT_EQ(*read_file(options.stderr_path), "one\ntwo\n");
}

TEST_F(ChildProcessTest, InheritsNothingElse) {
  ASSERT_EQ(::dup2(STDERR_FILENO, 57), 57);  // a library's careless open
  ChildProcess other = shell("sleep 1000");
  ChildProcess child = shell("ls /proc/self/fd | tr '\\n' ' '; echo");
  // 3 is the folder that ls itself reads.
  EXPECT_EQ(line_of(child), "0 1 2 3 ");
  ::close(57);
}

TEST_F(ChildProcessTest, StartsWithStandardDescriptorsClosed) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    for (int i = 0; i < 3; ++i) ::close(i);
    ChildProcess child = shell("read line; echo \"$line\"; echo 1>&2");
    const bool echoed = child.write_line("x").ok() && *child.read_line(kLong) == "x";
    ::_exit(echoed ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

// Signals that this program handles, ignores or blocks are as usual in the child.
TEST_F(ChildProcessTest, SignalsAreBackToNormal) {
  const auto old = ::signal(SIGPIPE, SIG_IGN);
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  // No shell, which has its own ideas about SIGINT.
  StatusOr<ChildProcess> child = ChildProcess::start({"/bin/cat", "/proc/self/status", "-"});
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::signal(SIGPIPE, old);
  ASSERT_TRUE(child.ok());
  const auto mask = [&](const std::string& name) {
    for (;;) {
      const std::string line = *child->read_line(kLong);
      if (line.rfind(name, 0) == 0) return std::stoull(line.substr(name.size()), nullptr, 16);
    }
  };
  EXPECT_EQ(mask("SigBlk:"), 0u);
  EXPECT_EQ(mask("SigIgn:") & (1u << (SIGPIPE - 1)), 0u);
  child->interrupt();
  EXPECT_EQ(child->wait().signal, SIGINT);
}

TEST_F(ChildProcessTest, InterruptLetsItSaveAndStop) {
  ChildProcess child =
      shell("trap 'echo saved; exit 9' INT; echo ready; while :; do sleep 0.01; done");
  EXPECT_EQ(line_of(child), "ready");
  child.interrupt();
  EXPECT_EQ(line_of(child), "saved");
  EXPECT_EQ(child.wait().code, 9);
  child.interrupt();  // too late, but harmless
}

TEST_F(ChildProcessTest, TerminalInterruptsDoNotReachIt) {
  ChildProcess child = shell("sleep 1000");
  EXPECT_EQ(::getpgid(child.pid()), child.pid());
  EXPECT_NE(::getpgrp(), child.pid());
}

TEST_F(ChildProcessTest, KillTakesTheWholeGroup) {
  ChildProcess child = shell("sleep 1000 & echo $!; wait");
  const pid_t grandchild = std::stoi(line_of(child));
  EXPECT_TRUE(is_running(grandchild));
  EXPECT_EQ(child.kill().signal, SIGKILL);
  EXPECT_TRUE(dies(grandchild));
}

TEST_F(ChildProcessTest, DestructorAndMoveKill) {
  pid_t first, second;
  {
    ChildProcess child = shell("sleep 1000");
    first = child.pid();
    ChildProcess other = shell("sleep 1000");
    second = other.pid();
    child = std::move(other);
    EXPECT_FALSE(is_running(first));
    EXPECT_TRUE(is_running(second));
    EXPECT_EQ(child.pid(), second);
    EXPECT_EQ(other.pid(), -1);
    EXPECT_EQ(other.write_line("x").code(), kUnavailable);
    EXPECT_EQ(other.read_line(1).status().code(), kUnavailable);
    EXPECT_FALSE(other.wait().exited);
  }
  EXPECT_FALSE(is_running(second));
}

TEST_F(ChildProcessTest, LinesStayToBeReadAfterTheEnd) {
  ChildProcess child = shell("seq 1 100000; exit 2");
  // More than the pipe holds: waiting alone would wait for ever.
  EXPECT_EQ(child.wait().code, 2);
  for (int i = 1; i <= 100000; ++i) ASSERT_EQ(*child.read_line(kLong), std::to_string(i));
  EXPECT_EQ(child.read_line(kLong).status().code(), kUnavailable);
}

TEST_F(ChildProcessTest, WaitsForAChildThatClosedItsOutput) {
  EXPECT_EQ(shell("exec >&-; sleep 0.1; exit 4").wait().code, 4);
}

TEST_F(ChildProcessTest, OutlivesTheThreadThatStartedIt) {
  StatusOr<ChildProcess> child = absl::UnknownError("");
  std::thread([&] { child = try_shell("read line; echo \"$line\""); }).join();
  ASSERT_TRUE(child.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ASSERT_TRUE(child->write_line("still here").ok());
  EXPECT_EQ(line_of(*child), "still here");
}

TEST_F(ChildProcessTest, DiesWithItsParent) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t parent = ::fork();
  if (parent == 0) {
    ChildProcess child = shell("exec sleep 1000");
    const pid_t pid = child.pid();
    if (::write(ends[1], &pid, sizeof pid) != sizeof pid) ::_exit(1);
    for (;;) ::pause();
  }
  pid_t child = 0;
  ASSERT_EQ(::read(ends[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  EXPECT_TRUE(is_running(child));
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  EXPECT_TRUE(dies(child));
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(ChildProcessTest, StartedByManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 5; ++i) {
        ChildProcess child = shell("read line; echo \"$line\"");
        const std::string text = std::to_string(t) + " " + std::to_string(i);
        EXPECT_TRUE(child.write_line(text).ok());
        EXPECT_EQ(line_of(child), text);
        // End of file reaches the child: no other child holds the other end.
        child.close_input();
        EXPECT_EQ(child.wait().code, 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace chanas
