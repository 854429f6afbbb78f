#pragma once
// From stored bytes to the network's input.

#include <span>

#include "chanas/base/rng.h"
#include "chanas/data/augmentation.h"
#include "chanas/data/dataset.h"

namespace chanas {

// Where to write an image: [resolution, resolution, 3] floats, normalised (config.h).
struct View {
  int resolution = 0;
  float* out = nullptr;
};

// Thread safe.
void write_input(const Dataset& dataset, int image, const View& view);
// All views show the same change. With one Rng per sample, made of (seed, sample number), a
// training sees the same inputs whatever the threads.
void write_augmented_input(const Dataset& dataset, int image, const Augment& augment, Rng& rng,
                           std::span<const View> views);

}  // namespace chanas
