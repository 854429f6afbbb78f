#pragma once
// The weights that all networks of a space share: which there are, how they start, and how a
// network's own are cut from them.

#include <span>
#include <string>
#include <vector>

#include "chanas/supernet/forward.h"

namespace chanas {

// Where the weights of a space keep a network's scales and shifts, "stem.bn.weight" and the like:
// with several resolutions each has its own, since things have another size at each (Resolution
// Switchable Networks, arXiv 2007.09558). Other names come back as they are.
std::string elastic_name(const ArchSpace& space, const std::string& name, int resolution);

// Those of the largest network, with the matrices of the kernel transformation where they are
// wanted, one after the other.
std::vector<Supernet::Parameter> elastic_parameters(const ArchSpace& space, const Network& largest,
                                                    bool kernel_transform);

// See Supernet::Supernet.
void initialise(const std::vector<Supernet::Parameter>& parameters, const Network& largest,
                uint64_t seed, std::span<float> values);

// The tensors of `network`, which is that of `arch`, from `weights`, named as elastic_parameters();
// differentiable where these are.
Tensors cut_weights(const ArchSpace& space, bool kernel_transform, const Tensors& weights,
                    const Arch& arch, const Network& network);

}  // namespace chanas
