#pragma once
// All images of a data set in memory, decoded once, and their disjoint parts.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "chanas/base/status.h"
#include "chanas/data/config.h"

namespace chanas {

enum class Part { kTrain, kGap, kRanking, kTest };
// "train", "gap", "ranking", "test".
std::string_view part_name(Part part);
// kInvalidArgument lists the names.
StatusOr<Part> parse_part(std::string_view name);

// Pixels of many images of one size; grows without moving what it holds. What does not fit into
// memory_bytes lies in a packed file of the folder TMPDIR (/var/tmp), which goes when this goes.
class ImageStore {
 public:
  // 0: half of the machine's memory.
  explicit ImageStore(int size, int64_t memory_bytes = 0);
  // `count` images, one after the other, in memory that `owner` keeps; none can be added.
  ImageStore(int size, int64_t count, const uint8_t* pixels, std::shared_ptr<const void> owner);
  int size() const { return size_; }
  int64_t count() const { return count_; }
  // [size, size, 3], red first. Owned by this.
  const uint8_t* image(int64_t index) const;
  // A fresh image's pixels, to be filled; its index was count(). kResourceExhausted: no room in the
  // folder either.
  StatusOr<uint8_t*> add();

 private:
  struct Release {
    size_t mapped_bytes = 0;  // 0: from new
    void operator()(uint8_t* chunk) const;
  };
  int size_;
  int64_t memory_bytes_;
  int64_t count_ = 0;
  const uint8_t* pixels_ = nullptr;
  std::shared_ptr<const void> owner_;
  std::vector<std::unique_ptr<uint8_t[], Release>> chunks_;
};

// Immutable once loaded; then thread safe. Movable.
struct Dataset {
  ImageStore store{0};
  std::vector<int> labels;  // one per image of the store
  std::vector<std::string> classes;
  // Image indices. Held-out parts mix classes evenly, so that a prefix is a fair sample.
  std::array<std::vector<int>, 4> parts;
  DataInfo info;

  int size() const { return store.size(); }
  const std::vector<int>& part(Part part) const { return parts[static_cast<size_t>(part)]; }
};

// Side of the square that images are kept at for networks of up to `resolution`: config.size, or
// where that is 0 what it says of 0.
int stored_size(const DataConfig& config, int resolution);

// Maps config.cache where that is of the same files and settings (names, sizes and times of change
// tell). Else reads, decodes (each image's largest centred square, resampled to `size`) and
// divides. The result depends on the contents only, not on the order of an archive, on packing or
// on `threads`; it is kept in config.cache, and what stands in the way of that is a warning. `warn`
// gets lines for people: damaged images by name, ignored files. kInvalidArgument: settings out of
// range, a layout that fits none of those in config.h, an empty class, a single one, too few images
// of one. kNotFound: no such source. kDataLoss: damaged archive, more unreadable images than
// allowed. kCancelled.
StatusOr<Dataset> load_dataset(const DataConfig& config, int size, int threads,
                               const std::function<void(const std::string&)>& warn);

// --- Used by load_dataset, open to tests ---

// Fills parts. `given_test` lists images that are the test part already (may be empty); `order`
// lists all other images in a stable order. Every part gets at least one image of each class:
// kInvalidArgument names a class with too few.
Status divide(const DataConfig& config, const std::vector<int>& order,
              const std::vector<int>& given_test, Dataset& dataset);

}  // namespace chanas
