// Loading folders, archives and CIFAR files; division into parts; what is refused and how.

#include "chanas/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "chanas/base/file.h"
#include "chanas/data/augment.h"
#include "chanas/data/generator.h"
#include "chanas/data/image.h"

namespace chanas {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

class DatasetTest : public testing::Test {
 protected:
  // A small picture of one colour, different for every (label, index).
  void add_image(const std::string& path, int label, int index) {
    const std::string full = join_path(folder_.path(), path);
    ASSERT_TRUE(make_folder(full.substr(0, full.rfind('/'))).ok());
    RgbImage image{12, 10, {}};
    for (int i = 0; i < 120; ++i) {
      for (int v : {label * 20, index * 3, 77}) image.pixels.push_back(static_cast<uint8_t>(v));
    }
    ASSERT_TRUE(write_png(full, image).ok());
  }
  void add_class(const std::string& name, int label, int count) {
    for (int i = 0; i < count; ++i) {
      add_image(name + "/" + std::to_string(1000 + i) + ".png", label, i);
    }
  }
  void add_file(const std::string& path, const std::string& bytes) {
    const std::string full = join_path(folder_.path(), path);
    ASSERT_TRUE(make_folder(full.substr(0, full.rfind('/'))).ok());
    ASSERT_TRUE(write_file_atomic(full, bytes).ok());
  }
  StatusOr<Dataset> load(const std::string& source) {
    DataConfig config = config_;
    config.source = source;
    return load_dataset(config, 8, 2,
                        [this](const std::string& text) { warnings_.push_back(text); });
  }
  Dataset loaded(const std::string& source) {
    auto dataset = load(source);
    CHANAS_CHECK(dataset.ok()) << dataset.status();
    return *std::move(dataset);
  }
  void expect_error(absl::StatusCode code, const std::string& text) {
    auto dataset = load(folder_.path());
    EXPECT_EQ(dataset.status().code(), code) << dataset.status();
    EXPECT_THAT(std::string(message(dataset.status())), HasSubstr(text));
  }
  std::string archive(const std::string& name, const std::string& flags) {
    const std::string path = join_path(archives_.path(), name);
    const std::string command = "tar " + flags + " -cf '" + path + "' -C '" +
                                folder_.path().substr(0, folder_.path().rfind('/')) + "' '" +
                                folder_.path().substr(folder_.path().rfind('/') + 1) + "'";
    CHANAS_CHECK(std::system(command.c_str()) == 0) << command;
    return path;
  }

