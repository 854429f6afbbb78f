#pragma once
// JSON text in and out; the library's heavy header stays in .cpp files (this one is the forward
// declaration).

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "chanas/base/status.h"

namespace chanas {

using Json = nlohmann::json;

// kInvalidArgument with the position of the first error.
StatusOr<Json> parse_json(std::string_view text);
// Reads and parses; messages name the file. kNotFound, kDataLoss.
StatusOr<Json> read_json(const std::string& path);
// Indented, through write_file_atomic.
Status write_json(const std::string& path, const Json& value);

}  // namespace chanas
