#pragma once
// Shared by the tests of this module: a space and images that train within a second.

#include <string>
#include <vector>

#include "chanas/data/dataset.h"
#include "chanas/supernet/supernet.h"

namespace chanas::testing_supernet {

// Of a space file's text; CHECKs that it is one.
ArchSpace space_of(const std::string& name, const std::string& text);

// Two blocks, three classes, at most 16 pixels.
ArchSpace tiny_space();

// 16-pixel images of `classes` classes that differ by colour, with noise, divided as usual.
Dataset colour_images(int classes, int images, uint64_t seed = 1);

// The weights of a folder's checkpoints, newest first.
std::vector<std::string> weight_files(const std::string& folder);

// Random images and labels.
Batch random_batch(int n, int resolution, int classes, uint64_t seed);

}  // namespace chanas::testing_supernet
