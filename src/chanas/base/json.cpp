#include "chanas/base/json.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"

namespace chanas {
namespace {

std::string position(std::string_view text, size_t byte) {
  // The parser counts from 1 and names the last byte it read.
  const std::string_view before = text.substr(0, std::min(text.size(), byte == 0 ? 0 : byte - 1));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t newline = before.rfind('\n');
  const size_t column = before.size() - (newline == before.npos ? 0 : newline + 1) + 1;
  return fmt::format("line {}, column {}", line, column);
}

// The library's own position and exception number say nothing to a reader.
std::string reason(std::string_view what) {
  if (const size_t colon = what.find(": "); colon != what.npos) what.remove_prefix(colon + 2);
  return std::string(what);
}

}  // namespace

StatusOr<Json> parse_json(std::string_view text) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(
        fmt::format("bad JSON at {}: {}", position(text, error.byte), reason(error.what())));
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("bad JSON: {}", error.what()));
  }
}

StatusOr<Json> read_json(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  StatusOr<Json> value = parse_json(text);
  if (!value.ok()) {
    return absl::DataLossError(fmt::format("'{}': {}", path, message(value.status())));
  }
  return value;
}

Status write_json(const std::string& path, const Json& value) {
  std::string text;
  try {
    text = value.dump(2);
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        fmt::format("cannot write '{}': a text in it is not UTF-8 ({})", path, error.what()));
  }
  text += '\n';
  return write_file_atomic(path, text);
}

}  // namespace chanas
