#include "chanas/data/image.h"

#include <fmt/format.h>
#include <png.h>
#include <turbojpeg.h>

#include <cstring>
#include <memory>

#include "chanas/base/file.h"

namespace chanas {
namespace {

constexpr int64_t kMaxPixels = 100'000'000;

Status too_large(int64_t width, int64_t height) {
  return absl::DataLossError(
      fmt::format("the image has {} x {} pixels, expected at most {} million", width, height,
                  kMaxPixels / 1'000'000));
}

// The smallest scale that the decoder offers and that keeps `side` pixels both ways.
tjscalingfactor best_scale(int width, int height, int side) {
  tjscalingfactor best = {1, 1};
  if (side <= 0) return best;
  int count = 0;
  const tjscalingfactor* factors = tjGetScalingFactors(&count);
  int best_width = width;
  for (int i = 0; i < count; ++i) {
    const int w = TJSCALED(width, factors[i]), h = TJSCALED(height, factors[i]);
    if (w >= side && h >= side && w < best_width) {
      best = factors[i];
      best_width = w;
    }
  }
  return best;
}

StatusOr<RgbImage> decode_jpeg(std::string_view bytes, int side) {
  const std::unique_ptr<void, int (*)(void*)> decoder(tjInitDecompress(), tjDestroy);
  if (!decoder) return absl::InternalError("the JPEG decoder cannot be made");
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto size = static_cast<unsigned long>(bytes.size());  // NOLINT: the library's type
  const auto failure = [&] {
    return absl::DataLossError(fmt::format("damaged JPEG: {}", tjGetErrorStr2(decoder.get())));
  };
  int width = 0, height = 0, subsampling = 0, colors = 0;
  if (tjDecompressHeader3(decoder.get(), data, size, &width, &height, &subsampling, &colors) != 0) {
    return failure();
  }
  if (int64_t{width} * height > kMaxPixels) return too_large(width, height);
  const tjscalingfactor scale = best_scale(width, height, side);
  RgbImage image{TJSCALED(width, scale), TJSCALED(height, scale), {}};
  const size_t pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  // The library does not convert the four inks of print to RGB.
  const bool inks = colors == TJCS_CMYK || colors == TJCS_YCCK;
  image.pixels.resize(pixels * (inks ? 4 : 3));
  // A warning is a hole in the picture, mostly a file cut short.
  if (tjDecompress2(decoder.get(), data, size, image.pixels.data(), image.width, 0, image.height,
                    inks ? TJPF_CMYK : TJPF_RGB, TJFLAG_STOPONWARNING) != 0) {
    return failure();
  }
  if (inks) {
    // Adobe's files, which are all there are, hold the inks inverted: 255 is no ink.
    for (size_t i = 0; i < pixels; ++i) {
      const uint8_t* from = &image.pixels[4 * i];
      const int black = from[3];
      for (size_t c = 0; c < 3; ++c) {
        image.pixels[3 * i + c] = static_cast<uint8_t>((from[c] * black + 127) / 255);
      }
    }
    image.pixels.resize(pixels * 3);
  }
  return image;
}

StatusOr<RgbImage> decode_png(std::string_view bytes) {
  png_image png;
  std::memset(&png, 0, sizeof png);
  png.version = PNG_IMAGE_VERSION;
  const auto failure = [&] {
    return absl::DataLossError(fmt::format("damaged PNG: {}", png.message));
  };
  if (!png_image_begin_read_from_memory(&png, bytes.data(), bytes.size())) return failure();
  const std::unique_ptr<png_image, void (*)(png_image*)> guard(&png, png_image_free);
  if (int64_t{png.width} * png.height > kMaxPixels) return too_large(png.width, png.height);
  // Else 16-bit files without a colour space are taken for linear light and come out bright.
  png.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
  png.format = PNG_FORMAT_RGB;
  RgbImage image{static_cast<int>(png.width), static_cast<int>(png.height), {}};
  image.pixels.resize(PNG_IMAGE_SIZE(png));
  const png_color white = {255, 255, 255};
  if (!png_image_finish_read(&png, &white, image.pixels.data(), 0, nullptr)) return failure();
  return image;
}

}  // namespace

StatusOr<RgbImage> decode_image(std::string_view bytes, int side) {
  if (bytes.empty()) return absl::DataLossError("the file is empty");
  if (bytes.starts_with("\xff\xd8\xff")) return decode_jpeg(bytes, side);
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(bytes);
  return absl::DataLossError("neither a JPEG nor a PNG file by its first bytes");
}

Status write_png(const std::string& path, const RgbImage& image) {
  png_image png;
  std::memset(&png, 0, sizeof png);
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&png, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr)) {
    return absl::InternalError(fmt::format("cannot encode {}: {}", path, png.message));
  }
  bytes.resize(size);
  return write_file_atomic(path, bytes);
}

}  // namespace chanas
