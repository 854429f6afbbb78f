#include "chanas/data/dataset.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/base/parallel.h"
#include "chanas/data/files.h"
#include "chanas/data/generator.h"
#include "chanas/data/image.h"
#include "chanas/data/layout.h"
#include "chanas/data/packed.h"

namespace chanas {
namespace {

constexpr int64_t kChunk = 1024;
constexpr size_t kFilesInFlight = 256;
constexpr int kNamedDamage = 10;
constexpr size_t kCifarPixels = 3 * 32 * 32;

// work(i) for each i in [0, n), divided among threads.
template <typename F>
void parallel_for(size_t n, int threads, const F& work) {
  const Status status =
      for_each(n, static_cast<size_t>(std::max(threads, 1)), [&](size_t i, size_t) -> Status {
        work(i);
        return absl::OkStatus();
      });
  CHANAS_CHECK(status.ok()) << status;
}

bool ends_with_any(const std::string& path, std::initializer_list<std::string_view> endings) {
  std::string lower = path;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return lower.ends_with(ending); });
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool is_image_path(const std::string& path) {
  return ends_with_any(path, {".jpg", ".jpeg", ".png"});
}
bool is_cifar_train(const std::string& path) {
  const std::string name = base_name(path);
  return (name.starts_with("data_batch_") && name.ends_with(".bin")) || name == "train.bin";
}
bool is_cifar_names(const std::string& path) {
  const std::string name = base_name(path);
  return name == "batches.meta.txt" || name == "fine_label_names.txt";
}
bool is_cifar_path(const std::string& path) {
  const std::string name = base_name(path);
  return is_cifar_train(path) || is_cifar_names(path) || name == "test_batch.bin" ||
         name == "test.bin";
}

class Loader {
 public:
  Loader(const DataConfig& config, int size, int threads,
         const std::function<void(const std::string&)>& warn)
      : config_(config), threads_(threads), warn_(warn) {
    data_.store = ImageStore(size, config.memory_mb << 20);
  }

  StatusOr<Dataset> load() {
    CHANAS_RETURN_IF_ERROR(config_.source == "builtin" ? draw_builtin() : read_source());
    data_.info.fingerprint = fingerprint_all();
    return std::move(data_);
  }

 private:
  struct Source {
    std::string path, bytes;
    int image = -1;  // index in the store; -1: damaged
  };

  Status draw_builtin() {
    data_.classes = builtin_class_names();
    const int64_t count = config_.builtin_images;
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      CHANAS_RETURN_IF_ERROR(check_cancelled());
      const auto batch = static_cast<size_t>(std::min(kChunk, count - begin));
      std::vector<uint8_t*> to(batch);
      for (uint8_t*& pixels : to) {
        CHANAS_ASSIGN_OR_RETURN(pixels, data_.store.add());
      }
      parallel_for(batch, threads_, [&](size_t i) {
        const RgbImage image =
            generate_image(config_.seed, begin + static_cast<int64_t>(i), config_.builtin_noise);
        resample(image, center_square(image.width, image.height), data_.size(), to[i]);
      });
    }
    std::vector<int> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    for (const int i : order) data_.labels.push_back(i % kBuiltinClasses);
    return divide(config_, order, {}, data_);
  }

