#pragma once
// The elastic network in LibTorch's own operations and nothing else: convolutions, batch_norm and
// autograd, with weights cut from the description in the paper rather than by our code. What the
// trained network is tested against and what its speed is compared with; no part of the product.

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "chanas/supernet/supernet.h"

namespace chanas {

// Name and shape as Supernet::parameters(); leaves that want a gradient.
using PlainWeights = std::map<std::string, at::Tensor>;
PlainWeights plain_weights(const Supernet& supernet);

// The batch's images of a resolution, [n, 3, h, w]; channels_last: NHWC in memory, and then so are
// all activations.
at::Tensor plain_images(const Batch& batch, int resolution, bool channels_last);

// Logits [n, classes] in training mode, without dropout.
at::Tensor plain_logits(const ArchSpace& space, const PlainWeights& weights, const Arch& arch,
                        const at::Tensor& images);

}  // namespace chanas
