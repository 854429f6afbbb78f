#include "chanas/data/packed.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "chanas/base/json.h"

namespace chanas {
namespace {

constexpr std::string_view kMagic = "chanas images 1\n";
constexpr uint64_t kPage = 4096;

struct Prefix {
  char magic[kMagic.size()];
  uint64_t header_bytes;
};

uint64_t pixels_begin(uint64_t header_bytes) {
  return (sizeof(Prefix) + header_bytes + kPage - 1) / kPage * kPage;
}

uint64_t image_bytes(int size) { return uint64_t{3} * static_cast<uint64_t>(size * size); }

Status damaged(const std::string& path, std::string_view why) {
  return absl::DataLossError(fmt::format("{} is damaged: {}", path, why));
}

// A file in memory; goes with the last that holds it.
struct Mapping {
  const uint8_t* begin = nullptr;
  size_t bytes = 0;
  ~Mapping() {
    if (begin != nullptr) ::munmap(const_cast<uint8_t*>(begin), bytes);
  }
};

StatusOr<std::shared_ptr<const Mapping>> map(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return absl::NotFoundError(fmt::format("{}: {}", path, std::strerror(errno)));
  struct stat info = {};
  const bool known = ::fstat(file, &info) == 0 && info.st_size > 0;
  const auto bytes = known ? static_cast<size_t>(info.st_size) : 0;
  void* const begin = known ? ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  ::close(file);
  if (begin == MAP_FAILED) return damaged(path, "it cannot be mapped");
  auto mapping = std::make_shared<Mapping>();
  mapping->begin = static_cast<const uint8_t*>(begin);
  mapping->bytes = bytes;
  return std::shared_ptr<const Mapping>(std::move(mapping));
}

StatusOr<Dataset> parse(const std::shared_ptr<const Mapping>& file, const std::string& path,
                        const std::string& key) {
  Prefix prefix;
  if (file->bytes < sizeof prefix) return damaged(path, "it is cut short");
  std::memcpy(&prefix, file->begin, sizeof prefix);
  if (std::string_view(prefix.magic, kMagic.size()) != kMagic)
    return damaged(path, "it does not begin as such a file");
  if (prefix.header_bytes > file->bytes - sizeof prefix) return damaged(path, "it is cut short");
  CHANAS_ASSIGN_OR_RETURN(const Json header,
                          parse_json({reinterpret_cast<const char*>(file->begin) + sizeof prefix,
                                      prefix.header_bytes}));
  if (header.at("key").get<std::string>() != key)
    return absl::NotFoundError(fmt::format("{} is of other images", path));

  Dataset data;
  const int size = header.at("size").get<int>();
  data.labels = header.at("labels").get<std::vector<int>>();
  data.classes = header.at("classes").get<std::vector<std::string>>();
  data.parts = header.at("parts").get<std::array<std::vector<int>, 4>>();
  data.info.damaged = header.at("damaged").get<int64_t>();
  data.info.fingerprint = header.at("fingerprint").get<std::string>();
  const auto count = static_cast<int64_t>(data.labels.size());
  const uint64_t begin = pixels_begin(prefix.header_bytes);
  if (size < 1 || size > 4096 ||
      file->bytes != begin + static_cast<uint64_t>(count) * image_bytes(size))
    return damaged(path, "its size is not what its header says");
  const auto classes = static_cast<int>(data.classes.size());
  for (const int label : data.labels)
    if (label < -1 || label >= classes) return damaged(path, "a label is out of range");
  for (const std::vector<int>& part : data.parts) {
    for (const int image : part) {
      if (image < 0 || image >= count || data.labels[static_cast<size_t>(image)] < 0)
        return damaged(path, "a part holds an image that is not there");
    }
  }
  data.store = ImageStore(size, count, file->begin + begin, file);
  return data;
}

}  // namespace

Status write_packed(const Dataset& dataset, const std::string& key, const std::string& path) {
  const std::string header = Json{
      {"key", key},
      {"size", dataset.size()},
      {"labels", dataset.labels},
      {"classes", dataset.classes},
      {"parts", dataset.parts},
      {"damaged", dataset.info.damaged},
      {"fingerprint",
       dataset.info.fingerprint}}.dump(-1, ' ', false, Json::error_handler_t::replace);
  Prefix prefix;
  std::copy(kMagic.begin(), kMagic.end(), prefix.magic);
  prefix.header_bytes = header.size();
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::getpid());
  std::FILE* const file = std::fopen(temporary.c_str(), "wb");
  bool written = file != nullptr;
  const auto write = [&](const void* from, size_t bytes) {
    written = written && std::fwrite(from, 1, bytes, file) == bytes;
  };
  write(&prefix, sizeof prefix);
  write(header.data(), header.size());
  const std::string gap(pixels_begin(header.size()) - sizeof prefix - header.size(), '\0');
  write(gap.data(), gap.size());
  for (int64_t i = 0; i < dataset.store.count() && written; ++i)
    write(dataset.store.image(i), image_bytes(dataset.size()));
  written = written && std::fflush(file) == 0 && ::fsync(::fileno(file)) == 0;
  int why = errno;
  if (file != nullptr) std::fclose(file);
  if (written && ::rename(temporary.c_str(), path.c_str()) != 0) {
    written = false;
    why = errno;
  }
  if (written) return absl::OkStatus();
  ::unlink(temporary.c_str());
  const std::string text = fmt::format("{} cannot be written: {}", path, std::strerror(why));
  const bool full = why == ENOSPC || why == EDQUOT || why == EFBIG;
  return full ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

StatusOr<Dataset> read_packed(const std::string& path, const std::string& key) {
  CHANAS_ASSIGN_OR_RETURN(const auto file, map(path));
  try {
    StatusOr<Dataset> dataset = parse(file, path, key);
    if (absl::IsInvalidArgument(dataset.status())) return damaged(path, message(dataset.status()));
    return dataset;
  } catch (const Json::exception& error) {
    return damaged(path, error.what());
  }
}

}  // namespace chanas