  TemporaryFolder folder_{"dataset"}, archives_{"archives"};
  DataConfig config_;
  std::vector<std::string> warnings_;
};

// Each image in exactly one part.
void expect_partition(const Dataset& dataset, size_t images) {
  std::set<int> seen;
  size_t count = 0;
  for (const auto& part : dataset.parts) {
    count += part.size();
    seen.insert(part.begin(), part.end());
  }
  EXPECT_EQ(seen.size(), count);
  EXPECT_EQ(count, images);
}

std::map<int, int> class_counts(const Dataset& dataset, Part part) {
  std::map<int, int> counts;
  for (const int image : dataset.part(part)) ++counts[dataset.labels[static_cast<size_t>(image)]];
  return counts;
}

TEST_F(DatasetTest, ReadsClassFolders) {
  add_class("cat", 0, 50);
  add_class("dog", 1, 30);
  const Dataset dataset = loaded(folder_.path());
  EXPECT_THAT(dataset.classes, ElementsAre("cat", "dog"));
  expect_partition(dataset, 80);
  for (int image = 0; image < 80; ++image) {
    const uint8_t* pixel = dataset.store.image(image);
    EXPECT_EQ(pixel[0], dataset.labels[static_cast<size_t>(image)] * 20);
    EXPECT_EQ(pixel[2], 77);
  }
  // 16 % test, of the rest 8 % ranking and 4 % gap; every part has every class.
  EXPECT_THAT(class_counts(dataset, Part::kTest), ElementsAre(std::pair(0, 8), std::pair(1, 5)));
  EXPECT_THAT(class_counts(dataset, Part::kRanking), ElementsAre(std::pair(0, 3), std::pair(1, 2)));
  EXPECT_THAT(class_counts(dataset, Part::kGap), ElementsAre(std::pair(0, 2), std::pair(1, 1)));
  EXPECT_EQ(dataset.info.images, 80);
  EXPECT_EQ(dataset.info.train, 59);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DatasetTest, TestFolderIsTheTestPart) {
  for (const std::string name : {"test", "val"}) {
    TemporaryFolder fresh("split");
    add_class("data/train/a", 0, 20);
    add_class("data/train/b", 1, 20);
    add_class("data/" + name + "/a", 0, 5);
    add_class("data/" + name + "/b", 1, 5);
  }
  // test is the test part, val joins training.
  const Dataset dataset = loaded(folder_.path());
  EXPECT_EQ(dataset.info.test, 10);
  EXPECT_EQ(dataset.info.images, 60);
  expect_partition(dataset, 60);
  EXPECT_THAT(dataset.classes, ElementsAre("a", "b"));
}

TEST_F(DatasetTest, ArchivesEqualFolders) {
  add_class("train/a", 0, 20);
  add_class("train/b", 1, 20);
  add_class("test/a", 0, 5);
  add_class("test/b", 1, 5);
  const Dataset dataset = loaded(folder_.path());
  for (const auto& [name, flags] : {std::pair("x.tar", ""), std::pair("x.tar.gz", "-z"),
                                    std::pair("reversed.tar.xz", "-J --sort=none")}) {
    const Dataset other = loaded(archive(name, flags));
    EXPECT_EQ(other.info.fingerprint, dataset.info.fingerprint) << name;
    EXPECT_EQ(other.info.test, 10);
  }
}

TEST_F(DatasetTest, SeedDecidesTheParts) {
  add_class("a", 0, 40);
  add_class("b", 1, 40);
  const std::string first = loaded(folder_.path()).info.fingerprint;
  EXPECT_EQ(loaded(folder_.path()).info.fingerprint, first);
  config_.seed = 2;
  EXPECT_NE(loaded(folder_.path()).info.fingerprint, first);
}

TEST_F(DatasetTest, PrefixesOfHeldOutPartsMixClasses) {
  add_class("a", 0, 300);
  add_class("b", 1, 100);
  config_.test_share = 0.4;
  const Dataset dataset = loaded(folder_.path());
  const std::vector<int>& test = dataset.part(Part::kTest);
  int b = 0;
  for (size_t i = 0; i < 40; ++i) b += dataset.labels[static_cast<size_t>(test[i])];
  EXPECT_NEAR(b, 10, 1);
}

std::string cifar_file(int records, int first) {
  std::string bytes;
  for (int i = first; i < first + records; ++i) {
    bytes += static_cast<char>(i % 10);
    for (int c = 0; c < 3; ++c) bytes += std::string(1024, static_cast<char>(i + 50 * c));
  }
  return bytes;
}

TEST_F(DatasetTest, ReadsCifarFiles) {
  const std::string top = "cifar-10-batches-bin/";
  add_file(top + "data_batch_1.bin", cifar_file(60, 0));
  add_file(top + "data_batch_2.bin", cifar_file(40, 60));
  add_file(top + "test_batch.bin", cifar_file(20, 100));
  add_file(top + "batches.meta.txt",
           "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
  for (const std::string& source : {folder_.path(), archive("c.tar.gz", "-z")}) {
    const Dataset dataset = loaded(source);
    EXPECT_EQ(dataset.classes[9], "truck");
    EXPECT_EQ(dataset.info.test, 20);
    expect_partition(dataset, 120);
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(dataset.labels[static_cast<size_t>(i)], i % 10);
      EXPECT_EQ(dataset.store.image(i)[0], i);
      EXPECT_EQ(dataset.store.image(i)[4], i + 50);
    }
  }
  add_file(top + "data_batch_2.bin", cifar_file(40, 60).substr(1));
  expect_error(absl::StatusCode::kDataLoss, "data_batch_2.bin");
  add_file(top + "data_batch_2.bin", "\x0b" + cifar_file(40, 60).substr(1));
  expect_error(absl::StatusCode::kDataLoss, "label 11");
}

TEST_F(DatasetTest, ReadsCifar100Files) {
  const auto file = [](int records, int first) {
    std::string bytes;
    for (int i = first; i < first + records; ++i) {
      bytes += static_cast<char>(i % 20);   // coarse
      bytes += static_cast<char>(i % 100);  // fine
      bytes += std::string(3072, static_cast<char>(i % 250));
    }
    return bytes;
  };
  const std::string top = "cifar-100-binary/";
  add_file(top + "train.bin", file(500, 0));
  add_file(top + "test.bin", file(100, 500));
  std::string names;
  for (int i = 0; i < 100; ++i) names += "fine " + std::to_string(i) + "\n";
  add_file(top + "fine_label_names.txt", names);
  const Dataset dataset = loaded(folder_.path());
  EXPECT_EQ(dataset.classes[99], "fine 99");
  EXPECT_EQ(dataset.info.test, 100);
  expect_partition(dataset, 600);
  for (const Part part : {Part::kTrain, Part::kTest}) {
    for (const int image : dataset.part(part)) {
      EXPECT_EQ(dataset.labels[static_cast<size_t>(image)] % 50,
                dataset.store.image(image)[0] % 50);
    }
  }
  add_file(top + "train.bin", std::string(1, '\0') + '\x64' + file(500, 0).substr(2));
  expect_error(absl::StatusCode::kDataLoss, "label 100, expected 0 to 99");
  add_file(top + "train.bin", file(500, 0).substr(2));
  expect_error(absl::StatusCode::kDataLoss, "CIFAR-100");
}

// As ImageNet comes: an archive of archives, one per class.
TEST_F(DatasetTest, ArchivesOfClassesEqualFolders) {
  add_class("n01", 0, 30);
  add_class("n02", 1, 30);
  const std::string whole = loaded(folder_.path()).info.fingerprint;
  const auto shell = [&](const std::string& command) {
    ASSERT_EQ(std::system(("cd '" + folder_.path() + "' && " + command).c_str()), 0);
  };
  shell("for c in n01 n02; do (cd $c && tar -cf ../$c.tar *.png); done");
  // Beside the folders they were packed from they do not count.
  EXPECT_EQ(loaded(folder_.path()).info.fingerprint, whole);
  shell("rm -r n01 n02");
  const Dataset dataset = loaded(folder_.path());
  EXPECT_THAT(dataset.classes, ElementsAre("n01", "n02"));
  EXPECT_EQ(dataset.info.fingerprint, whole);
  EXPECT_EQ(loaded(archive("all.tar", "")).info.fingerprint, whole);
  shell("head -c 5000 n02.tar > cut && mv cut n02.tar");
  expect_error(absl::StatusCode::kDataLoss, "n02.tar");
}

TEST_F(DatasetTest, ImagesBeyondMemoryLieInAFile) {
  config_.builtin_images = 20000;  // 8 x 8 pixels: 3.7 MB
  const std::string in_memory = loaded("builtin").info.fingerprint;
  config_.memory_mb = 1;
  EXPECT_EQ(loaded("builtin").info.fingerprint, in_memory);
  ::setenv("TMPDIR", "/nowhere", 1);
  const auto refused = load("builtin");
  ::unsetenv("TMPDIR");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
  EXPECT_THAT(std::string(message(refused.status())), HasSubstr("/nowhere has no room"));
}

TEST_F(DatasetTest, SkipsFewDamagedImages) {
  add_class("a", 0, 60);
  add_class("b", 1, 60);
  add_file("a/torn.jpg", "\xff\xd8\xff\xe0 and no more");
  const Dataset dataset = loaded(folder_.path());
  EXPECT_EQ(dataset.info.damaged, 1);
  EXPECT_EQ(dataset.info.images, 120);
  EXPECT_THAT(warnings_, Contains(HasSubstr("a/torn.jpg")));
}

TEST_F(DatasetTest, RefusesManyDamagedImages) {
  add_class("a", 0, 60);
  add_class("b", 1, 60);
  add_file("a/note.jpg", "a text that is called .jpg");
  add_file("b/empty.png", "");
  expect_error(absl::StatusCode::kDataLoss, "2 of 122 images");
  expect_error(absl::StatusCode::kDataLoss, "a/note.jpg: neither a JPEG nor a PNG");
  config_.max_damaged = 0.05;
  EXPECT_EQ(loaded(folder_.path()).info.damaged, 2);
}

TEST_F(DatasetTest, RefusesBadLayouts) {
  expect_error(absl::StatusCode::kInvalidArgument, "holds no image");
  add_class("a", 0, 10);
  expect_error(absl::StatusCode::kInvalidArgument, "single class ('a')");
  ASSERT_TRUE(make_folder(join_path(folder_.path(), "b")).ok());
  expect_error(absl::StatusCode::kInvalidArgument, "'b'");
  add_class("b", 1, 3);
  expect_error(absl::StatusCode::kInvalidArgument, "class 'b' has 3 readable images");
  add_image("b/more.png", 1, 9);
  EXPECT_TRUE(load(folder_.path()).ok());
  add_image("outside.png", 0, 0);
  EXPECT_TRUE(load(folder_.path()).ok());
  EXPECT_THAT(warnings_, Contains(HasSubstr("outside.png")));
}

TEST_F(DatasetTest, RefusesImagesWithoutClassFolders) {
  add_image("1.png", 0, 0);
  add_image("2.png", 0, 1);
  expect_error(absl::StatusCode::kInvalidArgument, "in no class folder");
}

TEST_F(DatasetTest, RefusesClassesWithoutTraining) {
  add_class("train/a", 0, 10);
  add_class("train/b", 0, 10);
  add_class("test/c", 0, 10);
  expect_error(absl::StatusCode::kInvalidArgument, "class 'c'");
}

TEST_F(DatasetTest, EmptyClassFolderInsideArchive) {
  add_class("a", 0, 10);
  add_class("b", 0, 10);
  ASSERT_TRUE(make_folder(join_path(folder_.path(), "c")).ok());
  auto dataset = load(archive("x.tar", ""));
  EXPECT_THAT(std::string(message(dataset.status())), HasSubstr("class folder 'c'"));
}

TEST_F(DatasetTest, RefusesBadSources) {
  auto missing = load(join_path(folder_.path(), "nothing"));
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  add_file("text.tar.gz", "this is a text, not an archive");
  auto text = load(join_path(folder_.path(), "text.tar.gz"));
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << text.status();
  add_class("a", 0, 10);
  add_class("b", 0, 10);
  const std::string path = archive("x.tar.gz", "-z");
  const std::string bytes = *read_file(path);
  for (const double share : {0.3, 0.6, 0.9}) {
    const auto size = static_cast<size_t>(share * static_cast<double>(bytes.size()));
    ASSERT_TRUE(write_file_atomic(path, bytes.substr(0, size)).ok());
    auto torn = load(path);
    EXPECT_EQ(torn.status().code(), absl::StatusCode::kDataLoss) << torn.status();
    EXPECT_THAT(std::string(message(torn.status())), HasSubstr("cut short"));
  }
}

TEST_F(DatasetTest, RefusesBadSettings) {
  config_.gap_share = 0;
  expect_error(absl::StatusCode::kInvalidArgument, "gap_share");
  config_ = {};
  EXPECT_FALSE(load_dataset(config_, 4, 1, [](const std::string&) {}).ok());
  config_.builtin_images = 10;
  EXPECT_FALSE(load_dataset(config_, 32, 1, [](const std::string&) {}).ok());
  config_ = {};
  config_.builtin_noise = -1;
  EXPECT_FALSE(load_dataset(config_, 32, 1, [](const std::string&) {}).ok());
}

TEST(BuiltinTest, KeptAsDrawnOthersAtTheLargestResolution) {
  EXPECT_EQ(stored_size({}, 32), kBuiltinSize);
  EXPECT_EQ(stored_size({.source = "photos"}, 32), 32);
  EXPECT_EQ(stored_size({.size = 40}, 32), 40);
  EXPECT_EQ(stored_size({.source = "photos", .size = 40}, 32), 40);
}

TEST(BuiltinTest, IsTheSameEverywhere) {
  DataConfig config;
  config.builtin_images = 500;
  const auto load = [&](int threads) {
    auto dataset = load_dataset(config, 32, threads, [](const std::string&) {});
    CHANAS_CHECK(dataset.ok()) << dataset.status();
    return *std::move(dataset);
  };
  const Dataset dataset = load(2);
  EXPECT_EQ(dataset.info.fingerprint, "291bdfe82bec9119");
  EXPECT_EQ(load(1).info.fingerprint, dataset.info.fingerprint);
  EXPECT_EQ(load(3).info.fingerprint, dataset.info.fingerprint);
  expect_partition(dataset, 500);
  EXPECT_EQ(dataset.info.test, 80);
  EXPECT_EQ(class_counts(dataset, Part::kTrain).size(), size_t{kBuiltinClasses});
  config.builtin_noise = 2;
  EXPECT_NE(load(1).info.fingerprint, dataset.info.fingerprint);
  config.builtin_noise = 1;
  config.seed = 2;
  EXPECT_NE(load(1).info.fingerprint, dataset.info.fingerprint);
}

// Neither mean brightness nor colour may give the class away.
TEST(BuiltinTest, MeanColourTellsNothing) {
  std::vector<std::array<double, 3>> means(kBuiltinClasses);
  constexpr int kPerClass = 200;
  for (int i = 0; i < kPerClass * kBuiltinClasses; ++i) {
    const RgbImage image = generate_image(1, i);
    for (size_t p = 0; p < image.pixels.size(); ++p) {
      means[static_cast<size_t>(i % kBuiltinClasses)][p % 3] +=
          image.pixels[p] / (double{kBuiltinSize} * kBuiltinSize * kPerClass);
    }
  }
  for (size_t c = 0; c < 3; ++c) {
    double low = 255, high = 0;
    for (const auto& mean : means) {
      low = std::min(low, mean[c]);
      high = std::max(high, mean[c]);
    }
    // One image's mean varies by about 45, so that of 200 by about 3.
    EXPECT_LT(high - low, 16);
  }
}

}  // namespace
}  // namespace chanas
