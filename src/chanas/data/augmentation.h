#pragma once
// How training images are changed, in words; no library behind it.

#include <string_view>

#include "chanas/base/status.h"

namespace chanas {

enum class Geometry {
  kNone,
  kLight,  // shifted by up to an eighth (edges repeat) and mirrored
  kCrop,   // a random box of 35 to 100 % of the area, aspect 3:4 to 4:3, and mirrored
};

struct Augment {
  Geometry geometry = Geometry::kNone;
  // Brightness by up to 32/255 and saturation by up to 0.5 up or down, as once-for-all trains.
  bool colour = false;
  // One operation of augment_policy.h, of any strength (TrivialAugment, Mueller and Hutter 2021,
  // with the ranges of RandAugment, Cubuk et al. 2019).
  bool policy = false;
  // A square of half the image's side is blank, wherever its centre (DeVries and Taylor 2017).
  bool cutout = false;
  bool operator==(const Augment&) const = default;
};

// "none", "light" or "crop", then any of "+colour", "+policy", "+cutout", each once.
// kInvalidArgument names the word that does not fit.
StatusOr<Augment> parse_augment(std::string_view words);

}  // namespace chanas
