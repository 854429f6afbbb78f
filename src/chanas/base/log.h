#pragma once
// Lines for people, on standard error. Results go to standard output and never through here.

#include <fmt/core.h>

#include <string_view>
#include <utility>

namespace chanas {

// Quiet hides info lines and progress (used by --json and by tests).
void set_log_quiet(bool quiet);

void log_line(std::string_view text);          // plain
void log_warning_line(std::string_view text);  // "warning: " in front, always shown

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_warning_line(fmt::format(format, std::forward<Args>(args)...));
}

namespace internal {

// The one rewritten line at the bottom of a terminal. Any log line takes it away; the next update
// draws it again below. Does nothing when quiet.
void show_progress_line(std::string_view text);
// Leaves the line standing and goes on below it.
void end_progress_line();
bool log_is_quiet();

}  // namespace internal
}  // namespace chanas
