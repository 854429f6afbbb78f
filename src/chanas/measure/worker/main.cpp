// chanas-kernel: compiles and measures kernels for chanas, in a process that may die of it.

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "chanas/measure/protocol.h"
#include "chanas/measure/worker/fault.h"
#include "chanas/measure/worker/worker.h"

namespace {

constexpr const char* kUsage =
    "usage: chanas-kernel serve\n"
    "Compiles and measures kernels for chanas, which starts it; requests are lines of JSON on\n"
    "standard input, replies on standard output (src/chanas/measure/README.md).\n"
    "Try: echo '{\"id\": 1, \"op\": \"hello\"}' | chanas-kernel serve\n";

// A compiler without memory does not throw, it aborts. The signal handler tells that from other
// crashes by how much of the allowed address space is in use. Async-signal-safe calls only.
rlim_t memory_limit = RLIM_INFINITY;

bool memory_is_short() {
  if (memory_limit == RLIM_INFINITY) return false;
  int file = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  char text[64] = {};
  ssize_t length = ::read(file, text, sizeof text - 1);
  ::close(file);
  rlim_t pages = 0;
  for (ssize_t i = 0; i < length && text[i] >= '0' && text[i] <= '9'; ++i) {
    pages = pages * 10 + static_cast<rlim_t>(text[i] - '0');
  }
  return pages * 4096 > memory_limit / 2;
}

void on_crash(int signal) {
  if (memory_is_short()) ::_exit(chanas::kExitMemory);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void watch_crashes() {
  rlimit limit;
  if (::getrlimit(RLIMIT_AS, &limit) == 0) memory_limit = limit.rlim_cur;
  // A stack of its own: an endless recursion leaves none.
  static char stack[64 << 10];
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  ::sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_crash;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  for (int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE})
    ::sigaction(signal, &action, nullptr);
  // A crash is an everyday result here and needs no dump.
  rlimit none = {0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
}

// Buffers come from the heap, and the heap keeps what it has: memory that goes back to the system
// at every call costs more than the kernels that are measured.
void keep_memory() {
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  ::mallopt(M_TOP_PAD, 64 << 20);
}

bool write_line(int file, std::string line) {
  line += '\n';
  for (size_t done = 0; done < line.size();) {
    ssize_t n = ::write(file, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

int serve() {
  watch_crashes();
  keep_memory();
  // What the compiler prints must not get between the replies.
  int replies = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (replies < 0 || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return 1;
  chanas::Worker worker;
  for (std::string line; std::getline(std::cin, line);) {
    chanas::StatusOr<chanas::Json> request = chanas::parse_json(line);
    if (!request.ok() || !request->is_object()) {
      std::fprintf(stderr, "chanas-kernel: a request is not an object of JSON\n");
      return 1;
    }
    chanas::inject_fault(*request);
    chanas::Json reply = worker.serve(*request);
    reply["id"] = request->value("id", chanas::Json());
    // A compiler's message may hold anything.
    std::string text = reply.dump(-1, ' ', false, chanas::Json::error_handler_t::replace);
    if (auto garbage = chanas::garbage_reply(); !garbage.empty()) text = garbage;
    if (!write_line(replies, std::move(text))) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "serve") == 0) return serve();
  bool help = argc == 2 && std::strcmp(argv[1], "--help") == 0;
  std::fputs(kUsage, help ? stdout : stderr);
  return help ? 0 : 2;
}
