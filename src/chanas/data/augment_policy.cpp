#include "chanas/data/augment_policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "chanas/base/status.h"

namespace chanas {
namespace {

constexpr uint8_t kOutside = 128;
constexpr double kShear = 0.3, kTranslation = 150.0 / 331, kFactor = 0.9, kDegrees = 30;
constexpr int kPosterizeBits = 4;

using Table = std::array<uint8_t, 256>;

uint8_t to_byte(double value) {
  return static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
}

// ITU-R 601, as Pillow's "L".
int grey(const uint8_t* pixel) {
  return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16;
}

// Pixel (x, y) comes from a * (x, y) + b, distances from the centre.
void affine(double xx, double xy, double yx, double yy, double bx, double by, int size,
            const uint8_t* from, uint8_t* to) {
  const double middle = (size - 1) / 2.0;
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x, to += 3) {
      const double dx = x - middle, dy = y - middle;
      const int sx = static_cast<int>(std::floor(xx * dx + xy * dy + bx + middle + 0.5));
      const int sy = static_cast<int>(std::floor(yx * dx + yy * dy + by + middle + 0.5));
      if (sx < 0 || sy < 0 || sx >= size || sy >= size) {
        std::memset(to, kOutside, 3);
      } else {
        std::memcpy(to, from + (sy * size + sx) * 3, 3);
      }
    }
  }
}

void through(const Table& table, int count, int stride, const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < count; i += stride) to[i] = table[from[i]];
}

void saturate(double factor, int pixels, const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < pixels; ++i, from += 3, to += 3) {
    const double g = grey(from);
    for (int c = 0; c < 3; ++c) to[c] = to_byte(g + factor * (from[c] - g));
  }
}

void sharpen(double factor, int size, const uint8_t* from, uint8_t* to) {
  std::memcpy(to, from, static_cast<size_t>(size) * static_cast<size_t>(size) * 3);
  const int row = size * 3;
  for (int y = 1; y + 1 < size; ++y) {
    for (int i = 3; i + 3 < row; ++i) {
      const uint8_t* at = from + y * row + i;
      int sum = 4 * at[0];
      for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -3; dx <= 3; dx += 3) sum += at[dy * row + dx];
      }
      const double smooth = sum / 13.0;
      to[y * row + i] = to_byte(smooth + factor * (at[0] - smooth));
    }
  }
}

std::array<int, 256> histogram(int count, const uint8_t* channel) {
  std::array<int, 256> bins = {};
  for (int i = 0; i < count; i += 3) ++bins[channel[i]];
  return bins;
}

Table stretching(const std::array<int, 256>& bins) {
  int low = 0, high = 255;
  while (low < 255 && bins[static_cast<size_t>(low)] == 0) ++low;
  while (high > 0 && bins[static_cast<size_t>(high)] == 0) --high;
  Table table;
  for (int v = 0; v < 256; ++v) {
    table[static_cast<size_t>(v)] =
        high > low ? to_byte(255.0 * (v - low) / (high - low)) : static_cast<uint8_t>(v);
  }
  return table;
}

Table equalizing(const std::array<int, 256>& bins) {
  Table table;
  for (size_t v = 0; v < 256; ++v) table[v] = static_cast<uint8_t>(v);
  int sum = 0, last = 0;
  for (const int bin : bins) {
    sum += bin;
    if (bin > 0) last = bin;
  }
  const int step = (sum - last) / 255;
  if (step == 0) return table;
  int n = step / 2;
  for (size_t v = 0; v < 256; ++v) {
    table[v] = static_cast<uint8_t>(std::min(255, n / step));
    n += bins[v];
  }
  return table;
}

}  // namespace

void apply(Operation operation, double strength, int size, const uint8_t* from, uint8_t* to) {
  const int pixels = size * size, count = pixels * 3;
  const double amount = std::abs(strength), factor = 1 + kFactor * strength;
  switch (operation) {
    case Operation::kIdentity:
      std::memcpy(to, from, static_cast<size_t>(count));
      return;
    case Operation::kShearX:
      return affine(1, kShear * strength, 0, 1, 0, 0, size, from, to);
    case Operation::kShearY:
      return affine(1, 0, kShear * strength, 1, 0, 0, size, from, to);
    case Operation::kTranslateX:
      return affine(1, 0, 0, 1, std::round(kTranslation * strength * size), 0, size, from, to);
    case Operation::kTranslateY:
      return affine(1, 0, 0, 1, 0, std::round(kTranslation * strength * size), size, from, to);
    case Operation::kRotate: {
      const double angle = strength * kDegrees * 3.14159265358979323846 / 180;
      const double c = std::cos(angle), s = std::sin(angle);
      return affine(c, s, -s, c, 0, 0, size, from, to);
    }
    case Operation::kBrightness: {
      Table table;
      for (size_t v = 0; v < 256; ++v) table[v] = to_byte(factor * static_cast<double>(v));
      return through(table, count, 1, from, to);
    }
    case Operation::kSaturation:
      return saturate(factor, pixels, from, to);
    case Operation::kContrast: {
      int64_t sum = 0;
      for (int i = 0; i < count; i += 3) sum += grey(from + i);
      const double mean = std::floor(static_cast<double>(sum) / pixels + 0.5);
      Table table;
      for (size_t v = 0; v < 256; ++v) {
        table[v] = to_byte(mean + factor * (static_cast<double>(v) - mean));
      }
      return through(table, count, 1, from, to);
    }
    case Operation::kSharpness:
      return sharpen(factor, size, from, to);
    case Operation::kPosterize: {
      const auto dropped = static_cast<int>(std::lround(amount * (8 - kPosterizeBits)));
      const auto mask = static_cast<uint8_t>(0xff << dropped);
      for (int i = 0; i < count; ++i) to[i] = from[i] & mask;
      return;
    }
    case Operation::kSolarize: {
      const double threshold = 256 * (1 - amount);
      for (int i = 0; i < count; ++i) {
        to[i] = from[i] >= threshold ? static_cast<uint8_t>(255 - from[i]) : from[i];
      }
      return;
    }
    case Operation::kAutocontrast:
    case Operation::kEqualize:
      for (int c = 0; c < 3; ++c) {
        const std::array<int, 256> bins = histogram(count - c, from + c);
        const Table table = operation == Operation::kEqualize ? equalizing(bins) : stretching(bins);
        through(table, count - c, 3, from + c, to + c);
      }
      return;
  }
  CHANAS_CHECK(false) << static_cast<int>(operation);
}

void scale_colour(double brightness, double saturation, int size, uint8_t* pixels) {
  const int count = size * size * 3;
  Table table;
  for (size_t v = 0; v < 256; ++v) table[v] = to_byte(brightness * static_cast<double>(v));
  through(table, count, 1, pixels, pixels);
  saturate(saturation, size * size, pixels, pixels);
}

}  // namespace chanas