  Status read_source() {
    std::vector<std::string> folders;
    CHANAS_RETURN_IF_ERROR(visit_files(
        config_.source,
        [](const std::string& path) { return is_image_path(path) || is_cifar_path(path); },
        [&](const std::string& path, StatusOr<std::string> bytes) { return take(path, bytes); },
        folders));
    CHANAS_RETURN_IF_ERROR(decode_pending());
    if (!cifar_.empty() && files_.empty()) return read_cifar();

    std::sort(files_.begin(), files_.end(),
              [](const Source& a, const Source& b) { return a.path < b.path; });
    std::vector<std::string> paths;
    for (const Source& file : files_) paths.push_back(file.path);
    CHANAS_ASSIGN_OR_RETURN(Layout layout, find_layout(config_.source, paths, folders, warn_));
    CHANAS_RETURN_IF_ERROR(check_damage());
    data_.classes = layout.classes;
    data_.labels.assign(static_cast<size_t>(data_.store.count()), -1);
    std::vector<int> pool, test;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (files_[i].image < 0 || layout.places[i].label < 0) continue;
      data_.labels[static_cast<size_t>(files_[i].image)] = layout.places[i].label;
      (layout.places[i].test ? test : pool).push_back(files_[i].image);
    }
    return divide(config_, pool, test, data_);
  }

  Status take(const std::string& path, StatusOr<std::string>& bytes) {
    if (is_cifar_path(path)) {
      if (!bytes.ok()) return bytes.status();
      cifar_.emplace_back(path, *std::move(bytes));
      return absl::OkStatus();
    }
    if (!bytes.ok()) {
      add_damage(path, bytes.status());
      files_.push_back({path, "", -1});
      return absl::OkStatus();
    }
    pending_.push_back({path, *std::move(bytes), -1});
    return pending_.size() < kFilesInFlight ? absl::OkStatus() : decode_pending();
  }

  Status decode_pending() {
    const auto bytes = static_cast<size_t>(data_.size()) * static_cast<size_t>(data_.size()) * 3;
    std::vector<std::vector<uint8_t>> decoded(pending_.size());
    std::vector<Status> statuses(pending_.size());
    parallel_for(pending_.size(), threads_, [&](size_t i) {
      StatusOr<RgbImage> image = decode_image(pending_[i].bytes, data_.size());
      statuses[i] = image.status();
      if (!image.ok()) return;
      decoded[i].resize(bytes);
      resample(*image, center_square(image->width, image->height), data_.size(), decoded[i].data());
    });
    for (size_t i = 0; i < pending_.size(); ++i) {
      Source& file = pending_[i];
      if (statuses[i].ok()) {
        file.image = static_cast<int>(data_.store.count());
        CHANAS_ASSIGN_OR_RETURN(uint8_t * to, data_.store.add());
        std::memcpy(to, decoded[i].data(), bytes);
      } else {
        add_damage(file.path, statuses[i]);
      }
      file.bytes.clear();
      file.bytes.shrink_to_fit();
      files_.push_back(std::move(file));
    }
    pending_.clear();
    return check_cancelled();
  }

  void add_damage(const std::string& path, const Status& status) {
    const std::string line = fmt::format("{}: {}", path, message(status));
    if (data_.info.damaged++ == 0) first_damage_ = line;
    if (data_.info.damaged <= kNamedDamage) warn_(fmt::format("image skipped: {}", line));
  }

  Status check_damage() {
    const int64_t damaged = data_.info.damaged;
    if (damaged > kNamedDamage) {
      warn_(fmt::format("{} more images skipped", damaged - kNamedDamage));
    }
    const auto all = static_cast<double>(files_.size());
    if (static_cast<double>(damaged) > config_.max_damaged * all) {
      return absl::DataLossError(fmt::format(
          "{} of {} images of {} cannot be read, at most {:g} % may be skipped; the first is {}",
          damaged, files_.size(), config_.source, config_.max_damaged * 100, first_damage_));
    }
    return absl::OkStatus();
  }

  // Records of labels and 32 x 32 red, green and blue planes. CIFAR-10 has one label, CIFAR-100 has
  // two, of which the second, finer one counts.
  Status read_cifar() {
    std::sort(cifar_.begin(), cifar_.end());
    const bool hundred = std::any_of(cifar_.begin(), cifar_.end(), [](const auto& file) {
      return base_name(file.first) == "train.bin";
    });
    const size_t labels = hundred ? 2 : 1, record = labels + kCifarPixels;
    const int classes = hundred ? 100 : 10;
    std::vector<int> pool, test;
    for (const auto& [path, bytes] : cifar_) {
      if (is_cifar_names(path)) {
        size_t start = 0;
        for (size_t end; (end = bytes.find('\n', start)) != std::string::npos; start = end + 1) {
          if (end > start) data_.classes.push_back(bytes.substr(start, end - start));
        }
        continue;
      }
      if (bytes.empty() || bytes.size() % record != 0) {
        return absl::DataLossError(fmt::format(
            "{} of {} has {} bytes, expected a multiple of {}: it is cut short or no CIFAR-{} file",
            path, config_.source, bytes.size(), record, classes));
      }
      RgbImage image{32, 32, std::vector<uint8_t>(kCifarPixels)};
      for (size_t at = 0; at < bytes.size(); at += record) {
        const int label = static_cast<uint8_t>(bytes[at + labels - 1]);
        if (label >= classes) {
          return absl::DataLossError(fmt::format("record {} of {} has label {}, expected 0 to {}",
                                                 at / record, path, label, classes - 1));
        }
        for (size_t i = 0; i < 32 * 32; ++i) {
          for (size_t c = 0; c < 3; ++c) {
            image.pixels[3 * i + c] = static_cast<uint8_t>(bytes[at + labels + c * 1024 + i]);
          }
        }
        (is_cifar_train(path) ? pool : test).push_back(static_cast<int>(data_.store.count()));
        data_.labels.push_back(label);
        CHANAS_ASSIGN_OR_RETURN(uint8_t * to, data_.store.add());
        resample(image, center_square(32, 32), data_.size(), to);
      }
    }
    if (data_.classes.size() != static_cast<size_t>(classes)) {
      data_.classes.clear();
      for (int i = 0; i < classes; ++i) data_.classes.push_back(std::to_string(i));
    }
    return divide(config_, pool, test, data_);
  }

  // Of what the parts hold, in their order, which does not depend on the order of reading.
  std::string fingerprint_all() const {
    const auto bytes = static_cast<size_t>(data_.size()) * static_cast<size_t>(data_.size()) * 3;
    std::vector<const std::vector<int>*> parts;
    size_t count = 0;
    for (const auto& part : data_.parts) {
      parts.push_back(&part);
      count += part.size();
    }
    std::vector<std::string> hashes(count);
    size_t start = 0;
    std::string all = fmt::format("{}\n", data_.size());
    for (const std::string& name : data_.classes) all += name + "\n";
    for (const std::vector<int>* part : parts) {
      parallel_for(part->size(), threads_, [&](size_t i) {
        const int image = (*part)[i];
        hashes[start + i] = fmt::format(
            "{} {}\n", data_.labels[static_cast<size_t>(image)],
            sha256_hex({reinterpret_cast<const char*>(data_.store.image(image)), bytes}));
      });
      start += part->size();
    }
    start = 0;
    for (const std::vector<int>* part : parts) {
      for (size_t i = 0; i < part->size(); ++i) all += hashes[start + i];
      all += "--\n";
      start += part->size();
    }
    return fingerprint(all);
  }

  const DataConfig& config_;
  const int threads_;
  const std::function<void(const std::string&)>& warn_;
  Dataset data_;
  std::vector<Source> pending_, files_;
  std::vector<std::pair<std::string, std::string>> cifar_;
  std::string first_damage_;
};

