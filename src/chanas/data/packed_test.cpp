// What a data set kept in a file gives to the process that maps it, and what is read again.

#include "chanas/data/packed.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>

#include "chanas/base/file.h"
#include "chanas/data/image.h"

namespace chanas {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class PackedTest : public testing::Test {
 protected:
  PackedTest() {
    for (int label = 0; label < 2; ++label)
      for (int i = 0; i < 20; ++i) write_image(label, i, static_cast<uint8_t>(10 * i + label));
    config_.source = join_path(folder_.path(), "images");
    config_.cache = cache_;
  }
  std::string image_path(int label, int index) {
    return join_path(folder_.path(), "images/class" + std::to_string(label) + "/" +
                                         std::to_string(100 + index) + ".png");
  }
  void write_image(int label, int index, uint8_t value) {
    const std::string path = image_path(label, index);
    ASSERT_TRUE(make_folder(path.substr(0, path.rfind('/'))).ok());
    ASSERT_TRUE(write_png(path, {9, 9, std::vector<uint8_t>(9 * 9 * 3, value)}).ok());
  }
  Dataset loaded() {
    warnings_.clear();
    auto dataset =
        load_dataset(config_, 9, 2, [this](const std::string& text) { warnings_.push_back(text); });
    CHANAS_CHECK(dataset.ok()) << dataset.status();
    return *std::move(dataset);
  }
  // As `wanted`, to the last pixel.
  void expect_same(const Dataset& dataset, const Dataset& wanted) {
    EXPECT_EQ(dataset.labels, wanted.labels);
    EXPECT_EQ(dataset.classes, wanted.classes);
    EXPECT_EQ(dataset.parts, wanted.parts);
    EXPECT_EQ(dataset.info.fingerprint, wanted.info.fingerprint);
    EXPECT_EQ(dataset.info.train, wanted.info.train);
    EXPECT_EQ(dataset.info.images, wanted.info.images);
    ASSERT_EQ(dataset.store.count(), wanted.store.count());
    for (int64_t i = 0; i < wanted.store.count(); ++i)
      EXPECT_EQ(std::memcmp(dataset.store.image(i), wanted.store.image(i), 9 * 9 * 3), 0) << i;
  }
  // Another picture of the same size, said to be of the same time: nobody looks at it.
  void change_unseen(int label, int index) {
    struct stat before = {};
    ASSERT_EQ(::stat(image_path(label, index).c_str(), &before), 0);
    std::fstream(image_path(label, index), std::ios::in | std::ios::out)
        << std::string(static_cast<size_t>(before.st_size), 'x');
    const timespec times[] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(::utimensat(AT_FDCWD, image_path(label, index).c_str(), times, 0), 0);
  }

  TemporaryFolder folder_{"packed"};
  std::string cache_ = join_path(folder_.path(), "images.packed");
  DataConfig config_;
  std::vector<std::string> warnings_;
};

TEST_F(PackedTest, TheNextOneMapsIt) {
  const Dataset first = loaded();
  ASSERT_TRUE(file_exists(cache_));
  change_unseen(1, 3);
  Dataset second = loaded();
  expect_same(second, first);
  EXPECT_THAT(warnings_, IsEmpty());
  // What it maps outlives the file.
  const Dataset moved = std::move(second);
  ASSERT_EQ(::unlink(cache_.c_str()), 0);
  expect_same(moved, first);
}

TEST_F(PackedTest, OtherImagesOrSettingsAreReadAgain) {
  const Dataset first = loaded();
  write_image(0, 5, 250);
  EXPECT_NE(loaded().info.fingerprint, first.info.fingerprint);
  write_image(0, 20, 251);
  EXPECT_EQ(loaded().info.images, 41);
  config_.seed = 9;
  const Dataset other_parts = loaded();
  EXPECT_NE(other_parts.parts, first.parts);
  EXPECT_THAT(warnings_, IsEmpty());
  expect_same(loaded(), other_parts);
}

TEST_F(PackedTest, DamageIsSaidAndReadAgain) {
  const Dataset first = loaded();
  const std::string good = *read_file(cache_);
  std::string header_gone = good;
  header_gone.replace(20, 30, std::string(30, '{'));
  for (const std::string& bytes :
       {std::string(), good.substr(0, 10), good.substr(0, 200), good.substr(0, good.size() - 1),
        "something else" + good, good + "x", header_gone}) {
    ASSERT_TRUE(write_file_atomic(cache_, bytes).ok());
    expect_same(loaded(), first);
    ASSERT_EQ(warnings_.size(), 1u);
    EXPECT_THAT(warnings_[0], HasSubstr("images.packed is damaged"));
    EXPECT_EQ(*read_file(cache_), good);
  }
}

TEST_F(PackedTest, WithoutAPlaceItIsReadEveryTime) {
  config_.cache = join_path(folder_.path(), "nowhere/images.packed");
  const Dataset first = loaded();
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_THAT(warnings_[0], HasSubstr("cannot be written"));
  expect_same(loaded(), first);
}

}  // namespace
}  // namespace chanas
