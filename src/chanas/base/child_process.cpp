#include "chanas/base/child_process.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "chanas/base/cancellation.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

// How long a wait may go without looking at cancelled().
constexpr int kSliceMs = 50;

// Where starting failed, for the message.
enum class Stage : int { kNone, kPipe, kFork, kParent, kDescriptors, kMemory, kCores, kExec };

const char* stage_name(Stage stage) {
  switch (stage) {
    case Stage::kPipe:
      return "no pipe for it";
    case Stage::kFork:
      return "no new process";
    case Stage::kParent:
      return "it cannot be tied to its parent";
    case Stage::kDescriptors:
      return "its standard input and output cannot be set";
    case Stage::kMemory:
      return "its memory cannot be limited";
    case Stage::kCores:
      return "it cannot run on these cores";
    case Stage::kExec:
    case Stage::kNone:
      break;
  }
  return "it cannot be executed";
}

struct Failure {
  Stage stage = Stage::kNone;
  int error = 0;
};

struct Spawn {
  // Everything the child needs, made ready by the parent: between fork and exec it may not
  // allocate.
  std::vector<char*> argv, envp;
  int input = -1, output = -1, error_output = -1;  // the child's ends; error_output < 0: inherited
  int64_t memory_limit_bytes = 0;
  cpu_set_t cores;
  bool set_cores = false;
  // Results.
  pid_t pid = -1;
  Failure failure;
};

// Runs in the child of a process that may have many threads: async-signal-safe calls only.
[[noreturn]] void become_child(const Spawn& spawn, pid_t parent, int report) {
  const auto fail = [report](Stage stage) {
    const Failure failure{stage, errno};
    [[maybe_unused]] const ssize_t ignored = ::write(report, &failure, sizeof failure);
    ::_exit(127);
  };
  // Defaults before the mask is lifted, so that no handler of ours runs here. What was ignored
  // stays so through exec (nohup relies on it), but for the signals that we ignore or handle
  // ourselves.
  for (int signal = 1; signal < NSIG; ++signal) {
    const bool ours =
        signal == SIGINT || signal == SIGTERM || signal == SIGPIPE || signal == SIGXFSZ;
    struct sigaction action = {};
    if (!ours && (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN)) {
      continue;
    }
    action = {};
    action.sa_handler = SIG_DFL;
    ::sigaction(signal, &action, nullptr);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);

  if (::setpgid(0, 0) != 0 || ::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail(Stage::kParent);
  // The parent may have died before the line above.
  if (::getppid() != parent) ::_exit(127);

  // All of them are above 2, so no dup2 hits another one's source, and the copies stay open on
  // exec.
  if (::dup2(spawn.input, STDIN_FILENO) < 0 || ::dup2(spawn.output, STDOUT_FILENO) < 0 ||
      (spawn.error_output >= 0 && ::dup2(spawn.error_output, STDERR_FILENO) < 0)) {
    fail(Stage::kDescriptors);
  }
#ifdef SYS_close_range
  // Descriptors that libraries opened without close-on-exec: 4 is CLOSE_RANGE_CLOEXEC. Old kernels
  // refuse; then they leak, as usual.
  ::syscall(SYS_close_range, 3u, ~0u, 4u);
#endif

  if (spawn.set_cores && ::sched_setaffinity(0, sizeof spawn.cores, &spawn.cores) != 0) {
    fail(Stage::kCores);
  }
  const rlimit no_core = {0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  if (spawn.memory_limit_bytes > 0) {
    const auto bytes = static_cast<rlim_t>(spawn.memory_limit_bytes);
    rlimit limit;
    if (::getrlimit(RLIMIT_AS, &limit) != 0) fail(Stage::kMemory);
    // Never above the limit this process itself was given.
    if (limit.rlim_max == RLIM_INFINITY || bytes < limit.rlim_max) limit = {bytes, bytes};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) fail(Stage::kMemory);
  }
  ::execve(spawn.argv[0], spawn.argv.data(), spawn.envp.data());
  fail(Stage::kExec);
  ::_exit(127);
}

void fork_and_exec(Spawn& spawn) {
  // Closed by a successful exec: end of file is the good news.
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) {
    spawn.failure = {Stage::kPipe, errno};
    return;
  }
  // Above 2, where dup2 in the child does not touch it.
  const int write_end = ::fcntl(report[1], F_DUPFD_CLOEXEC, 3);
  ::close(report[1]);
  if (write_end < 0) {
    spawn.failure = {Stage::kPipe, errno};
    ::close(report[0]);
    return;
  }
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) become_child(spawn, parent, write_end);
  const int fork_error = errno;
  ::close(write_end);
  if (pid < 0) {
    spawn.failure = {Stage::kFork, fork_error};
    ::close(report[0]);
    return;
  }
  Failure failure;
  ssize_t got;
  while ((got = ::read(report[0], &failure, sizeof failure)) < 0 && errno == EINTR) {
  }
  ::close(report[0]);
  if (got == static_cast<ssize_t>(sizeof failure)) {
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    spawn.failure = failure;
    return;
  }
  spawn.pid = pid;
}

