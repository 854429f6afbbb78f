#pragma once
// A child process that talks in lines over its standard input and output. Its standard error is
// inherited or sent to a file.

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "chanas/base/status.h"

namespace chanas {

struct ChildOptions {
  // Address-space limit (RLIMIT_AS) in bytes; 0: none. A child over it fails to allocate.
  int64_t memory_limit_bytes = 0;
  // File that receives standard error (appended); empty: inherited.
  std::string stderr_path;
  // Cores the child may run on; empty: unchanged.
  std::vector<int> cores;
  // NAME=value pairs added to the environment.
  std::vector<std::string> environment;
};

// How a child ended.
struct ChildExit {
  bool exited = false;  // by itself, with `code`
  int code = 0;
  int signal = 0;  // or by this signal
};

// Owns the process: the destructor kills it (SIGKILL, whole process group) and reaps it. The child
// also dies when its parent does (PR_SET_PDEATHSIG; children of its own do not), but not with the
// thread that started it. What the child leaves running in its process group is killed when it is
// reaped. Not thread safe.
class ChildProcess {
 public:
  // argv[0] is a path. kUnavailable when it cannot be started.
  static StatusOr<ChildProcess> start(const std::vector<std::string>& argv,
                                      const ChildOptions& options = {});
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  // Sends one line (no newline in it; one is added). kUnavailable when the child is gone. A child
  // that does not read makes it wait: kDeadlineExceeded after `timeout_s` (< 0: no deadline),
  // kCancelled when cancelled() turned true while waiting; part of the line may then be sent, so
  // that the child is good for nothing but kill().
  Status write_line(std::string_view line, double timeout_s = -1);
  // The next line without its newline. kDeadlineExceeded after `timeout_s` (< 0: no deadline),
  // kUnavailable when the child closed its output or died (a last line without newline is dropped),
  // kCancelled when cancelled() turned true while waiting. A line that is there already is given
  // whatever the deadline and cancelled() say.
  StatusOr<std::string> read_line(double timeout_s);
  // Closes the child's standard input: "no more requests".
  void close_input();
  // SIGINT to the child alone, so that it saves and stops by itself.
  void interrupt();
  // SIGKILL to its process group, then wait().
  ChildExit kill();
  // Waits until it ends; its lines stay to be read. After close_input() or interrupt(), or else a
  // child that waits for requests never ends.
  ChildExit wait();
  pid_t pid() const { return pid_; }

 private:
  enum class Output { kData, kEnd, kNothing };

  ChildProcess() = default;
  Output drain(int timeout_ms);
  bool ended() const;
  ChildExit reap();
  Status gone() const;

  pid_t pid_ = -1;
  bool running_ = false;
  int input_ = -1;   // our end of the child's standard input
  int output_ = -1;  // our end of its standard output
  std::string name_;
  std::string buffer_;   // read, but not yet given out
  size_t searched_ = 0;  // no newline before this position of buffer_
  ChildExit exit_;
};

}  // namespace chanas
