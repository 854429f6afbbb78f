#pragma once
// A concrete network: stem, chain of MBConv units, head. Everything that has a latency is described
// here in plain numbers; the elastic description it was drawn from is ArchSpace (space.h).
//
// Conventions (once-for-all, arXiv 1908.09791): square images, activations [1, h, h, c], output
// size ceil(h / stride), padding kernel / 2. MACs count convolutions, linear layers and SE's two
// 1x1 layers. Parameters include two BN vectors per convolution and linear biases.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace chanas {

// Every network takes [h, w, 3] floats (pixel / 255 - kImageMean) / kImageStd, in every channel.
inline constexpr double kImageMean = 0.5;
inline constexpr double kImageStd = 0.25;

enum class Activation { kNone, kRelu, kRelu6, kHSwish, kSigmoid, kHSigmoid };

// "none", "relu", "relu6", "hswish", "sigmoid", "hsigmoid".
std::string_view activation_name(Activation activation);
StatusOr<Activation> parse_activation(std::string_view name);

// Rounds to a multiple of `divisor`, never below 90 % of the value (MobileNetV3).
int make_divisible(double value, int divisor = 8);

// Squeeze width of MobileNetV3 and OFA: make_divisible(mid / 4, 8).
int se_width(int mid);

// ceil(size / stride).
inline int strided(int size, int stride) { return (size + stride - 1) / stride; }

// One MBConv: [1x1 expand, BN, act], depthwise k x k, BN, act, [SE], 1x1 project, BN, [residual].
struct Unit {
  int h_in = 0;
  int c_in = 0;
  int c_mid = 0;  // == c_in when there is no expand convolution
  int c_out = 0;
  int kernel = 3;
  int stride = 1;
  bool expand = true;   // has the 1x1 expand convolution
  int se_channels = 0;  // squeeze width; 0: no SE
  Activation se_gate = Activation::kHSigmoid;
  Activation act = Activation::kRelu;
  bool residual = false;

  int h_out() const { return strided(h_in, stride); }
  friend bool operator==(const Unit&, const Unit&) = default;
};

// Dense convolution at the input image, [1, h, h, channels] -> [1, ceil(h/stride), ., c_out].
struct Stem {
  int c_out = 16;
  int kernel = 3;
  int stride = 2;
  Activation act = Activation::kHSwish;
  friend bool operator==(const Stem&, const Stem&) = default;
};

// 1x1 conv + BN, mean pool, [1x1 "mix" without BN], linear classifier.
struct Head {
  int conv_channels = 0;  // 0: no convolution before the pool
  Activation conv_act = Activation::kHSwish;
  int mix_channels = 0;  // 0: no mix layer
  bool mix_bias = false;
  Activation mix_act = Activation::kHSwish;
  int classes = 1000;
  friend bool operator==(const Head&, const Head&) = default;
};

struct Network {
  std::string name;
  int resolution = 224;
  int channels = 3;  // of the image
  Stem stem;
  std::vector<Unit> units;
  Head head;
  double dropout = 0.0;
  double bn_epsilon = 1e-5;
  friend bool operator==(const Network&, const Network&) = default;
};

// Ranges that every network and space keeps; readers and validate() refuse anything outside.
inline constexpr int kMaxChannels = 4096;
inline constexpr int kMaxResolution = 4096;
inline constexpr int kMaxClasses = 100000;
inline constexpr int kMaxKernel = 11;  // and odd
inline constexpr int kMaxStride = 4;
inline constexpr int kMaxUnits = 256;
// Of one activation: its indices and byte offsets stay inside 32 bits.
inline constexpr int64_t kMaxElements = int64_t{1} << 29;
inline constexpr size_t kMaxNameLength = 200;

// Checks that sizes chain, that ranges are sane (1..4096 channels, odd kernels up to 11, strides
// 1-4, activations of at most kMaxElements), and that residuals are legal. kInvalidArgument names
// the unit and the field: "units[3]: stride is 9, expected 1 to 4".
Status validate(const Network& network);
// The same for one unit on its own; the message has no "units[i]: " in front.
Status validate(const Unit& unit);
// Names of networks and spaces become file names: letters, digits and . _ - + only, at most 200.
Status validate_name(std::string_view name);

int64_t macs(const Unit& unit);
int64_t params(const Unit& unit);
int64_t macs(const Network& network);
int64_t params(const Network& network);

// Canonical text of a unit, the key of its row in the latency table:
// "mb h56 c24 m72 o40 k5 s2 e1 se24hsigmoid relu r0"; without SE "se0".
std::string unit_key(const Unit& unit);

// One line for people: "k5 e3 24->40 s2 SE @56".
std::string describe(const Unit& unit);

// A network file, TOML or JSON, has one format, described in zoo/README.md: short for people
// (ratios, repeats, defaults), fully spelled out when the program writes it. Readers return
// validated networks; kInvalidArgument names file, line and field, and for an unknown key the
// nearest one. A file without `name` is called after the file.
StatusOr<Network> parse_network(std::string_view toml, std::string_view file_name);
StatusOr<Network> network_from_json(const Json& json);
// Reading back what these write gives an equal network, if validate() accepts it.
std::string network_to_toml(const Network& network);
Json to_json(const Network& network);

// Published networks that the program carries ("mobilenet_v3_large", ...), in alphabetical order.
std::vector<std::string> zoo_names();
// A zoo name or the path of a network file, JSON if it ends in .json. kNotFound names the nearest
// zoo name.
StatusOr<Network> load_network(const std::string& name_or_path);

}  // namespace chanas
