#include "chanas/data/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"

namespace chanas {
namespace {

namespace fs = std::filesystem;

// Folders that link to each other would never end.
constexpr int kMaxDepth = 16;
constexpr int64_t kMaxFileBytes = int64_t{1} << 30;

bool hidden(const std::string& path) {
  return path.starts_with('.') || path.find("/.") != std::string::npos;
}

// An archive per class, as ImageNet comes.
bool is_tar(const std::string& path) { return path.ends_with(".tar"); }
std::string without_ending(const std::string& path) { return path.substr(0, path.rfind('.')); }

using Reader = std::unique_ptr<archive, int (*)(archive*)>;

Reader new_reader() {
  Reader reader(archive_read_new(), archive_read_free);
  archive_read_support_format_tar(reader.get());
  archive_read_support_format_zip(reader.get());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_bzip2(reader.get());
  archive_read_support_filter_xz(reader.get());
  archive_read_support_filter_zstd(reader.get());
  return reader;
}

// Where the entries of an archive go. Paths get `prefix` in front; a .tar inside is a folder of its
// name, with a reader of its own.
struct ArchiveVisit {
  const std::string& source;
  const std::function<bool(const std::string&)>& wanted;
  const FileVisitor& visit;
  std::set<std::string>& folders;

  Status run(archive* reader, int opened, const std::string& name, const std::string& prefix) const;
};

Status visit_archive_file(const ArchiveVisit& to, const std::string& path,
                          const std::string& prefix) {
  const Reader reader = new_reader();
  return to.run(reader.get(), archive_read_open_filename(reader.get(), path.c_str(), 1 << 18), path,
                prefix);
}

Status ArchiveVisit::run(archive* reader, int opened, const std::string& name,
                         const std::string& prefix) const {
  const auto reason = [&] {
    const char* text = archive_error_string(reader);
    return std::string(text == nullptr ? "unknown error" : text);
  };
  const auto unreadable = [&](bool read_before) -> Status {
    const std::string why = reason();
    // A small archive that was cut short shows it before its first file.
    if (!read_before && why.find("truncated") == std::string::npos) {
      return absl::InvalidArgumentError(fmt::format(
          "{} is neither a folder nor an archive (.tar, .tar.gz, .zip, ...): {}", name, why));
    }
    return absl::DataLossError(
        fmt::format("archive {} is damaged or cut short ({}); fetch it again", name, why));
  };
  if (opened != ARCHIVE_OK) return unreadable(false);
  bool any = false;
  for (;;) {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(reader, &entry);
    if (result == ARCHIVE_EOF) break;
    if (result < ARCHIVE_WARN) {
      return unreadable(any);
    }
    any = true;
    const char* text = archive_entry_pathname(entry);
    // "./a//b/" and "/a/b" are a/b.
    std::string path = fs::path(text == nullptr ? "" : text).lexically_normal().generic_string();
    path.erase(0, path.find_first_not_of('/'));
    while (path.ends_with('/')) path.pop_back();
    if (path.empty() || hidden(path)) continue;
    path = prefix + path;
    if (archive_entry_filetype(entry) == AE_IFDIR) folders.insert(path);
    if (archive_entry_filetype(entry) != AE_IFREG) continue;
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      folders.insert(path.substr(0, slash));
    }
    const bool inner = is_tar(path);
    if (!inner && !wanted(path)) continue;
    std::string bytes;
    const int64_t size = archive_entry_size(entry);
    if (size > kMaxFileBytes) {
      CHANAS_RETURN_IF_ERROR(visit(path, absl::DataLossError("the file is over 1 GB")));
      continue;
    }
    bytes.resize(static_cast<size_t>(size));
    const ssize_t got = archive_read_data(reader, bytes.data(), bytes.size());
    if (got != static_cast<ssize_t>(bytes.size())) {
      return absl::DataLossError(
          fmt::format("archive {} is damaged or cut short at {} ({}); fetch it again", name, path,
                      got < 0 ? reason() : "the file ends early"));
    }
    if (inner) {
      const Reader of_inner = new_reader();
      folders.insert(without_ending(path));
      CHANAS_RETURN_IF_ERROR(
          run(of_inner.get(), archive_read_open_memory(of_inner.get(), bytes.data(), bytes.size()),
              fmt::format("{} in {}", path, source), without_ending(path) + "/"));
      continue;
    }
    CHANAS_RETURN_IF_ERROR(visit(path, std::move(bytes)));
  }
  if (!any) return absl::InvalidArgumentError(fmt::format("archive {} is empty", name));
  return absl::OkStatus();
}

Status visit_folder(const std::string& source,
                    const std::function<bool(const std::string&)>& wanted, const FileVisitor& visit,
                    std::set<std::string>& folders) {
  std::vector<std::string> files, archives;
  std::error_code error;
  fs::recursive_directory_iterator walk(source, fs::directory_options::follow_directory_symlink,
                                        error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    if (walk.depth() > kMaxDepth) {
      return absl::InvalidArgumentError(fmt::format("{} has folders more than {} deep at {}",
                                                    source, kMaxDepth, walk->path().string()));
    }
    const std::string path = walk->path().lexically_relative(source).generic_string();
    std::error_code ignored;
    if (walk->is_directory(ignored)) {
      if (hidden(path)) {
        walk.disable_recursion_pending();
      } else {
        folders.insert(path);
      }
    } else if (!hidden(path) && wanted(path)) {
      files.push_back(path);
    } else if (!hidden(path) && is_tar(path)) {
      archives.push_back(path);
    }
  }
  if (error) {
    return absl::InvalidArgumentError(
        fmt::format("cannot list folder {}: {}", source, error.message()));
  }
  std::sort(files.begin(), files.end());
  for (const std::string& path : files) {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    CHANAS_RETURN_IF_ERROR(visit(path, read_file(join_path(source, path))));
  }
  // Beside unpacked files an archive is mostly what they were unpacked from.
  if (!files.empty()) return absl::OkStatus();
  std::sort(archives.begin(), archives.end());
  for (const std::string& path : archives) {
    const std::string folder = without_ending(path);
    folders.insert(folder);
    CHANAS_RETURN_IF_ERROR(visit_archive_file({source, wanted, visit, folders},
                                              join_path(source, path), folder + "/"));
  }
  return absl::OkStatus();
}

}  // namespace

Status visit_files(const std::string& source,
                   const std::function<bool(const std::string& path)>& wanted,
                   const FileVisitor& visit, std::vector<std::string>& folders) {
  std::set<std::string> found;
  std::error_code error;
  const fs::file_status status = fs::status(source, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(fmt::format(
        "no images: {} does not exist; give a folder, an archive or \"builtin\"", source));
  }
  CHANAS_RETURN_IF_ERROR(fs::is_directory(status)
                             ? visit_folder(source, wanted, visit, found)
                             : visit_archive_file({source, wanted, visit, found}, source, ""));
  folders.assign(found.begin(), found.end());
  return absl::OkStatus();
}

}  // namespace chanas
