#pragma once
// From stored bytes to the network's input.

#include <string_view>

#include "chanas/base/rng.h"
#include "chanas/data/dataset.h"

namespace chanas {

enum class Augment {
  kNone,
  kLight,  // shifted by up to an eighth (edges repeat) and mirrored
  kCrop,   // a random box of 35 to 100 % of the area, aspect 3:4 to 4:3, and mirrored
};
// "none", "light", "crop".
StatusOr<Augment> parse_augment(std::string_view name);

// Writes one image as [resolution, resolution, 3] floats, normalised (config.h). With one Rng per
// sample, made of (seed, sample number), a training sees the same inputs whatever the threads.
// Thread safe.
void write_input(const Dataset& dataset, int image, int resolution, float* out);
void write_augmented_input(const Dataset& dataset, int image, Augment augment, Rng& rng,
                           int resolution, float* out);

}  // namespace chanas
