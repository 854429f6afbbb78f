#include "chanas/base/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "chanas/base/log.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

bool stderr_is_terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && (term == nullptr || std::string_view(term) != "dumb");
}

// Counts show as counts, other units (seconds, megabytes) with one decimal.
std::string format_amount(double value) {
  return value == std::floor(value) ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
}

}  // namespace

std::string format_duration(double seconds) {
  if (std::isnan(seconds) || seconds > 1e12) return "?";
  // Rounded before it is split, or 59.7 s would show as "60 s".
  const long long total = std::llround(std::max(seconds, 0.0));
  if (total < 60) return fmt::format("{} s", total);
  if (total < 3600) return fmt::format("{} min {:02} s", total / 60, total % 60);
  const long long minutes = (total + 30) / 60;
  return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

Progress::Progress(std::string title, double total)
    : title_(std::move(title)),
      total_(total),
      terminal_(stderr_is_terminal()),
      start_(Clock::now()),
      last_print_(start_) {}

Progress::~Progress() {
  if (!printed_) return;
  print(last_done_, last_detail_, true);
  if (terminal_) internal::end_progress_line();
}

void Progress::start_at(double done) {
  const Clock::time_point now = Clock::now();
  limit_s_ -= seconds_between(start_, now);
  first_ = last_done_ = done;
  start_ = now;
}

void Progress::ends_within(double seconds) {
  limit_s_ = seconds_between(start_, Clock::now()) + seconds;
}

void Progress::update(double done, const std::string& detail) {
  last_done_ = done;
  last_detail_ = detail;
  const Clock::time_point now = Clock::now();
  const double since = seconds_between(last_print_, now);
  // A terminal shows the first update at once; a file gets no line for work of a few seconds.
  const bool due = terminal_ ? !printed_ || since >= 0.2 : since >= 5;
  if (!due || internal::log_is_quiet()) return;
  last_print_ = now;
  printed_ = true;
  print(done, detail, false);
}

void Progress::print(double done, const std::string& detail, bool last) {
  const double elapsed = seconds_between(start_, Clock::now());
  const double share = total_ > 0 ? std::clamp(done / total_, 0.0, 1.0) : 0;
  const bool limited = std::isfinite(limit_s_);
  std::string line = title_ + ": ";
  if (!limited) {
    line += format_amount(done);
    if (total_ > 0) {
      line += fmt::format("/{} ({:.0f} %)", format_amount(total_), std::floor(100 * share));
    }
  } else if (!last) {
    // Of the work or of the time, whichever is nearer its end.
    const double spent = std::clamp(elapsed / std::max(limit_s_, 1e-9), 0.0, 1.0);
    line += fmt::format("{:.0f} %", std::floor(100 * std::max(share, spent)));
  }
  if (last) {
    line += (limited ? "took " : ", took ") + format_duration(elapsed);
  } else if (total_ > 0 && done > first_) {
    const double left = std::min(elapsed / (done - first_) * std::max(total_ - done, 0.0),
                                 std::max(limit_s_ - elapsed, 0.0));
    line += ", " + format_duration(left) + " left";
  } else {
    line += ", " + format_duration(elapsed);
  }
  if (!detail.empty()) line += ", " + detail;
  if (terminal_) {
    internal::show_progress_line(line);
  } else {
    log_line(line);
  }
}

}  // namespace chanas
