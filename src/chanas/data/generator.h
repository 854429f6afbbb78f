#pragma once
// The built-in data set: ten classes, each a shape with a texture, among clutter. Every image is a
// function of (seed, index) alone, the same bits on every machine.

#include <string>
#include <vector>

#include "chanas/data/image.h"

namespace chanas {

// More than the resolutions that such images are learned at: all of those are then averages. With
// images drawn at the largest resolution its noise alone stays sharp, and weights that are shared
// by all resolutions fit that one worst.
inline constexpr int kBuiltinSize = 48;
inline constexpr int kBuiltinClasses = 10;

// "striped disc", ...; labels of generate_image count in this order.
const std::vector<std::string>& builtin_class_names();

// Image `index` of the set that belongs to `seed`, kBuiltinSize square; its label is index %
// kBuiltinClasses. The deviation of its noise, averaged to 32 x 32 pixels, is between 0.01 and
// 0.06 of white, times `noise` (0 to 10): with more, networks need to look at more pixels, and
// size pays.
RgbImage generate_image(uint64_t seed, int64_t index, double noise = 1);

}  // namespace chanas
