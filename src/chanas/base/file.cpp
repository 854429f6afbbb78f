#include "chanas/base/file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace chanas {
namespace {

// Closes on every way out. close() is no place to learn of lost data: fsync came before.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  bool ok() const { return value_ >= 0; }

 private:
  int value_;
};

Status write_error(int error, std::string_view action, const std::string& path) {
  const std::string text = fmt::format("cannot {} '{}': {}", action, path, std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::InternalError(text);
  }
}

// 0, or the errno of the failure.
int write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

int sync(int file) {
  while (::fsync(file) != 0) {
    // Some file systems and devices have nothing to sync.
    if (errno == EINVAL || errno == ENOTSUP) return 0;
    if (errno != EINTR) return errno;
  }
  return 0;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

int open_folder(const std::string& path) {
  return ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

// The size of the file up to and with its last newline; -1 and errno when it cannot be read.
off_t size_of_whole_lines(int file, off_t size) {
  char chunk[4096];
  while (size > 0) {
    const off_t from = size > off_t{sizeof chunk} ? size - off_t{sizeof chunk} : 0;
    const ssize_t got = ::pread(file, chunk, static_cast<size_t>(size - from), from);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    for (ssize_t i = got; i > 0; --i) {
      if (chunk[i - 1] == '\n') return from + i;
    }
    size = from;
  }
  return 0;
}

}  // namespace

StatusOr<std::string> read_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.ok()) {
    return absl::NotFoundError(fmt::format("cannot open '{}': {}", path, std::strerror(errno)));
  }
  struct stat info = {};
  if (::fstat(file.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(fmt::format("cannot read '{}': a folder, not a file", path));
  }
  std::string bytes;
  size_t used = 0;
  // One byte more than the size, so that the end shows without growing. Files of /proc say 0.
  bytes.resize(info.st_size > 0 ? static_cast<size_t>(info.st_size) + 1 : 4096);
  for (;;) {
    if (used == bytes.size()) bytes.resize(2 * bytes.size());
    const ssize_t got = ::read(file.get(), bytes.data() + used, bytes.size() - used);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::DataLossError(fmt::format("reading '{}' broke off after {} bytes: {}", path,
                                             used, std::strerror(errno)));
    }
    used += static_cast<size_t>(got);
  }
  bytes.resize(used);
  return bytes;
}

Status write_file_atomic(const std::string& path, std::string_view bytes) {
  // The number keeps threads that write one path apart; a left-over of an earlier process with the
  // same number is simply overwritten.
  static std::atomic<unsigned> counter{0};
  const std::string temporary = fmt::format("{}.tmp.{}.{}", path, ::getpid(), counter++);
  // Opened before anything changes: after the rename it is too late to fail.
  const Descriptor folder(open_folder(path));
  if (!folder.ok()) return write_error(errno, "open the folder of", path);
  int error = 0;
  {
    const Descriptor file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!file.ok()) return write_error(errno, "create", temporary);
    error = write_all(file.get(), bytes);
    if (error == 0) error = sync(file.get());
  }
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    return write_error(error, "write", path);
  }
  error = sync(folder.get());
  if (error != 0) return write_error(error, "make lasting (it is written, but may be lost)", path);
  return absl::OkStatus();
}

Status append_line(const std::string& path, std::string_view line) {
  CHANAS_CHECK(line.find('\n') == std::string_view::npos) << "a line with a newline: " << path;
  const Descriptor file(::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
  if (!file.ok()) return write_error(errno, "open", path);
  // Held until close: a half line found under the lock is nobody's work in progress. File systems
  // without locks work as long as one process appends.
  while (::flock(file.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0) return write_error(errno, "inspect", path);
  off_t size = info.st_size;
  if (S_ISREG(info.st_mode)) {
    const off_t whole = size_of_whole_lines(file.get(), size);
    if (whole < 0) return write_error(errno, "read", path);
    if (whole != size && ::ftruncate(file.get(), whole) != 0) {
      return write_error(errno, "cut the half last line of", path);
    }
    size = whole;
  }
  std::string text(line);
  text += '\n';
  int error = write_all(file.get(), text);
  if (error == 0) error = sync(file.get());
  if (error != 0) {
    // Should even this fail, the half line is one that readers skip.
    [[maybe_unused]] const int ignored = ::ftruncate(file.get(), size);
    return write_error(error, "append to", path);
  }
  if (size == 0) {
    // Perhaps a new file: it lasts only with its name.
    const Descriptor folder(open_folder(path));
    if (folder.ok()) error = sync(folder.get());
    if (error != 0) return write_error(error, "make lasting", path);
  }
  return absl::OkStatus();
}

Status make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    return absl::OkStatus();
  }
  if (!error || error.value() == EEXIST || error.value() == ENOTDIR) {
    return absl::InvalidArgumentError(fmt::format(
        "cannot create the folder '{}': a part of the path exists and is not a folder", path));
  }
  return write_error(error.value(), "create the folder", path);
}

bool file_exists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

std::string join_path(std::string_view folder, std::string_view part) {
  if (folder.empty()) return std::string(part);
  const bool is_root = folder.find_first_not_of('/') == std::string_view::npos;
  while (!folder.empty() && folder.back() == '/') folder.remove_suffix(1);
  while (!part.empty() && part.front() == '/') part.remove_prefix(1);
  if (part.empty() && !is_root) return std::string(folder);
  return fmt::format("{}/{}", folder, part);
}

std::string executable_folder() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : program.parent_path().string();
}

TemporaryFolder::TemporaryFolder(std::string_view prefix) {
  const char* base = std::getenv("TMPDIR");
  path_ =
      join_path(base != nullptr && *base != '\0' ? base : "/tmp", fmt::format("{}.XXXXXX", prefix));
  made_ = ::mkdtemp(path_.data()) != nullptr;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (made_) std::filesystem::remove_all(path_, ignored);
}

}  // namespace chanas