// Forks all children from one thread that lives as long as the process: the kernel sends the
// parent-death signal when the *thread* that forked ends, and a child should outlive, say, the
// worker of a thread pool that happened to start it.
class Spawner {
 public:
  static Failure run(Spawn& spawn) {
    // Leaked: the thread is still waiting when static objects are destroyed. One per process, as a
    // forked copy of this process has no such thread.
    static std::mutex mutex;
    static Spawner* instance = nullptr;
    static pid_t owner = 0;
    Spawner* spawner;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (instance == nullptr || owner != ::getpid()) {
        Spawner* const fresh = new Spawner;
        if (!fresh->start_thread()) {
          delete fresh;
          return {Stage::kFork, EAGAIN};
        }
        instance = fresh;
        owner = ::getpid();
      }
      spawner = instance;
    }
    Job job{&spawn};
    std::unique_lock<std::mutex> lock(spawner->mutex_);
    spawner->jobs_.push_back(&job);
    spawner->changed_.notify_all();
    spawner->changed_.wait(lock, [&] { return job.done; });
    return spawn.failure;
  }

 private:
  struct Job {
    Spawn* spawn;
    bool done = false;
  };

  bool start_thread() {
    // Signals are for the other threads, whose system calls expect them.
    sigset_t all, old;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &old);
    bool started = true;
    try {
      std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
      started = false;
    }
    ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
    return started;
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return !jobs_.empty(); });
      Job* const job = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      fork_and_exec(*job->spawn);
      lock.lock();
      job->done = true;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job*> jobs_;
};

// The descriptor, moved above 2 and closed on exec; the old number is closed.
int move_above_standard(int descriptor) {
  if (descriptor < 0 || descriptor > 2) return descriptor;
  const int moved = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
  const int error = errno;
  ::close(descriptor);
  errno = error;
  return moved;
}

void close_descriptor(int& descriptor) {
  if (descriptor >= 0) ::close(descriptor);
  descriptor = -1;
}

std::vector<std::string> merged_environment(const std::vector<std::string>& added) {
  const auto name_of = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  std::vector<std::string> merged;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const bool replaced = std::any_of(added.begin(), added.end(), [&](const std::string& other) {
      return name_of(other) == name_of(*entry);
    });
    if (!replaced) merged.emplace_back(*entry);
  }
  merged.insert(merged.end(), added.begin(), added.end());
  return merged;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// Until when to wait. < 0: for ever.
class Deadline {
 public:
  explicit Deadline(double seconds) : seconds_(seconds), start_(Clock::now()) {}
  bool passed() const { return seconds_ >= 0 && left() <= 0; }
  // The next wait in milliseconds; rounded up, so that the last one does not spin.
  int slice_ms() const {
    if (seconds_ < 0) return kSliceMs;
    return static_cast<int>(std::ceil(std::clamp(1000 * left(), 0.0, 1.0 * kSliceMs)));
  }

 private:
  double left() const {
    return seconds_ - std::chrono::duration<double>(Clock::now() - start_).count();
  }
  double seconds_;
  Clock::time_point start_;
};

