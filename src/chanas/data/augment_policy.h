#pragma once
// Operations on whole images for augmentation, with the meaning that Pillow gives them.

#include <cstdint>

namespace chanas {

enum class Operation {
  kIdentity,
  kShearX,  // by up to 0.3; what comes from outside is grey, as below
  kShearY,
  kTranslateX,  // by up to 150/331 of the side
  kTranslateY,
  kRotate,        // by up to 30 degrees about the centre, nearest pixel
  kBrightness,    // these four: 1 +- 0.9 times the distance from black,
  kSaturation,    // from the pixel's grey,
  kContrast,      // from the image's mean grey,
  kSharpness,     // from the smoothed image (its border stays)
  kPosterize,     // down to four bits
  kSolarize,      // inverts what is at or above a threshold, from 256 down to 0
  kAutocontrast,  // each channel stretched to 0..255
  kEqualize,      // each channel to a flat histogram
};
inline constexpr int kOperations = 14;

// `strength` in [-1, 1] of the ranges above; where there is no direction its size counts, and the
// last two ignore it. `from` and `to` are [size, size, 3] and do not overlap. Thread safe.
void apply(Operation operation, double strength, int size, const uint8_t* from, uint8_t* to);

// The image with its brightness and then its saturation multiplied; in place.
void scale_colour(double brightness, double saturation, int size, uint8_t* pixels);

}  // namespace chanas
