#include "chanas/data/augment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <set>

#include "chanas/data/augment_policy.h"

namespace chanas {
namespace {

using testing::Each;
using testing::HasSubstr;

using Image = std::vector<uint8_t>;

constexpr int kSize = 9;

Image noise(int size = kSize, uint64_t seed = 1) {
  Rng rng(seed);
  Image image(static_cast<size_t>(size * size * 3));
  for (uint8_t& v : image) v = static_cast<uint8_t>(rng.uniform(256));
  return image;
}

Image flat(uint8_t value) { return Image(kSize * kSize * 3, value); }

Image after(Operation operation, double strength, const Image& image) {
  Image out(image.size());
  const auto size = static_cast<int>(std::lround(std::sqrt(image.size() / 3)));
  apply(operation, strength, size, image.data(), out.data());
  return out;
}

uint8_t& at(Image& image, int x, int y, int c = 0) {
  return image[static_cast<size_t>((y * kSize + x) * 3 + c)];
}

Dataset dataset_of(const Image& image, int size) {
  Dataset dataset;
  dataset.store = ImageStore(size);
  std::copy(image.begin(), image.end(), *dataset.store.add());
  return dataset;
}

std::vector<float> input(const Dataset& dataset, const std::string& words, uint64_t stream,
                         int resolution) {
  std::vector<float> out(static_cast<size_t>(resolution * resolution * 3));
  Rng rng(1, "augment", stream);
  const View view{resolution, out.data()};
  write_augmented_input(dataset, 0, *parse_augment(words), rng, std::span(&view, 1));
  return out;
}

// FNV-1a over the bits.
uint64_t checksum(const std::vector<float>& values) {
  uint64_t sum = 1469598103934665603u;
  for (const float v : values) sum = (sum ^ std::bit_cast<uint32_t>(v)) * 1099511628211u;
  return sum;
}

TEST(AugmentTest, Words) {
  EXPECT_EQ(*parse_augment("none"), Augment());
  EXPECT_EQ(*parse_augment("crop+cutout+colour"),
            (Augment{.geometry = Geometry::kCrop, .colour = true, .cutout = true}));
  const auto text = [](const char* words) {
    return std::string(message(parse_augment(words).status()));
  };
  EXPECT_THAT(text("heavy"), HasSubstr("\"heavy\": expected none, light or crop"));
  EXPECT_THAT(text(""), HasSubstr("expected none, light or crop"));
  EXPECT_THAT(text("cutout+light"), HasSubstr("\"cutout\" does not fit"));
  EXPECT_THAT(text("light+cutuot"), HasSubstr("\"cutuot\" does not fit"));
  EXPECT_THAT(text("light+crop"), HasSubstr("\"crop\" does not fit"));
  EXPECT_THAT(text("light+cutout+cutout"), HasSubstr("each once"));
  EXPECT_THAT(text("light+"), HasSubstr("\"\" does not fit"));
}

TEST(AugmentTest, InputIsNormalised) {
  Image image(8 * 8 * 3);
  std::iota(image.begin(), image.end(), uint8_t{0});
  const Dataset dataset = dataset_of(image, 8);
  std::vector<float> out(8 * 8 * 3);
  write_input(dataset, 0, {8, out.data()});
  for (int i = 0; i < 8 * 8 * 3; ++i) {
    EXPECT_NEAR(out[static_cast<size_t>(i)], (i / 255.0 - 0.5) / 0.25, 1e-5);
  }
}

TEST(AugmentTest, IsAFunctionOfItsStream) {
  const Dataset dataset = dataset_of(noise(32), 32);
  for (const std::string words : {"none", "light", "crop", "none+colour", "none+policy",
                                  "none+cutout", "crop+colour+policy+cutout"}) {
    std::set<std::vector<float>> distinct;
    for (uint64_t stream = 0; stream < 20; ++stream) {
      const std::vector<float> a = input(dataset, words, stream, 24);
      EXPECT_EQ(a, input(dataset, words, stream, 24));
      for (const float v : a) ASSERT_TRUE(v >= -2.001f && v <= 2.001f) << v;
      distinct.insert(a);
    }
    EXPECT_EQ(distinct.size() == 1, words == "none") << words;
    EXPECT_EQ(distinct.size() > 10, words != "none") << words;
  }
}

// Trainings that were begun go on with the images they would have seen.
TEST(AugmentTest, StreamsStayAsTheyAre) {
  const Dataset dataset = dataset_of(noise(32), 32);
  for (const auto& [words, sum] :
       {std::pair("light", 0x89e73c222b125be8u), {"crop", 0xd0da022b1fe717bdu}}) {
    std::vector<float> all;
    for (uint64_t stream = 0; stream < 50; ++stream) {
      const std::vector<float> one = input(dataset, words, stream, 28);
      all.insert(all.end(), one.begin(), one.end());
    }
    EXPECT_EQ(checksum(all), sum) << words;
  }
}

TEST(AugmentTest, CutoutBlanksOneSquare) {
  const Dataset dataset = dataset_of(Image(32 * 32 * 3, 255), 32);
  std::set<size_t> areas;
  for (uint64_t stream = 0; stream < 200; ++stream) {
    const std::vector<float> out = input(dataset, "none+cutout", stream, 24);
    int left = 24, right = -1, top = 24, bottom = -1;
    size_t blank = 0;
    for (int i = 0; i < 24 * 24; ++i) {
      if (out[static_cast<size_t>(i * 3)] != 0) continue;
      ++blank;
      left = std::min(left, i % 24), right = std::max(right, i % 24);
      top = std::min(top, i / 24), bottom = std::max(bottom, i / 24);
    }
    EXPECT_EQ(blank, static_cast<size_t>((right - left + 1) * (bottom - top + 1)));
    EXPECT_LE(right - left + 1, 12);
    areas.insert(blank);
  }
  EXPECT_EQ(*areas.rbegin(), size_t{12 * 12});
  EXPECT_LE(*areas.begin(), size_t{7 * 8});  // at a corner
  EXPECT_GE(*areas.begin(), size_t{6 * 6});
}

// Each as if it were the only one: the change does not depend on who looks.
TEST(AugmentTest, ViewsShowTheSameChange) {
  const Dataset dataset = dataset_of(noise(32), 32);
  for (const std::string words : {"light", "crop+colour+policy+cutout"}) {
    for (uint64_t stream = 0; stream < 20; ++stream) {
      std::vector<float> whole(32 * 32 * 3), half(16 * 16 * 3);
      Rng rng(1, "augment", stream);
      write_augmented_input(dataset, 0, *parse_augment(words), rng,
                            std::array{View{16, half.data()}, View{32, whole.data()}});
      EXPECT_EQ(half, input(dataset, words, stream, 16)) << words;
      EXPECT_EQ(whole, input(dataset, words, stream, 32)) << words;
    }
  }
}

TEST(AugmentTest, ColourChangesBrightnessAndSaturationWithinItsRange) {
  const Dataset grey = dataset_of(Image(32 * 32 * 3, 100), 32);
  for (uint64_t stream = 0; stream < 100; ++stream) {
    const std::vector<float> out = input(grey, "none+colour", stream, 32);
    const double pixel = (out[0] * 0.25 + 0.5) * 255;
    EXPECT_GE(pixel, 100 * (1 - 32.0 / 255) - 1);
    EXPECT_LE(pixel, 100 * (1 + 32.0 / 255) + 1);
    EXPECT_THAT(out, Each(out[0]));  // grey has no saturation
  }
}

// --- Operations ---

TEST(PolicyTest, NothingHappensAtStrengthZero) {
  const Image image = noise();
  for (int i = 0; i < kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    if (operation == Operation::kAutocontrast || operation == Operation::kEqualize) continue;
    EXPECT_EQ(after(operation, 0, image), image) << i;
  }
}

TEST(PolicyTest, TranslationMovesPixels) {
  Image image = flat(10);
  at(image, 4, 4) = 200;
  // 150/331 of nine is four pixels: what was right comes to the left.
  Image moved = after(Operation::kTranslateX, 1, image);
  EXPECT_EQ(at(moved, 0, 4), 200);
  EXPECT_EQ(at(moved, 8, 4), 128);
  moved = after(Operation::kTranslateY, -1, image);
  EXPECT_EQ(at(moved, 4, 8), 200);
  EXPECT_EQ(at(moved, 4, 0), 128);
}

TEST(PolicyTest, ShearAndRotationKeepTheCentre) {
  Image image = flat(10);
  for (int y = 0; y < kSize; ++y) at(image, 4, y) = 200;
  // By 0.3 the column leans: four rows from the centre it is off by one.
  Image leaning = after(Operation::kShearX, 1, image);
  EXPECT_EQ(at(leaning, 4, 4), 200);
  EXPECT_EQ(at(leaning, 5, 0), 200);
  EXPECT_EQ(at(leaning, 3, 8), 200);
  EXPECT_EQ(at(leaning, 4, 0), 10);
  // tan 30 degrees: four rows away it is off by two.
  Image rotated = after(Operation::kRotate, 1, image);
  EXPECT_EQ(at(rotated, 4, 4), 200);
  EXPECT_EQ(at(rotated, 6, 1) == 200 || at(rotated, 2, 1) == 200, true);
  EXPECT_EQ(at(rotated, 0, 0), 128);
  EXPECT_NE(rotated, after(Operation::kRotate, -1, image));
}

TEST(PolicyTest, FactorsStretchFromTheirReference) {
  EXPECT_THAT(after(Operation::kBrightness, -1, flat(100)), Each(10));
  EXPECT_THAT(after(Operation::kBrightness, 1, flat(200)), Each(255));
  Image two = flat(100);
  std::fill(two.begin(), two.begin() + 3 * 40, uint8_t{50});
  // Mean (40 * 50 + 41 * 100) / 81 = 75.3, in whole steps 75; factor 0.1.
  const Image less = after(Operation::kContrast, -1, two);
  EXPECT_EQ(less.front(), 73);  // 75 - 2.5, half away from zero
  EXPECT_EQ(less.back(), 78);
  Image red(kSize * kSize * 3, 0);
  for (size_t i = 0; i < red.size(); i += 3) red[i] = 200;
  // Its grey is 0.299 * 200 = 59.8.
  const Image pale = after(Operation::kSaturation, -1, red);
  EXPECT_NEAR(pale[0], 60 + 0.1 * 140, 1);
  EXPECT_NEAR(pale[1], 60 - 0.1 * 60, 1);
  EXPECT_EQ(after(Operation::kSaturation, 1, flat(77)), flat(77));
}

TEST(PolicyTest, SharpnessIsAgainstTheSmoothedImage) {
  Image image = flat(0);
  for (int c = 0; c < 3; ++c) at(image, 4, 4, c) = 130;
  // Smoothed, the point is 5/13 of itself and 1/13 beside it.
  Image smooth = after(Operation::kSharpness, -1, image);
  EXPECT_EQ(at(smooth, 4, 4), 50 + 8);
  EXPECT_EQ(at(smooth, 5, 5), 9);
  EXPECT_EQ(at(smooth, 6, 4), 0);
  Image sharp = after(Operation::kSharpness, 1, image);
  EXPECT_EQ(at(sharp, 4, 4), 130 + 72);
  EXPECT_EQ(at(sharp, 5, 5), 0);
  EXPECT_EQ(after(Operation::kSharpness, 1, flat(31)), flat(31));
}

TEST(PolicyTest, PosterizeAndSolarize) {
  const Image image = noise();
  const Image few = after(Operation::kPosterize, -1, image);
  const Image inverted = after(Operation::kSolarize, 1, image);
  const Image half = after(Operation::kSolarize, 0.5, image);
  for (size_t i = 0; i < image.size(); ++i) {
    EXPECT_EQ(few[i], image[i] & 0xf0);
    EXPECT_EQ(inverted[i], 255 - image[i]);
    EXPECT_EQ(half[i], image[i] < 128 ? image[i] : 255 - image[i]);
  }
}

TEST(PolicyTest, AutocontrastStretchesEachChannel) {
  Image image = flat(50);
  at(image, 0, 0, 0) = 100;
  at(image, 1, 0, 0) = 75;
  at(image, 0, 0, 1) = 60;
  Image wide = after(Operation::kAutocontrast, 0, image);
  EXPECT_EQ(at(wide, 0, 0, 0), 255);
  EXPECT_EQ(at(wide, 1, 0, 0), 128);
  EXPECT_EQ(at(wide, 2, 0, 0), 0);
  EXPECT_EQ(at(wide, 0, 0, 1), 255);
  EXPECT_EQ(at(wide, 0, 0, 2), 50);  // one value only
}

TEST(PolicyTest, EqualizeFlattensTheHistogram) {
  // Values 0..63 alike often, in 64 x 64 pixels: they come to lie over the whole range.
  Image image(64 * 64 * 3);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint8_t>(i / 3 % 64);
  const Image out = after(Operation::kEqualize, 1, image);
  EXPECT_EQ(*std::min_element(out.begin(), out.end()), 0);
  EXPECT_GE(*std::max_element(out.begin(), out.end()), 250);
  for (size_t v = 1; v < 64; ++v) {
    EXPECT_NEAR(std::min(out[3 * v] - out[3 * v - 3], 4), out[3 * v] < 255 ? 4 : 2, 2) << v;
  }
  EXPECT_EQ(after(Operation::kEqualize, 1, flat(9)), flat(9));
}

}  // namespace
}  // namespace chanas
