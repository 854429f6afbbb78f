#include "chanas/base/status.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/cord.h"

namespace chanas {

int exit_code(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
      return 3;
    case absl::StatusCode::kOutOfRange:
      return 4;
    case absl::StatusCode::kUnavailable:
      return 69;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
      return 75;
    case absl::StatusCode::kCancelled:
      return 130;
    default:
      return 1;
  }
}

Status annotate(const Status& status, std::string_view context) {
  if (status.ok()) return status;
  Status annotated(status.code(), fmt::format("{}: {}", context, message(status)));
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    annotated.SetPayload(type, payload);
  });
  return annotated;
}

namespace internal {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  stream_ << "bug: " << file << ":" << line << ": check failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  stream_ << "\n";
  const std::string text = stream_.str();
  // Straight to the descriptor: the logger may be what is broken, or may hold its lock.
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
  std::abort();
}

}  // namespace internal
}  // namespace chanas
