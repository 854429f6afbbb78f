#pragma once
// The built-in data set: ten classes, each a shape with a texture, among clutter. Every image is a
// function of (seed, index) alone, the same bits on every machine.

#include <string>
#include <vector>

#include "chanas/data/image.h"

namespace chanas {

inline constexpr int kBuiltinSize = 32;
inline constexpr int kBuiltinClasses = 10;

// "striped disc", ...; labels of generate_image count in this order.
const std::vector<std::string>& builtin_class_names();

// Image `index` of the set that belongs to `seed`, kBuiltinSize square; its label is index %
// kBuiltinClasses.
RgbImage generate_image(uint64_t seed, int64_t index);

}  // namespace chanas
