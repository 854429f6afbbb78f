#pragma once
// The operations of functions.h in LibTorch's own ones: for devices that our kernels do not run on,
// and for what these are tested against. Same arguments, layouts and results (to rounding), any
// floating type; activations are seen by LibTorch as channels-last.

#include "chanas/supernet/functions.h"

namespace chanas::generic {

decltype(chanas::depthwise) depthwise;
decltype(chanas::batch_norm) batch_norm;
decltype(chanas::fixed_norm) fixed_norm;
decltype(chanas::squeeze_excite) squeeze_excite;
decltype(chanas::image_patches) image_patches;

}  // namespace chanas::generic
