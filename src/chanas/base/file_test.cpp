#include "chanas/base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace chanas {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

// Files of this process cannot grow past `bytes`: the errors of a full disk without filling one.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_ = {};
  sighandler_t old_handler_;
};

class FileTest : public testing::Test {
 protected:
  std::string at(std::string_view name) const { return join_path(folder_.path(), name); }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      result.push_back(entry.path().filename());
    }
    std::sort(result.begin(), result.end());
    return result;
  }

  TemporaryFolder folder_{"file_test"};
};

TEST(FileDeathTest, LinesHaveNoNewline) {
  EXPECT_DEATH(append_line("/dev/null", "a\nb").IgnoreError(), "a line with a newline");
}

TEST_F(FileTest, ReadsWhatWasWritten) {
  std::string bytes(100000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31);
  for (const std::string& content : {std::string(), std::string("\0\n", 2), bytes}) {
    ASSERT_TRUE(write_file_atomic(at("file"), content).ok());
    EXPECT_EQ(*read_file(at("file")), content);
  }
  EXPECT_THAT(names(), ElementsAre("file"));
}

TEST_F(FileTest, ReadsFilesThatDoNotKnowTheirSize) {
  EXPECT_THAT(*read_file("/proc/self/status"), HasSubstr("Pid:"));
}

TEST_F(FileTest, ReadingWhatIsNotThere) {
  const Status missing = read_file(at("missing")).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message(missing)), HasSubstr(at("missing")));
  EXPECT_EQ(read_file(folder_.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FileTest, ReadingThatBreaksOff) {
  // The memory of this process, from address 0, which is never mapped.
  const Status status = read_file("/proc/self/mem").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(status)), HasSubstr("/proc/self/mem"));
}

TEST_F(FileTest, FullDiskLeavesTheOldFile) {
  ASSERT_TRUE(write_file_atomic(at("file"), "old").ok());
  Status status;
  {
    const FileSizeLimit limit(4096);
    status = write_file_atomic(at("file"), std::string(10000, 'x'));
  }
  EXPECT_EQ(status.code(), kExhausted);
  EXPECT_THAT(std::string(message(status)), HasSubstr(at("file")));
  EXPECT_EQ(*read_file(at("file")), "old");
  EXPECT_THAT(names(), ElementsAre("file"));
}

TEST_F(FileTest, WritingIntoAMissingFolder) {
  const Status status = write_file_atomic(at("missing/file"), "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(message(status)), HasSubstr(at("missing/file")));
}

TEST_F(FileTest, WritingOverAFolderLeavesNoTemporaryFile) {
  ASSERT_TRUE(make_folder(at("taken/inner")).ok());
  EXPECT_EQ(write_file_atomic(at("taken"), "x").code(), absl::StatusCode::kInternal);
  EXPECT_THAT(names(), ElementsAre("taken"));
}

TEST_F(FileTest, RelativePathsWork) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder_.path());
  EXPECT_TRUE(write_file_atomic("here", "x").ok());
  EXPECT_TRUE(append_line("lines", "x").ok());
  std::filesystem::current_path(before);
  EXPECT_THAT(names(), ElementsAre("here", "lines"));
}

