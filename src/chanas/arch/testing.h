#pragma once
// Shorthands of this module's tests.

#include <gtest/gtest.h>

#include <string>

#include "chanas/arch/space.h"

namespace chanas {

inline ArchSpace space_of(const std::string& name) {
  StatusOr<ArchSpace> space = load_space(name);
  if (!space.ok()) ADD_FAILURE() << space.status();
  return space.ok() ? *space : ArchSpace();
}

inline Network network_of(const std::string& name) {
  StatusOr<Network> network = load_network(name);
  if (!network.ok()) ADD_FAILURE() << network.status();
  return network.ok() ? *network : Network();
}

}  // namespace chanas