// Memory of a file without a name, which goes with it: the system writes it out under pressure.
StatusOr<uint8_t*> map_file(size_t bytes) {
  const char* chosen = std::getenv("TMPDIR");
  const std::string folder = chosen != nullptr ? chosen : "/var/tmp";
  const int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  const auto failure = [&](int why) {
    return absl::ResourceExhaustedError(
        fmt::format("the images do not fit into memory, and {} has no room for them ({}); make "
                    "room, set TMPDIR "
                    "to another folder, or keep smaller images (data.size)",
                    folder, std::strerror(why)));
  };
  if (file < 0) return failure(errno);
  const int full = ::posix_fallocate(file, 0, static_cast<off_t>(bytes));
  void* memory =
      full != 0 ? MAP_FAILED : ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int why = full != 0 ? full : errno;
  ::close(file);
  if (memory == MAP_FAILED) return failure(why);
  return static_cast<uint8_t*>(memory);
}

// What there is, as far as the data tell.
void describe(Dataset& data) {
  data.info.classes = data.classes;
  data.info.size = data.size();
  data.info.images = data.store.count();
  data.info.train = static_cast<int64_t>(data.part(Part::kTrain).size());
  data.info.gap = static_cast<int64_t>(data.part(Part::kGap).size());
  data.info.ranking = static_cast<int64_t>(data.part(Part::kRanking).size());
  data.info.test = static_cast<int64_t>(data.part(Part::kTest).size());
}

// Of all that decides what is loaded.
std::string cache_key(const DataConfig& c, int size) {
  return fingerprint(fmt::format("{} {} {} {} {} {} {} {} {} {}", c.source,
                                 files_fingerprint(c.source), size, c.seed, c.builtin_images,
                                 c.builtin_noise, c.gap_share, c.ranking_share, c.test_share,
                                 c.max_damaged));
}

