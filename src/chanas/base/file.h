#pragma once
// Files: written beside and renamed, so that a reader sees the old or the new file, never half.

#include <string>
#include <string_view>

#include "chanas/base/status.h"

namespace chanas {

// The whole file. kNotFound names the path; kDataLoss when reading breaks off.
StatusOr<std::string> read_file(const std::string& path);

// Writes `path + ".tmp.<pid>.<n>"`, fsyncs, renames over `path`, fsyncs the folder. On any failure
// the old file is untouched, the temporary one removed, and the status is kResourceExhausted (disk
// full, quota) or kInternal with the path and the reason. (Only when the disk fails in the very
// last step, the folder's fsync, is the new file there already, and kInternal says that it may not
// last.)
Status write_file_atomic(const std::string& path, std::string_view bytes);

// Appends one line (no newline in it) and fsyncs: acknowledged means on disk. A reader must skip a
// last line without newline (the trace of a kill in the middle); the next append cuts it off. A
// failed append leaves the file as it was. Several processes may append to one file.
// kResourceExhausted and kInternal as above.
Status append_line(const std::string& path, std::string_view line);

// Creates a folder and its parents. OK when it exists. kInvalidArgument when something else has the
// name, else kResourceExhausted and kInternal as above.
Status make_folder(const std::string& path);

// A file or a folder.
bool file_exists(const std::string& path);
// `part` appended to `folder` with one slash.
std::string join_path(std::string_view folder, std::string_view part);
// The folder that holds the running executable; sibling programs are found there.
std::string executable_folder();

// A fresh folder under the system's temporary folder, removed with all it holds when it goes out
// of scope. When it cannot be made, path() names a folder that does not exist, and the first write
// there says so.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::string_view prefix);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_ = false;
};

}  // namespace chanas
