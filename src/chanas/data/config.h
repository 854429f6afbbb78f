#pragma once
// What every program says and hears about images; no library behind it.

#include <cstdint>
#include <string>
#include <vector>

namespace chanas {

// The network's input for every data set: (pixel / 255 - kInputMean) / kInputStd.
inline constexpr float kInputMean = 0.5f;
inline constexpr float kInputStd = 0.25f;

// Which images, and how they are divided. Two jobs with equal settings see the same images in the
// same parts. Parts: train, and the held-out gap, ranking and test, all disjoint, each with the
// same mix of classes. A folder `test` or `val` (or CIFAR's test_batch.bin) is the test part; else
// test_share of all images is. Gap and ranking parts are shares of what remains.
struct DataConfig {
  // "builtin" (images drawn by a generator), a folder, or a .tar, .tar.gz, ... file; in it class
  // folders of JPEG or PNG files, {train,test|val}/ with class folders, the *.bin files of CIFAR-10
  // or CIFAR-100, or a .tar file in place of any class folder (ImageNet's train archive).
  std::string source = "builtin";
  int64_t builtin_images = 12000;  // drawn by the generator, all parts together
  double builtin_noise = 1;        // of the pixels of drawn images, a multiple of the usual
  // Side of the square that images are kept at in memory (n * size * size * 3 bytes), 8 to 512.
  // 0: that of built-in images as they are drawn, else the largest resolution of the space.
  int size = 0;
  uint64_t seed = 1;  // of the split, and of the generator
  double gap_share = 0.04, ranking_share = 0.08, test_share = 0.16;
  // Images beyond this much memory are kept in a file (dataset.h). 0: half of the machine's.
  int64_t memory_mb = 0;
  // A file that keeps what was loaded, for the next that loads it; empty: none.
  std::string cache = {};
  // Unreadable images up to this share are skipped with a warning, more are an error.
  double max_damaged = 0.01;
};

struct DataInfo {
  std::vector<std::string> classes;  // names, in the order of the logits
  int size = 0;                      // side of stored images
  int64_t images = 0;                // readable ones
  int64_t train = 0, gap = 0, ranking = 0, test = 0;
  int64_t damaged = 0;      // skipped
  std::string fingerprint;  // 16 hex characters of all stored pixels, labels and parts
};

}  // namespace chanas