TEST_F(FileTest, ReadersNeverSeeHalfOfAFile) {
  ASSERT_TRUE(write_file_atomic(at("file"), std::string(50000, 'a')).ok());
  std::vector<std::thread> writers;
  for (const char letter : {'b', 'c'}) {
    writers.emplace_back([this, letter] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(write_file_atomic(at("file"), std::string(50000, letter)).ok());
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    const std::string bytes = *read_file(at("file"));
    ASSERT_EQ(bytes, std::string(50000, bytes[0]));
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_THAT(names(), ElementsAre("file"));
}

TEST_F(FileTest, AppendsLines) {
  EXPECT_TRUE(append_line(at("lines"), "one").ok());
  EXPECT_TRUE(append_line(at("lines"), "").ok());
  EXPECT_TRUE(append_line(at("lines"), "two").ok());
  EXPECT_EQ(*read_file(at("lines")), "one\n\ntwo\n");
}

TEST_F(FileTest, AppendCutsAHalfLastLine) {
  for (const std::string& whole : {std::string(), std::string("one\n")}) {
    for (const size_t half : {size_t{1}, size_t{4095}, size_t{4096}, size_t{10000}}) {
      ASSERT_TRUE(write_file_atomic(at("lines"), whole + std::string(half, 'x')).ok());
      EXPECT_TRUE(append_line(at("lines"), "two").ok());
      EXPECT_EQ(*read_file(at("lines")), whole + "two\n") << half;
    }
  }
}

TEST_F(FileTest, AppendOnAFullDiskLeavesTheLines) {
  ASSERT_TRUE(append_line(at("lines"), "one").ok());
  Status status;
  {
    const FileSizeLimit limit(4096);
    status = append_line(at("lines"), std::string(10000, 'x'));
  }
  EXPECT_EQ(status.code(), kExhausted);
  EXPECT_EQ(*read_file(at("lines")), "one\n");
  EXPECT_EQ(append_line("/dev/full", "x").code(), kExhausted);
}

TEST_F(FileTest, AppendFailures) {
  const Status status = append_line(at("missing/lines"), "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(message(status)), HasSubstr(at("missing/lines")));
  EXPECT_EQ(append_line(folder_.path(), "x").code(), absl::StatusCode::kInternal);
}

// Two processes append, one of them is killed somewhere: what was acknowledged is there, nothing is
// torn, and the survivor's lines go on.
TEST_F(FileTest, AppendedLinesSurviveAKill) {
  const std::string line(20000, 'x');
  for (int round = 0; round < 5; ++round) {
    int acknowledged[2];
    ASSERT_EQ(::pipe(acknowledged), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (;;) {
        if (!append_line(at("lines"), line).ok() || ::write(acknowledged[1], "x", 1) != 1) {
          ::_exit(1);
        }
      }
    }
    ::close(acknowledged[1]);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(append_line(at("lines"), line).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(5 + 3 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    EXPECT_TRUE(append_line(at("lines"), line).ok());
    size_t count = 11;
    char letters[256];
    for (ssize_t got; (got = ::read(acknowledged[0], letters, sizeof letters)) > 0;) {
      count += static_cast<size_t>(got);
    }
    ::close(acknowledged[0]);
    const std::string bytes = *read_file(at("lines"));
    EXPECT_EQ(bytes.size() % (line.size() + 1), 0u);
    EXPECT_GE(bytes.size() / (line.size() + 1), count);
    for (size_t i = 0; i < bytes.size(); i += line.size() + 1) {
      ASSERT_EQ(bytes.substr(i, line.size() + 1), line + "\n");
    }
    std::filesystem::remove(at("lines"));
  }
}

TEST_F(FileTest, MakesFolders) {
  EXPECT_TRUE(make_folder(at("a/b/c")).ok());
  EXPECT_TRUE(make_folder(at("a/b/c")).ok());
  EXPECT_TRUE(make_folder(at("a/b/d/")).ok());
  EXPECT_TRUE(std::filesystem::is_directory(at("a/b/d")));
  ASSERT_TRUE(write_file_atomic(at("file"), "x").ok());
  EXPECT_EQ(make_folder(at("file")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(make_folder(at("file/below")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(make_folder("/proc/chanas").ok());
}

TEST_F(FileTest, Exists) {
  EXPECT_FALSE(file_exists(at("file")));
  ASSERT_TRUE(write_file_atomic(at("file"), "x").ok());
  EXPECT_TRUE(file_exists(at("file")));
  EXPECT_TRUE(file_exists(folder_.path()));
  EXPECT_FALSE(file_exists(""));
}

TEST(JoinPath, PutsOneSlash) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("a//", "/b/c"), "a/b/c");
  EXPECT_EQ(join_path("/", "b"), "/b");
  EXPECT_EQ(join_path("", "b"), "b");
  EXPECT_EQ(join_path("", "/b"), "/b");
  EXPECT_EQ(join_path("a/", ""), "a");
  EXPECT_EQ(join_path("/", ""), "/");
}

TEST(ExecutableFolder, HoldsThisProgram) {
  EXPECT_TRUE(file_exists(join_path(executable_folder(), "base_test")));
}

TEST(TemporaryFolderTest, ComesAndGoes) {
  std::string path;
  {
    const TemporaryFolder folder("chanas"), other("chanas");
    path = folder.path();
    EXPECT_NE(path, other.path());
    EXPECT_TRUE(std::filesystem::is_directory(path));
    ASSERT_TRUE(make_folder(join_path(path, "a/b")).ok());
    ASSERT_TRUE(write_file_atomic(join_path(path, "a/b/file"), "x").ok());
  }
  EXPECT_FALSE(file_exists(path));
}

TEST(TemporaryFolderTest, ThatCannotBeMadeFailsAtTheFirstWrite) {
  const char* old = std::getenv("TMPDIR");
  const std::string before = old != nullptr ? old : "";
  ::setenv("TMPDIR", "/proc/missing", 1);
  const TemporaryFolder folder("chanas");
  old != nullptr ? ::setenv("TMPDIR", before.c_str(), 1) : ::unsetenv("TMPDIR");
  EXPECT_FALSE(file_exists(folder.path()));
  EXPECT_FALSE(write_file_atomic(join_path(folder.path(), "file"), "x").ok());
}

}  // namespace
}  // namespace chanas