ChildExit to_exit(int wait_status) {
  ChildExit result;
  result.exited = WIFEXITED(wait_status);
  if (result.exited) result.code = WEXITSTATUS(wait_status);
  if (WIFSIGNALED(wait_status)) result.signal = WTERMSIG(wait_status);
  return result;
}

std::string describe(const ChildExit& exit) {
  if (exit.exited) return fmt::format("ended with exit code {}", exit.code);
  return fmt::format("was ended by signal {} ({})", exit.signal, ::strsignal(exit.signal));
}

}  // namespace

StatusOr<ChildProcess> ChildProcess::start(const std::vector<std::string>& argv,
                                           const ChildOptions& options) {
  CHANAS_CHECK(!argv.empty());
  Spawn spawn;
  std::vector<std::string> arguments = argv;
  std::vector<std::string> environment = merged_environment(options.environment);
  spawn.argv = pointers(arguments);
  spawn.envp = pointers(environment);
  spawn.memory_limit_bytes = options.memory_limit_bytes;

  CPU_ZERO(&spawn.cores);
  for (const int core : options.cores) {
    if (core < 0 || core >= CPU_SETSIZE) {
      return absl::UnavailableError(
          fmt::format("cannot start '{}': no core {} on this machine", argv[0], core));
    }
    CPU_SET(static_cast<size_t>(core), &spawn.cores);
  }
  // The child is forked elsewhere, so "unchanged" has to be said, too.
  spawn.set_cores =
      !options.cores.empty() || ::sched_getaffinity(0, sizeof spawn.cores, &spawn.cores) == 0;

  ChildProcess child;
  child.name_ = argv[0];
  const auto close_child_ends = [&] {
    close_descriptor(spawn.input);
    close_descriptor(spawn.output);
    close_descriptor(spawn.error_output);
  };
  const auto fail = [&](const char* what, int error) {
    close_child_ends();
    return absl::UnavailableError(
        fmt::format("cannot start '{}': {}: {}", argv[0], what, std::strerror(error)));
  };
  // A socket, as MSG_NOSIGNAL spares us SIGPIPE without touching the process's signals.
  int input[2], output[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, input) != 0) {
    return fail(stage_name(Stage::kPipe), errno);
  }
  child.input_ = input[0];
  spawn.input = move_above_standard(input[1]);
  // One direction only: the child's end of file must not wait for itself.
  ::shutdown(child.input_, SHUT_RD);
  if (::pipe2(output, O_CLOEXEC) != 0) return fail(stage_name(Stage::kPipe), errno);
  child.output_ = output[0];
  spawn.output = move_above_standard(output[1]);
  if (spawn.input < 0 || spawn.output < 0) return fail(stage_name(Stage::kPipe), errno);
  if (!options.stderr_path.empty()) {
    spawn.error_output = move_above_standard(
        ::open(options.stderr_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (spawn.error_output < 0) {
      const int error = errno;
      return fail(fmt::format("cannot open '{}' for its messages", options.stderr_path).c_str(),
                  error);
    }
  }

  const Failure failure = Spawner::run(spawn);
  if (failure.stage != Stage::kNone) return fail(stage_name(failure.stage), failure.error);
  close_child_ends();
  child.pid_ = spawn.pid;
  child.running_ = true;
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept { *this = std::move(other); }

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this == &other) return *this;
  kill();
  close_descriptor(input_);
  close_descriptor(output_);
  pid_ = std::exchange(other.pid_, -1);
  running_ = std::exchange(other.running_, false);
  input_ = std::exchange(other.input_, -1);
  output_ = std::exchange(other.output_, -1);
  name_ = std::move(other.name_);
  buffer_ = std::exchange(other.buffer_, {});
  searched_ = std::exchange(other.searched_, 0);
  exit_ = other.exit_;
  return *this;
}

ChildProcess::~ChildProcess() {
  kill();
  close_descriptor(input_);
  close_descriptor(output_);
}

// Moves what the child has written to the buffer.
ChildProcess::Output ChildProcess::drain(int timeout_ms) {
  if (output_ < 0) return Output::kEnd;
  pollfd ready = {output_, POLLIN, 0};
  if (::poll(&ready, 1, timeout_ms) <= 0) return Output::kNothing;
  char chunk[1 << 16];
  const ssize_t got = ::read(output_, chunk, sizeof chunk);
  if (got < 0 && errno == EINTR) return Output::kNothing;
  if (got <= 0) {
    close_descriptor(output_);
    return Output::kEnd;
  }
  buffer_.append(chunk, static_cast<size_t>(got));
  return Output::kData;
}

