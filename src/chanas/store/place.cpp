#include "chanas/store/place.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

namespace chanas::internal {
namespace {

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == path.npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

std::string_view network_file_system(int64_t magic) {
  // From linux/magic.h and the file systems' own sources; compared as 32 bits because some
  // platforms sign-extend.
  switch (static_cast<uint32_t>(magic)) {
    case 0x6969:
      return "NFS";
    case 0x517b:
      return "SMB";
    case 0xff534d42:
      return "CIFS";
    case 0xfe534d42:
      return "SMB2";
    case 0x564c:
      return "NCP";
    case 0x5346414f:
      return "AFS";
    case 0x73757245:
      return "Coda";
    case 0x00c36400:
      return "Ceph";
    case 0x0bd00bd0:
      return "Lustre";
    case 0x47504653:
      return "GPFS";
    default:
      return "";
  }
}

Status check_place(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("the path of the store is empty");
  const std::string folder = folder_of(path);
  struct stat info;
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(fmt::format(
        "store '{}' cannot be opened: there is no folder '{}'; create it first", path, folder));
  }
  struct statfs system;
  // The file itself first: it may be a link to another place.
  if (::statfs(path.c_str(), &system) == 0 || ::statfs(folder.c_str(), &system) == 0) {
    const std::string_view name = network_file_system(system.f_type);
    if (!name.empty()) {
      return absl::InvalidArgumentError(fmt::format(
          "store '{}' is on a network file system ({}), where locks cannot be trusted; put it on a "
          "local disk",
          path, name));
    }
  }
  // The journal lies beside the file.
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return absl::InvalidArgumentError(
        fmt::format("store '{}' needs a folder that can be written, '{}' cannot be: {}", path,
                    folder, std::strerror(errno)));
  }
  if (::stat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("store '{}' is not a file", path));
  }
  if (::access(path.c_str(), R_OK | W_OK) != 0) {
    return absl::InvalidArgumentError(
        fmt::format("store '{}' cannot be read and written: {}", path, std::strerror(errno)));
  }
  if (info.st_size == 0) return absl::OkStatus();  // killed while being created
  constexpr std::string_view kMagic("SQLite format 3\0", 16);
  std::string head(kMagic.size(), '\0');
  std::ifstream(path, std::ios::binary)
      .read(head.data(), static_cast<std::streamsize>(head.size()));
  if (head != kMagic) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is not a store (not an SQLite file); name another file", path));
  }
  return absl::OkStatus();
}

}  // namespace chanas::internal
