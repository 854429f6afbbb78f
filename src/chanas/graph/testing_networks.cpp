#include "chanas/graph/testing_networks.h"

namespace chanas {
namespace {

// Those that validate() accepts outside gates.
Activation random_activation(Rng& rng) {
  constexpr Activation kChoices[] = {Activation::kNone, Activation::kRelu, Activation::kRelu6,
                                     Activation::kHSwish};
  return kChoices[rng.uniform(4)];
}

}  // namespace

Unit random_unit(Rng& rng, int h_in, int c_in) {
  Unit unit{.h_in = h_in, .c_in = c_in};
  unit.expand = rng.bernoulli(0.7);
  unit.c_mid = unit.expand ? static_cast<int>(rng.uniform_int(4, 24)) : c_in;
  unit.stride = rng.bernoulli(0.5) ? 1 : static_cast<int>(rng.uniform_int(2, 3));
  unit.kernel = 1 + 2 * static_cast<int>(rng.uniform(4));
  unit.residual = unit.stride == 1 && rng.bernoulli(0.6);
  unit.c_out = unit.residual ? c_in : static_cast<int>(rng.uniform_int(3, 16));
  unit.se_channels = rng.bernoulli(0.5) ? static_cast<int>(rng.uniform_int(2, 8)) : 0;
  unit.se_gate = rng.bernoulli(0.5) ? Activation::kSigmoid : Activation::kHSigmoid;
  unit.act = random_activation(rng);
  return unit;
}

Network random_network(Rng& rng) {
  Network network;
  network.name = "random";
  network.resolution = static_cast<int>(rng.uniform_int(9, 24));
  network.channels = static_cast<int>(rng.uniform_int(1, 4));
  network.bn_epsilon = rng.bernoulli(0.5) ? 1e-3 : 1e-5;
  network.stem = {.c_out = static_cast<int>(rng.uniform_int(4, 12)),
                  .kernel = rng.bernoulli(0.5) ? 3 : 5,
                  .stride = static_cast<int>(rng.uniform_int(1, 2)),
                  .act = random_activation(rng)};
  int h = strided(network.resolution, network.stem.stride), c = network.stem.c_out;
  const int64_t units = rng.uniform_int(1, 4);
  for (int64_t i = 0; i < units; ++i) {
    network.units.push_back(random_unit(rng, h, c));
    h = network.units.back().h_out();
    c = network.units.back().c_out;
  }
  network.head = {.conv_channels = rng.bernoulli(0.7) ? 24 : 0,
                  .conv_act = random_activation(rng),
                  .mix_channels = rng.bernoulli(0.7) ? 32 : 0,
                  .mix_bias = rng.bernoulli(0.5),
                  .mix_act = random_activation(rng),
                  .classes = static_cast<int>(rng.uniform_int(2, 12))};
  if (network.head.mix_channels == 0) network.head.mix_bias = false;
  return network;
}

Network at_resolution(Network network, int resolution) {
  network.resolution = resolution;
  int h = strided(resolution, network.stem.stride);
  for (Unit& unit : network.units) {
    unit.h_in = h;
    h = unit.h_out();
  }
  return network;
}

std::vector<float> random_values(const Shape& shape, Rng& rng) {
  std::vector<float> values(shape.elements());
  for (float& value : values) value = static_cast<float>(rng.normal());
  return values;
}

}  // namespace chanas
