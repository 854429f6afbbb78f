#include "chanas/supernet/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "chanas/base/file.h"

namespace chanas {

StatusOr<FolderLock> FolderLock::take(const std::string& folder) {
  CHANAS_RETURN_IF_ERROR(make_folder(folder));
  const std::string path = join_path(folder, "lock");
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return absl::InvalidArgumentError(fmt::format("cannot write in {}", folder));
  if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    ::close(file);
    return absl::AbortedError(fmt::format("another training works in {}", folder));
  }
  // What a kill in the middle of writing left behind.
  std::error_code error;
  std::vector<std::filesystem::path> torn;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().filename().string().find(".tmp.") != std::string::npos) {
      torn.push_back(entry.path());
    }
  }
  for (const auto& path : torn) std::filesystem::remove(path, error);
  return FolderLock(file);
}

FolderLock::~FolderLock() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace chanas
