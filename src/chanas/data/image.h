#pragma once
// One image: decoding JPEG and PNG, encoding PNG, resampling. Thread safe free functions.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "chanas/base/status.h"

namespace chanas {

struct RgbImage {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3], red first
};

// JPEG (grey, colour, CMYK) or PNG (any depth; transparency over white), told by their first bytes.
// A JPEG much larger than `side` may come out smaller, but never below `side` pixels in height and
// width, unless it was; 0: always whole. kDataLoss says what is wrong: not an image, truncated,
// damaged, over 100 megapixels.
StatusOr<RgbImage> decode_image(std::string_view bytes, int side = 0);

// Errors of write_file_atomic.
Status write_png(const std::string& path, const RgbImage& image);

// A rectangle in pixels; (0, 0) is the corner of the first pixel. Beyond the image its edge
// repeats.
struct Box {
  double x = 0, y = 0, width = 0, height = 0;
};
// The largest centred square.
Box center_square(int width, int height);

// The box resampled to [size, size, 3] with a triangle filter that widens when shrinking (as
// Pillow's BILINEAR); `mirror` swaps left and right. A box of `size` whole pixels is copied
// exactly. out[i] = pixel * scale + offset.
void resample(const uint8_t* pixels, int width, int height, const Box& box, bool mirror, int size,
              float scale, float offset, float* out);
// Rounded to bytes.
void resample(const RgbImage& image, const Box& box, int size, uint8_t* out);

}  // namespace chanas
