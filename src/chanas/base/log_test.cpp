#include "chanas/base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include "chanas/base/progress.h"

namespace chanas {
namespace {

using testing::HasSubstr;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

// Makes standard error a terminal of 40 columns as long as it lives, and reads what it shows.
class Terminal {
 public:
  Terminal() : old_stderr_(::dup(STDERR_FILENO)) {
    if (const char* term = std::getenv("TERM")) old_term_ = term;
    ::setenv("TERM", "xterm", 1);
    master_ = ::posix_openpt(O_RDWR | O_NOCTTY);
    ::grantpt(master_);
    ::unlockpt(master_);
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    termios settings;
    ::tcgetattr(slave, &settings);
    ::cfmakeraw(&settings);
    ::tcsetattr(slave, TCSANOW, &settings);
    const winsize size = {24, 40, 0, 0};
    ::ioctl(slave, TIOCSWINSZ, &size);
    ::dup2(slave, STDERR_FILENO);
    ::close(slave);
  }
  ~Terminal() {
    ::dup2(old_stderr_, STDERR_FILENO);
    ::close(old_stderr_);
    ::close(master_);
    old_term_ ? ::setenv("TERM", old_term_->c_str(), 1) : ::unsetenv("TERM");
  }
  std::string read() {
    std::string text;
    pollfd ready = {master_, POLLIN, 0};
    while (::poll(&ready, 1, 50) > 0) {
      char chunk[4096];
      const ssize_t got = ::read(master_, chunk, sizeof chunk);
      if (got <= 0) break;
      text.append(chunk, static_cast<size_t>(got));
    }
    return text;
  }

 private:
  int old_stderr_;
  int master_;
  std::optional<std::string> old_term_;
};

TEST(Log, Lines) {
  CaptureStderr();
  log_info("{} of {}", 1, "two");
  log_warning("{} left", 3);
  log_line("{}");
  EXPECT_EQ(GetCapturedStderr(), "1 of two\nwarning: 3 left\n{}\n");
}

TEST(Log, QuietKeepsWarnings) {
  CaptureStderr();
  set_log_quiet(true);
  log_info("hidden");
  log_warning("shown");
  set_log_quiet(false);
  EXPECT_EQ(GetCapturedStderr(), "warning: shown\n");
}

TEST(Log, LinesOfThreadsDoNotMix) {
  CaptureStderr();
  std::vector<std::thread> threads;
  for (const char letter : {'a', 'b', 'c', 'd'}) {
    threads.emplace_back([letter] {
      for (int i = 0; i < 100; ++i) log_line(std::string(200, letter));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = GetCapturedStderr();
  ASSERT_EQ(text.size(), 400u * 201);
  for (size_t i = 0; i < text.size(); i += 201) {
    ASSERT_EQ(text.substr(i, 201), std::string(200, text[i]) + "\n");
  }
}

TEST(FormatDuration, Units) {
  EXPECT_EQ(format_duration(0), "0 s");
  EXPECT_EQ(format_duration(12.4), "12 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(59.6), "1 min 00 s");
  EXPECT_EQ(format_duration(200), "3 min 20 s");
  EXPECT_EQ(format_duration(3599.7), "1 h 00 min");
  EXPECT_EQ(format_duration(3725), "1 h 02 min");
  EXPECT_EQ(format_duration(3600 * 30), "30 h 00 min");
  EXPECT_EQ(format_duration(-1), "0 s");
  EXPECT_EQ(format_duration(1.0 / 0.0), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
}

TEST(ProgressTest, ShortWorkLeavesNoLineInAFile) {
  CaptureStderr();
  {
    Progress progress("tune", 10);
    for (int i = 1; i <= 10; ++i) progress.update(i, "best 1 us");
  }
  EXPECT_EQ(GetCapturedStderr(), "");
}

TEST(ProgressTest, RewritesOneLineOnATerminal) {
  Terminal terminal;
  {
    Progress progress("tune", 10);
    progress.update(1, "best 9 us");
    EXPECT_THAT(terminal.read(),
                testing::MatchesRegex("\r\x1b\\[Ktune: 1/10 \\(10 %\\), .* left, best 9 us"));
    // Too early to draw again.
    progress.update(2, "best 8 us");
    EXPECT_EQ(terminal.read(), "");
    log_line("hello");
    EXPECT_EQ(terminal.read(), "\r\x1b[Khello\n");
    log_warning("twice");
    EXPECT_EQ(terminal.read(), "warning: twice\n");
    std::this_thread::sleep_for(std::chrono::milliseconds(210));
    progress.update(3, "best 7 us");
    EXPECT_THAT(terminal.read(), HasSubstr("tune: 3/10 (30 %)"));
    progress.update(10, "done");
  }
  // The last state, even when it came too early for an update, and the line is ended.
  const std::string last = terminal.read();
  EXPECT_THAT(last, HasSubstr("tune: 10/10 (100 %), took "));
  EXPECT_EQ(last.back(), '\n');
}

TEST(ProgressTest, LineFitsTheTerminal) {
  Terminal terminal;
  {
    Progress progress("tune", 0);
    progress.update(1, "µµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµµ");
    const std::string text = terminal.read();
    size_t columns = 0;
    for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    // 39 columns behind carriage return and the 3 characters that clear the line.
    EXPECT_EQ(columns, 4u + 39u);
    EXPECT_EQ(text.substr(text.size() - 2), "µ");
  }
}

TEST(ProgressTest, EstimateCountsOnlyThisRunsPace) {
  Terminal terminal;
  Progress progress("run", 1000);
  progress.start_at(990);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  progress.update(991);
  // 0.3 s for one, so some 3 s for the 9 others; by all 991 it would be 0.
  EXPECT_THAT(terminal.read(), testing::ContainsRegex("991/1000 \\(99 %\\), [2-9] s left"));
}

TEST(ProgressTest, EstimateIsNeverMoreThanTheTimeThatIsGiven) {
  Terminal terminal;
  Progress progress("tune", 1'000'000);
  progress.ends_within(7);
  progress.start_at(10);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  progress.update(20);
  EXPECT_THAT(terminal.read(), testing::ContainsRegex("tune: [1-9][0-9]* %, [67] s left"));
}

TEST(ProgressTest, LimitedWorkShowsItsShareOfWorkOrTime) {
  Terminal terminal;
  {
    Progress progress("tune", 100);
    progress.ends_within(1000);
    progress.update(30);
    EXPECT_THAT(terminal.read(), HasSubstr("tune: 30 %"));
    progress.update(100, "100 trials");
  }
  EXPECT_THAT(terminal.read(), testing::ContainsRegex("tune: took 0 s, 100 trials"));
}

TEST(ProgressTest, QuietHidesIt) {
  Terminal terminal;
  set_log_quiet(true);
  {
    Progress progress("tune", 10);
    progress.update(1);
    progress.update(10);
  }
  set_log_quiet(false);
  EXPECT_EQ(terminal.read(), "");
}

}  // namespace
}  // namespace chanas
