#pragma once
// Content names: SHA-256 of bytes.

#include <string>
#include <string_view>

#include "chanas/base/status.h"

namespace chanas {

// Lower-case hex SHA-256 (64 characters).
std::string sha256_hex(std::string_view bytes);

// SHA-256 of a file, streamed. kNotFound when it cannot be read.
StatusOr<std::string> sha256_file(const std::string& path);

// The first 16 hex characters of SHA-256: the name of workloads, devices and configs.
std::string fingerprint(std::string_view bytes);

// Of the names, sizes and times of change of a file, or of all files below a folder: cheap, and
// blind to a change that keeps all three.
std::string files_fingerprint(const std::string& path);

}  // namespace chanas
