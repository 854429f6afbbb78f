// Decoding against files whose pixels are known, and resampling against direct formulas.

#include "chanas/data/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <png.h>
#include <turbojpeg.h>

#include <cmath>
#include <memory>

#include "chanas/base/file.h"
#include "chanas/base/rng.h"

namespace chanas {
namespace {

using testing::HasSubstr;

RgbImage gradient(int width, int height) {
  RgbImage image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int v : {40 + 150 * x / width, 40 + 150 * y / height, 90}) {
        image.pixels.push_back(static_cast<uint8_t>(v));
      }
    }
  }
  return image;
}

std::string encode_jpeg(const uint8_t* pixels, int width, int height, int format, int subsampling) {
  const std::unique_ptr<void, int (*)(void*)> encoder(tjInitCompress(), tjDestroy);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;  // NOLINT: the library's type
  CHANAS_CHECK(tjCompress2(encoder.get(), pixels, width, 0, height, format, &bytes, &size,
                           subsampling, 98, 0) == 0)
      << tjGetErrorStr2(encoder.get());
  std::string out(reinterpret_cast<char*>(bytes), size);
  tjFree(bytes);
  return out;
}

std::string encode_png(const void* pixels, int width, int height, uint32_t format) {
  png_image png = {};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<uint32_t>(width);
  png.height = static_cast<uint32_t>(height);
  png.format = format;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string bytes(size, '\0');
  CHANAS_CHECK(png_image_write_to_memory(&png, bytes.data(), &size, 0, pixels, 0, nullptr));
  bytes.resize(size);
  return bytes;
}

void expect_near(const RgbImage& image, const RgbImage& expected, int tolerance) {
  ASSERT_EQ(image.width, expected.width);
  ASSERT_EQ(image.height, expected.height);
  ASSERT_EQ(image.pixels.size(), expected.pixels.size());
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    ASSERT_NEAR(image.pixels[i], expected.pixels[i], tolerance) << i;
  }
}

RgbImage decoded(const std::string& bytes, int side = 0) {
  auto image = decode_image(bytes, side);
  CHANAS_CHECK(image.ok()) << image.status();
  return *image;
}

TEST(DecodeTest, ColourJpeg) {
  const RgbImage image = gradient(40, 24);
  expect_near(decoded(encode_jpeg(image.pixels.data(), 40, 24, TJPF_RGB, TJSAMP_444)), image, 6);
}

TEST(DecodeTest, GreyJpeg) {
  std::vector<uint8_t> grey;
  RgbImage expected{16, 16, {}};
  for (int i = 0; i < 256; ++i) {
    grey.push_back(static_cast<uint8_t>(i));
    for (int c = 0; c < 3; ++c) expected.pixels.push_back(static_cast<uint8_t>(i));
  }
  expect_near(decoded(encode_jpeg(grey.data(), 16, 16, TJPF_GRAY, TJSAMP_GRAY)), expected, 6);
}

TEST(DecodeTest, InkJpeg) {
  // As Adobe writes: 255 is no ink. Cyan 100, magenta 200, yellow 255 and black 204 left over.
  std::vector<uint8_t> inks;
  RgbImage expected{16, 16, {}};
  for (int i = 0; i < 256; ++i) {
    for (int v : {100, 200, 255, 204}) inks.push_back(static_cast<uint8_t>(v));
    for (int v : {80, 160, 204}) expected.pixels.push_back(static_cast<uint8_t>(v));
  }
  expect_near(decoded(encode_jpeg(inks.data(), 16, 16, TJPF_CMYK, TJSAMP_444)), expected, 6);
}

TEST(DecodeTest, LargeJpegMayComeOutSmaller) {
  const RgbImage image = gradient(400, 320);
  const std::string bytes = encode_jpeg(image.pixels.data(), 400, 320, TJPF_RGB, TJSAMP_444);
  const RgbImage small = decoded(bytes, 40);
  EXPECT_EQ(small.width, 50);
  EXPECT_EQ(small.height, 40);
  expect_near(small, gradient(50, 40), 8);
  EXPECT_EQ(decoded(bytes, 41).height, 80);
  EXPECT_EQ(decoded(bytes, 1000).width, 400);
}

TEST(DecodeTest, ColourPngIsExact) {
  const RgbImage image = gradient(31, 17);
  expect_near(decoded(encode_png(image.pixels.data(), 31, 17, PNG_FORMAT_RGB)), image, 0);
}