// Without reaping: as long as the process is there, if only as a zombie, its number and its group's
// belong to it and can be signalled safely.
bool ChildProcess::ended() const {
  if (!running_) return true;
  siginfo_t info = {};
  const int result = ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
  return result != 0 ? errno == ECHILD : info.si_pid != 0;
}

ChildExit ChildProcess::reap() {
  if (!running_) return exit_;
  // No harm to a child that has ended: its status stays what it was.
  ::kill(-pid_, SIGKILL);
  int status = 0;
  pid_t reaped;
  while ((reaped = ::waitpid(pid_, &status, 0)) < 0 && errno == EINTR) {
  }
  running_ = false;
  if (reaped == pid_) exit_ = to_exit(status);
  return exit_;
}

Status ChildProcess::gone() const {
  std::string how = "closed its output";
  if (!running_) {
    how = pid_ < 0 ? "was never started" : describe(exit_);
  } else {
    // The pipe closes a moment before the exit status is there, and a status makes a much better
    // message.
    siginfo_t info = {};
    for (int i = 0; i < 20 && info.si_pid == 0; ++i) {
      if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0) break;
    }
    if (info.si_pid != 0) {
      ChildExit exit;
      exit.exited = info.si_code == CLD_EXITED;
      (exit.exited ? exit.code : exit.signal) = info.si_status;
      how = describe(exit);
    }
  }
  return absl::UnavailableError(fmt::format("child process '{}' {}", name_, how));
}

Status ChildProcess::write_line(std::string_view line, double timeout_s) {
  CHANAS_CHECK(line.find('\n') == std::string_view::npos) << "a request is one line";
  std::string text(line);
  text += '\n';
  std::string_view left = text;
  const Deadline deadline(timeout_s);
  while (!left.empty()) {
    if (input_ < 0) return gone();
    const ssize_t sent = ::send(input_, left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      left.remove_prefix(static_cast<size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return gone();
    if (cancelled()) return check_cancelled();
    if (deadline.passed()) {
      return absl::DeadlineExceededError(
          fmt::format("child process '{}' did not take a request within {} s", name_, timeout_s));
    }
    // A child that waits for us to read its output does not read its input.
    pollfd ready[2] = {{input_, POLLOUT, 0}, {output_, POLLIN, 0}};
    if (::poll(ready, 2, deadline.slice_ms()) > 0 && ready[1].revents != 0) drain(0);
  }
  return absl::OkStatus();
}

StatusOr<std::string> ChildProcess::read_line(double timeout_s) {
  const Deadline deadline(timeout_s);
  int slice_ms = 0;  // what is there already comes first
  for (;;) {
    const size_t newline = buffer_.find('\n', searched_);
    if (newline != std::string::npos) {
      std::string line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      searched_ = 0;
      return line;
    }
    searched_ = buffer_.size();
    const Output output = drain(slice_ms);
    if (output == Output::kData) continue;
    if (output == Output::kEnd) return gone();
    // A grandchild may hold the pipe open for longer than the child lives.
    if (ended()) {
      if (drain(0) == Output::kData) continue;
      return gone();
    }
    if (cancelled()) return check_cancelled();
    if (deadline.passed()) {
      return absl::DeadlineExceededError(
          fmt::format("child process '{}' did not answer within {} s", name_, timeout_s));
    }
    slice_ms = deadline.slice_ms();
  }
}

void ChildProcess::close_input() { close_descriptor(input_); }

void ChildProcess::interrupt() {
  if (running_) ::kill(pid_, SIGINT);
}

ChildExit ChildProcess::kill() { return reap(); }

ChildExit ChildProcess::wait() {
  while (!ended()) {
    if (output_ >= 0) {
      // Read on: a child that cannot write does not end.
      drain(kSliceMs);
    } else {
      siginfo_t info;
      ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
    }
  }
  return reap();
}

}  // namespace chanas
