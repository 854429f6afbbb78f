#include "chanas/base/cancellation.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace chanas {
namespace {

std::atomic<bool> g_cancelled{false};
// Apart from g_cancelled: after request_cancellation() the first Ctrl-C is still the gentle one.
std::atomic<int> g_signals{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

void on_signal(int signal) {
  if (g_signals.fetch_add(1) > 0) ::_exit(128 + signal);
  g_cancelled.store(true);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  ::sigemptyset(&action.sa_mask);
  action.sa_handler = on_signal;
  // Libraries below do not all expect EINTR; our own waits poll.
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, nullptr);
  ::sigaction(SIGXFSZ, &action, nullptr);
}

bool cancelled() { return g_cancelled.load(std::memory_order_relaxed); }

void request_cancellation() { g_cancelled.store(true); }

void reset_cancellation() {
  g_signals.store(0);
  g_cancelled.store(false);
}

Status check_cancelled() {
  return cancelled() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

}  // namespace chanas
