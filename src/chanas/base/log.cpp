#include "chanas/base/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <string>

namespace chanas {
namespace {

std::atomic<bool> g_quiet{false};

// Leaked, so that lines from late destructors and detached threads still find it.
struct Screen {
  std::mutex mutex;
  bool progress_shown = false;
};
Screen& screen() {
  static Screen* const instance = new Screen;
  return *instance;
}

// One write for the whole text: lines of several processes on one terminal or file do not mix.
// There is nobody to tell when standard error is gone.
void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

constexpr std::string_view kClearLine = "\r\x1b[K";

void write_line(std::string_view prefix, std::string_view text) {
  std::string out;
  const std::lock_guard<std::mutex> lock(screen().mutex);
  if (screen().progress_shown) out += kClearLine;
  screen().progress_shown = false;
  out += prefix;
  out += text;
  out += '\n';
  write_stderr(out);
}

// A line that wraps cannot be cleared by a carriage return.
std::string_view fit_to_terminal(std::string_view text) {
  winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size.ws_col = 80;
  size_t columns = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
    if (starts_character && ++columns >= size.ws_col) return text.substr(0, i);
  }
  return text;
}

}  // namespace

void set_log_quiet(bool quiet) { g_quiet.store(quiet); }

void log_line(std::string_view text) {
  if (!g_quiet.load()) write_line("", text);
}

void log_warning_line(std::string_view text) { write_line("warning: ", text); }

namespace internal {

bool log_is_quiet() { return g_quiet.load(); }

void show_progress_line(std::string_view text) {
  if (g_quiet.load()) return;
  std::string out(kClearLine);
  out += fit_to_terminal(text);
  const std::lock_guard<std::mutex> lock(screen().mutex);
  screen().progress_shown = true;
  write_stderr(out);
}

void end_progress_line() {
  const std::lock_guard<std::mutex> lock(screen().mutex);
  if (screen().progress_shown) write_stderr("\n");
  screen().progress_shown = false;
}

}  // namespace internal
}  // namespace chanas
