#pragma once
// Calls that can fail return absl::Status or absl::StatusOr<T>; bugs abort through CHANAS_CHECK.
//
// The code of a Status says what the caller can do about it, and decides the exit code of the
// program (exit_code below):
//   kInvalidArgument, kNotFound, kDataLoss   bad config, data or file         -> 3
//   kOutOfRange                              the limit cannot be met          -> 4
//   kUnavailable                             device or child not available    -> 69
//   kResourceExhausted, kAborted             try again (disk full, locked)    -> 75
//   kCancelled                               interrupted, state saved         -> 130
//   everything else                          failed                           -> 1
// Messages are lower case, name the thing, what was found, what was expected and how to mend it.

#include <fmt/core.h>

#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace chanas {

using absl::Status;
using absl::StatusOr;

// Exit code of the command line for a status; 0 for OK.
int exit_code(const Status& status);

// The text of a status. The type of Status::message() depends on how Abseil was built; where it is
// not std::string_view, our functions do not take it.
inline std::string_view message(const Status& status) {
  return {status.message().data(), status.message().size()};
}

// The same status with "context: " put before its message; OK stays OK.
Status annotate(const Status& status, std::string_view context);

namespace internal {

// Collects the context of a failed check and aborts when it goes out of scope.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

}  // namespace internal
}  // namespace chanas

// Aborts with context when a condition that only a bug can break does not hold. Never reachable by
// user input.
//   CHANAS_CHECK(a.size() == b.size()) << a.size() << " values, " << b.size() << " names";
// A loop, not an `if`: an `else` behind the macro still belongs to the caller's own `if`. The body
// never returns. Variadic for the commas of template arguments, here and below.
#define CHANAS_CHECK(...) \
  while (!(__VA_ARGS__)) ::chanas::internal::CheckFailure(__FILE__, __LINE__, #__VA_ARGS__).stream()

#define CHANAS_CONCAT_INNER(a, b) a##b
#define CHANAS_CONCAT(a, b) CHANAS_CONCAT_INNER(a, b)

#define CHANAS_RETURN_IF_ERROR(...)                                                              \
  do {                                                                                           \
    if (::absl::Status chanas_status = (__VA_ARGS__); !chanas_status.ok()) return chanas_status; \
  } while (false)

// CHANAS_ASSIGN_OR_RETURN(auto file, read_file(path));
#define CHANAS_ASSIGN_OR_RETURN(declaration, ...) \
  CHANAS_ASSIGN_OR_RETURN_INNER(CHANAS_CONCAT(chanas_or_, __LINE__), declaration, __VA_ARGS__)
#define CHANAS_ASSIGN_OR_RETURN_INNER(result, declaration, ...) \
  auto result = (__VA_ARGS__);                                  \
  if (!result.ok()) return result.status();                     \
  declaration = *std::move(result)

// Older Abseil has a string_view of its own; status.message() should format like any text. Without
// widths and the like: fmt/core.h alone cannot do them.
#if !defined(ABSL_USES_STD_STRING_VIEW)
template <>
struct fmt::formatter<absl::string_view> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <typename Context>
  auto format(absl::string_view text, Context& context) const {
    return fmt::format_to(context.out(), "{}", std::string_view(text.data(), text.size()));
  }
};
#endif