TEST(DecodeTest, TransparentPngLiesOnWhite) {
  const std::vector<uint8_t> pixels = {10, 20, 30, 255, 10, 20, 30, 0};
  expect_near(decoded(encode_png(pixels.data(), 2, 1, PNG_FORMAT_RGBA)),
              {2, 1, {10, 20, 30, 255, 255, 255}}, 0);
}

// 16-bit samples (three a pixel, or one of grey) written by the full interface, so that no colour
// space is declared.
std::string encode_png16(int width, int height, const std::vector<uint16_t>& samples) {
  const auto row = samples.size() / static_cast<size_t>(height);
  const bool grey = row == static_cast<size_t>(width);
  std::string out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, size_t size) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(data), size);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<uint32_t>(width), static_cast<uint32_t>(height), 16,
               grey ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  png_set_swap(png);
  for (int y = 0; y < height; ++y) {
    png_write_row(png, reinterpret_cast<png_const_bytep>(&samples[static_cast<size_t>(y) * row]));
  }
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

TEST(DecodeTest, SixteenBitPngKeepsItsBrightness) {
  const RgbImage image = gradient(20, 10);
  std::vector<uint16_t> wide;
  for (const uint8_t v : image.pixels) wide.push_back(static_cast<uint16_t>(v * 257));
  expect_near(decoded(encode_png16(20, 10, wide)), image, 1);
}

TEST(DecodeTest, GreyPngOfAnyDepth) {
  std::vector<uint8_t> grey;
  std::vector<uint16_t> wide;
  RgbImage expected{16, 16, {}};
  for (int i = 0; i < 256; ++i) {
    grey.push_back(static_cast<uint8_t>(i));
    wide.push_back(static_cast<uint16_t>(i * 257));
    for (int c = 0; c < 3; ++c) expected.pixels.push_back(static_cast<uint8_t>(i));
  }
  expect_near(decoded(encode_png(grey.data(), 16, 16, PNG_FORMAT_GRAY)), expected, 0);
  expect_near(decoded(encode_png16(16, 16, wide)), expected, 1);
}

TEST(DecodeTest, RefusesWhatIsNoImage) {
  const auto refusal = [](const std::string& bytes) {
    auto image = decode_image(bytes);
    EXPECT_EQ(image.status().code(), absl::StatusCode::kDataLoss);
    return std::string(message(image.status()));
  };
  EXPECT_THAT(refusal("hello, I am a text"), HasSubstr("neither a JPEG nor a PNG"));
  EXPECT_THAT(refusal(""), HasSubstr("empty"));
  const RgbImage image = gradient(64, 64);
  const std::string jpeg = encode_jpeg(image.pixels.data(), 64, 64, TJPF_RGB, TJSAMP_444);
  const std::string png = encode_png(image.pixels.data(), 64, 64, PNG_FORMAT_RGB);
  EXPECT_THAT(refusal(jpeg.substr(0, jpeg.size() / 2)), HasSubstr("damaged JPEG"));
  EXPECT_THAT(refusal(png.substr(0, png.size() / 2)), HasSubstr("damaged PNG"));
  EXPECT_THAT(refusal(png.substr(0, 20)), HasSubstr("damaged PNG"));
  // 30,000 x 30,000 pixels in a header of a few bytes.
  std::string bomb = png.substr(0, 33);
  bomb.replace(16, 8, std::string("\0\0\x75\x30\0\0\x75\x30", 8));
  EXPECT_EQ(decode_image(bomb).status().code(), absl::StatusCode::kDataLoss);
}

// Any bytes give an image or kDataLoss.
TEST(DecodeTest, SurvivesRandomDamage) {
  const RgbImage image = gradient(32, 32);
  const std::vector<std::string> files = {
      encode_jpeg(image.pixels.data(), 32, 32, TJPF_RGB, TJSAMP_420),
      encode_png(image.pixels.data(), 32, 32, PNG_FORMAT_RGB)};
  Rng rng(1);
  int failures = 0;
  for (int i = 0; i < 600; ++i) {
    std::string bytes = files[static_cast<size_t>(i % 2)];
    for (int j = 0; j < 3; ++j) {
      bytes[4 + rng.uniform(bytes.size() - 4)] = static_cast<char>(rng.uniform(256));
    }
    auto result = decode_image(bytes, 32);
    if (result.ok()) continue;
    ++failures;
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << result.status();
  }
  EXPECT_GT(failures, 100);
}

