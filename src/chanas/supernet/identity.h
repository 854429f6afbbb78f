#pragma once
// What a training's checkpoints belong to.

#include "chanas/base/json.h"
#include "chanas/data/dataset.h"
#include "chanas/supernet/client.h"

namespace chanas {

// Space, images, and which network is trained `alone` (null: the supernet).
Json space_identity(const ArchSpace& space, const Dataset& dataset, const Arch* alone);
// These and all settings that decide the result.
Json full_identity(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
                   const Arch* alone);

// kInvalidArgument: channels or classes of the space are not those of the images.
Status check_fits(const ArchSpace& space, const Dataset& dataset);

}  // namespace chanas