Status check(const DataConfig& config, int size) {
  const auto share = [](std::string_view name, double value, double high) -> Status {
    if (value > 0 && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{} is {}, expected above 0 and at most {}", name, value, high));
  };
  CHANAS_RETURN_IF_ERROR(share("gap_share", config.gap_share, 0.4));
  CHANAS_RETURN_IF_ERROR(share("ranking_share", config.ranking_share, 0.4));
  CHANAS_RETURN_IF_ERROR(share("test_share", config.test_share, 0.8));
  if (!(config.max_damaged >= 0 && config.max_damaged <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("max_damaged is {}, expected 0 to 1", config.max_damaged));
  }
  if (config.memory_mb < 0 || config.memory_mb > 1 << 24) {
    return absl::InvalidArgumentError(
        fmt::format("memory_mb is {}, expected 0 to {}", config.memory_mb, 1 << 24));
  }
  if (size < 8 || size > 512) {
    return absl::InvalidArgumentError(
        fmt::format("the size of stored images is {}, expected 8 to 512", size));
  }
  if (config.source == "builtin" &&
      (config.builtin_images < 100 || config.builtin_images > 10'000'000)) {
    return absl::InvalidArgumentError(
        fmt::format("builtin_images is {}, expected 100 to 10 million", config.builtin_images));
  }
  if (!(config.builtin_noise >= 0 && config.builtin_noise <= 10)) {
    return absl::InvalidArgumentError(
        fmt::format("builtin_noise is {}, expected 0 to 10", config.builtin_noise));
  }
  return absl::OkStatus();
}

}  // namespace

ImageStore::ImageStore(int size, int64_t count, const uint8_t* pixels,
                       std::shared_ptr<const void> owner)
    : size_(size), memory_bytes_(0), count_(count), pixels_(pixels), owner_(std::move(owner)) {}

ImageStore::ImageStore(int size, int64_t memory_bytes) : size_(size), memory_bytes_(memory_bytes) {
  if (memory_bytes_ > 0) return;
  memory_bytes_ = int64_t{::sysconf(_SC_PHYS_PAGES)} / 2 * ::sysconf(_SC_PAGESIZE);
  // A container may have less than its machine.
  if (const auto limit = read_file("/sys/fs/cgroup/memory.max"); limit.ok()) {
    if (const int64_t bytes = std::atoll(limit->c_str()); bytes > 0)  // or "max"
      memory_bytes_ = std::min(memory_bytes_, bytes / 2);
  }
}

void ImageStore::Release::operator()(uint8_t* chunk) const {
  if (mapped_bytes > 0) {
    ::munmap(chunk, mapped_bytes);
  } else {
    delete[] chunk;
  }
}

const uint8_t* ImageStore::image(int64_t index) const {
  const int64_t bytes = int64_t{size_} * size_ * 3;
  if (pixels_ != nullptr) return pixels_ + index * bytes;
  return chunks_[static_cast<size_t>(index / kChunk)].get() + (index % kChunk) * bytes;
}

StatusOr<uint8_t*> ImageStore::add() {
  CHANAS_CHECK(pixels_ == nullptr);
  const int64_t bytes = int64_t{size_} * size_ * 3;
  if (count_ % kChunk == 0) {
    const int64_t held = static_cast<int64_t>(chunks_.size()) * kChunk * bytes;
    const auto chunk = static_cast<size_t>(kChunk * bytes);
    if (held + kChunk * bytes <= memory_bytes_) {
      chunks_.emplace_back(new uint8_t[chunk]);
    } else {
      CHANAS_ASSIGN_OR_RETURN(uint8_t * mapped, map_file(chunk));
      chunks_.emplace_back(mapped, Release{chunk});
    }
  }
  return chunks_.back().get() + (count_++ % kChunk) * bytes;
}

int stored_size(const DataConfig& config, int resolution) {
  if (config.size > 0) return config.size;
  return config.source == "builtin" ? kBuiltinSize : resolution;
}

StatusOr<Dataset> load_dataset(const DataConfig& config, int size, int threads,
                               const std::function<void(const std::string&)>& warn) {
  CHANAS_RETURN_IF_ERROR(check(config, size));
  const std::string key = config.cache.empty() ? "" : cache_key(config, size);
  if (!config.cache.empty()) {
    StatusOr<Dataset> packed = read_packed(config.cache, key);
    if (packed.ok()) {
      describe(*packed);
      return packed;
    }
    if (!absl::IsNotFound(packed.status()))
      warn(fmt::format("{}; the images are read again", message(packed.status())));
  }
  CHANAS_ASSIGN_OR_RETURN(Dataset dataset, Loader(config, size, threads, warn).load());
  describe(dataset);
  if (!config.cache.empty()) {
    if (const Status kept = write_packed(dataset, key, config.cache); !kept.ok())
      warn(fmt::format("{}; every stage will read the images again", message(kept)));
  }
  return dataset;
}

}  // namespace chanas