TEST(WritePngTest, ReadsBack) {
  const TemporaryFolder folder("png");
  const std::string path = join_path(folder.path(), "a.png");
  const RgbImage image = gradient(33, 21);
  ASSERT_TRUE(write_png(path, image).ok());
  expect_near(decoded(*read_file(path)), image, 0);
}

TEST(ResampleTest, WholePixelsAreCopied) {
  const RgbImage image = gradient(12, 12);
  std::vector<uint8_t> out(12 * 12 * 3);
  resample(image, {0, 0, 12, 12}, 12, out.data());
  EXPECT_EQ(out, image.pixels);
  // Shifted: edges repeat.
  std::vector<float> shifted(12 * 12 * 3);
  resample(image.pixels.data(), 12, 12, {-3, 2, 12, 12}, false, 12, 1, 0, shifted.data());
  for (int y = 0; y < 12; ++y) {
    for (int x = 0; x < 12; ++x) {
      const int sx = std::clamp(x - 3, 0, 11), sy = std::clamp(y + 2, 0, 11);
      for (int c = 0; c < 3; ++c) {
        EXPECT_EQ(shifted[static_cast<size_t>((y * 12 + x) * 3 + c)],
                  static_cast<float>(image.pixels[static_cast<size_t>((sy * 12 + sx) * 3 + c)]));
      }
    }
  }
}

TEST(ResampleTest, MirrorSwapsSides) {
  const RgbImage image = gradient(9, 9);
  std::vector<float> plain(7 * 7 * 3), mirrored(7 * 7 * 3);
  const Box box{1.3, 0.4, 6.1, 8};
  resample(image.pixels.data(), 9, 9, box, false, 7, 0.5f, -3, plain.data());
  resample(image.pixels.data(), 9, 9, box, true, 7, 0.5f, -3, mirrored.data());
  for (int y = 0; y < 7; ++y) {
    for (int x = 0; x < 7; ++x) {
      for (int c = 0; c < 3; ++c) {
        EXPECT_EQ(plain[static_cast<size_t>((y * 7 + x) * 3 + c)],
                  mirrored[static_cast<size_t>((y * 7 + 6 - x) * 3 + c)]);
      }
    }
  }
}

// The filter's definition, in double and in two dimensions at once.
double direct(const RgbImage& image, const Box& box, int size, int ox, int oy, int c) {
  const double step_x = box.width / size, step_y = box.height / size;
  const double cx = box.x + (ox + 0.5) * step_x, cy = box.y + (oy + 0.5) * step_y;
  double sum = 0, weights = 0;
  for (int y = -40; y < 80; ++y) {
    for (int x = -40; x < 80; ++x) {
      const double w = std::max(0.0, 1 - std::abs(x + 0.5 - cx) / std::max(1.0, step_x)) *
                       std::max(0.0, 1 - std::abs(y + 0.5 - cy) / std::max(1.0, step_y));
      const int sx = std::clamp(x, 0, image.width - 1), sy = std::clamp(y, 0, image.height - 1);
      sum += w * image.pixels[static_cast<size_t>((sy * image.width + sx) * 3 + c)];
      weights += w;
    }
  }
  return sum / weights;
}

TEST(ResampleTest, EqualsItsDefinition) {
  RgbImage image = gradient(20, 14);
  Rng rng(3);
  for (uint8_t& v : image.pixels) v = static_cast<uint8_t>(rng.uniform(256));
  for (const auto& [box, size] :
       {std::pair{Box{0, 0, 20, 14}, 6}, std::pair{Box{2.5, 1.25, 7.5, 9}, 11},
        std::pair{Box{-2, -3, 20, 14}, 8}, std::pair{Box{3, 0, 14, 14}, 14}}) {
    std::vector<float> out(static_cast<size_t>(size * size * 3));
    resample(image.pixels.data(), 20, 14, box, false, size, 1, 0, out.data());
    for (int y = 0; y < size; ++y) {
      for (int x = 0; x < size; ++x) {
        for (int c = 0; c < 3; ++c) {
          EXPECT_NEAR(out[static_cast<size_t>((y * size + x) * 3 + c)],
                      direct(image, box, size, x, y, c), 1e-3);
        }
      }
    }
  }
}

}  // namespace
}  // namespace chanas
