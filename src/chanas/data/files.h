#pragma once
// The files of a folder or of an archive, one after the other.

#include <functional>
#include <string>
#include <vector>

#include "chanas/base/status.h"

namespace chanas {

// Gets each wanted file: its path relative to the source, parts separated by one slash, and its
// bytes or why they cannot be read. An error ends the visit.
using FileVisitor = std::function<Status(const std::string& path, StatusOr<std::string> bytes)>;

// Visits the regular files of `source` that `wanted` accepts by path: a folder in order of paths,
// an archive (tar, zip; gzip, bzip2, xz, zstd) in its own order, nothing unpacked to disk. A .tar
// file inside is a folder of its name without ".tar" (in a folder only when no file there is
// wanted). Hidden files (name begins with a dot) are left out. `folders` receives all folder paths,
// sorted. kNotFound: no such source. kInvalidArgument: neither a folder nor an archive. kDataLoss:
// the archive is damaged or cut short. kCancelled, and errors of `visit`.
Status visit_files(const std::string& source,
                   const std::function<bool(const std::string& path)>& wanted,
                   const FileVisitor& visit, std::vector<std::string>& folders);

}  // namespace chanas
