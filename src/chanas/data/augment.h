#pragma once
// From stored bytes to the network's input.

#include "chanas/base/rng.h"
#include "chanas/data/augmentation.h"
#include "chanas/data/dataset.h"

namespace chanas {

// Writes one image as [resolution, resolution, 3] floats, normalised (config.h). With one Rng per
// sample, made of (seed, sample number), a training sees the same inputs whatever the threads.
// Thread safe.
void write_input(const Dataset& dataset, int image, int resolution, float* out);
void write_augmented_input(const Dataset& dataset, int image, const Augment& augment, Rng& rng,
                           int resolution, float* out);

}  // namespace chanas
