#include "chanas/arch/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace chanas {
namespace {

constexpr std::array<std::pair<Activation, std::string_view>, 6> kActivations = {{
    {Activation::kNone, "none"},
    {Activation::kRelu, "relu"},
    {Activation::kRelu6, "relu6"},
    {Activation::kHSwish, "hswish"},
    {Activation::kSigmoid, "sigmoid"},
    {Activation::kHSigmoid, "hsigmoid"},
}};

Status in_range(std::string_view field, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}, expected {} to {}", field, value, low, high));
}

Status odd_kernel(int kernel) {
  if (kernel >= 1 && kernel <= kMaxKernel && kernel % 2 == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("kernel is {}, expected an odd number from 1 to {}", kernel, kMaxKernel));
}

Status layer_activation(std::string_view field, Activation act) {
  if (act != Activation::kSigmoid && act != Activation::kHSigmoid) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}, expected none, relu, relu6 or hswish", field, activation_name(act)));
}

Status validate(const Stem& stem) {
  CHANAS_RETURN_IF_ERROR(in_range("out", stem.c_out, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(odd_kernel(stem.kernel));
  CHANAS_RETURN_IF_ERROR(in_range("stride", stem.stride, 1, kMaxStride));
  return layer_activation("act", stem.act);
}

Status validate(const Head& head) {
  CHANAS_RETURN_IF_ERROR(in_range("conv", head.conv_channels, 0, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(layer_activation("conv_act", head.conv_act));
  CHANAS_RETURN_IF_ERROR(in_range("mix", head.mix_channels, 0, kMaxChannels));
  return layer_activation("mix_act", head.mix_act);
}

int64_t square(int64_t value) { return value * value; }

Status activation_fits(std::string_view what, int side, int channels) {
  if (square(side) * channels <= kMaxElements) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: {} channels at {} x {} are {} elements, at "
                  "most {} are possible",
                  what, channels, side, side, square(side) * channels, kMaxElements));
}

}  // namespace

std::string_view activation_name(Activation activation) {
  for (const auto& [value, name] : kActivations) {
    if (value == activation) return name;
  }
  CHANAS_CHECK(false) << "activation " << static_cast<int>(activation);
  return "";
}

StatusOr<Activation> parse_activation(std::string_view name) {
  std::string known;
  for (const auto& [value, known_name] : kActivations) {
    if (name == known_name) return value;
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  return absl::InvalidArgumentError(
      fmt::format("activation \"{}\" is not known, expected one of {}", name, known));
}

int make_divisible(double value, int divisor) {
  int half = divisor / 2;
  int rounded = std::max(divisor, static_cast<int>(value + half) / divisor * divisor);
  return rounded < 0.9 * value ? rounded + divisor : rounded;
}

int se_width(int mid) { return make_divisible(mid / 4.0, 8); }

Status validate_name(std::string_view name) {
  if (name.size() > kMaxNameLength) {
    return absl::InvalidArgumentError(
        fmt::format("name is longer than {} characters", kMaxNameLength));
  }
  for (char c : name) {
    bool letter_or_digit =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!letter_or_digit && std::string_view("._-+").find(c) == std::string_view::npos) {
      return absl::InvalidArgumentError(
          "name may hold letters, digits and . _ - + only, because it becomes a file name");
    }
  }
  return absl::OkStatus();
}

Status validate(const Unit& unit) {
  CHANAS_RETURN_IF_ERROR(in_range("h", unit.h_in, 1, kMaxResolution));
  CHANAS_RETURN_IF_ERROR(in_range("in", unit.c_in, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("mid", unit.c_mid, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("out", unit.c_out, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(odd_kernel(unit.kernel));
  CHANAS_RETURN_IF_ERROR(in_range("stride", unit.stride, 1, kMaxStride));
  CHANAS_RETURN_IF_ERROR(in_range("se", unit.se_channels, 0, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(layer_activation("act", unit.act));
  if (unit.se_gate != Activation::kSigmoid && unit.se_gate != Activation::kHSigmoid) {
    return absl::InvalidArgumentError(
        fmt::format("se_gate is {}, expected sigmoid or hsigmoid", activation_name(unit.se_gate)));
  }
  if (!unit.expand && unit.c_mid != unit.c_in) {
    return absl::InvalidArgumentError(fmt::format(
        "mid is {} but without an expand convolution it must equal in, {}", unit.c_mid, unit.c_in));
  }
  if (unit.residual && (unit.stride != 1 || unit.c_in != unit.c_out)) {
    return absl::InvalidArgumentError(
        fmt::format("residual needs stride 1 and as many channels out as in, found stride {} and "
                    "{} -> {}",
                    unit.stride, unit.c_in, unit.c_out));
  }
  CHANAS_RETURN_IF_ERROR(activation_fits("in", unit.h_in, unit.c_in));
  CHANAS_RETURN_IF_ERROR(activation_fits("mid", unit.h_in, unit.c_mid));
  return activation_fits("out", unit.h_out(), unit.c_out);
}

Status validate(const Network& network) {
  CHANAS_RETURN_IF_ERROR(validate_name(network.name));
  CHANAS_RETURN_IF_ERROR(in_range("resolution", network.resolution, 1, kMaxResolution));
  CHANAS_RETURN_IF_ERROR(in_range("channels", network.channels, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("classes", network.head.classes, 1, kMaxClasses));
  if (!(network.dropout >= 0 && network.dropout < 1)) {
    return absl::InvalidArgumentError(
        fmt::format("dropout is {}, expected at least 0 and below 1", network.dropout));
  }
  if (!(network.bn_epsilon > 0 && network.bn_epsilon < 1)) {
    return absl::InvalidArgumentError(
        fmt::format("bn_epsilon is {}, expected above 0 and below 1", network.bn_epsilon));
  }
  CHANAS_RETURN_IF_ERROR(annotate(validate(network.stem), "stem"));
  if (network.units.empty() || network.units.size() > static_cast<size_t>(kMaxUnits)) {
    return absl::InvalidArgumentError(
        fmt::format("units: found {}, expected 1 to {}", network.units.size(), kMaxUnits));
  }
  int h = strided(network.resolution, network.stem.stride);
  int c = network.stem.c_out;
  CHANAS_RETURN_IF_ERROR(activation_fits("image", network.resolution, network.channels));
  CHANAS_RETURN_IF_ERROR(activation_fits("stem", h, c));
  for (size_t i = 0; i < network.units.size(); ++i) {
    const Unit& unit = network.units[i];
    if (Status status = validate(unit); !status.ok()) {
      return annotate(status, fmt::format("units[{}]", i));
    }
    if (unit.h_in != h || unit.c_in != c) {
      return absl::InvalidArgumentError(fmt::format(
          "units[{}]: takes {} channels at {} x {}, but {} gives {} channels at {} x {}", i,
          unit.c_in, unit.h_in, unit.h_in, i == 0 ? "the stem" : "the unit before", c, h, h));
    }
    h = unit.h_out();
    c = unit.c_out;
  }
  CHANAS_RETURN_IF_ERROR(annotate(validate(network.head), "head"));
  return activation_fits("head", h, network.head.conv_channels);
}

int64_t macs(const Unit& unit) {
  int64_t mid = unit.c_mid;
  int64_t expand = unit.expand ? square(unit.h_in) * unit.c_in * mid : 0;
  int64_t depthwise = square(unit.h_out()) * square(unit.kernel) * mid;
  int64_t se = 2 * mid * unit.se_channels;
  int64_t project = square(unit.h_out()) * mid * unit.c_out;
  return expand + depthwise + se + project;
}

int64_t params(const Unit& unit) {
  int64_t mid = unit.c_mid;
  int64_t expand = unit.expand ? unit.c_in * mid + 2 * mid : 0;
  int64_t depthwise = square(unit.kernel) * mid + 2 * mid;
  int64_t se = unit.se_channels > 0 ? 2 * mid * unit.se_channels + unit.se_channels + mid : 0;
  int64_t project = mid * unit.c_out + 2 * unit.c_out;
  return expand + depthwise + se + project;
}

int64_t macs(const Network& network) {
  int h = strided(network.resolution, network.stem.stride);
  int64_t c = network.stem.c_out;
  int64_t total = square(h) * square(network.stem.kernel) * network.channels * c;
  for (const Unit& unit : network.units) {
    total += macs(unit);
    h = unit.h_out();
    c = unit.c_out;
  }
  const Head& head = network.head;
  if (head.conv_channels > 0) {
    total += square(h) * c * head.conv_channels;
    c = head.conv_channels;
  }
  if (head.mix_channels > 0) {
    total += c * head.mix_channels;
    c = head.mix_channels;
  }
  return total + c * head.classes;
}

int64_t params(const Network& network) {
  int64_t c = network.stem.c_out;
  int64_t total = square(network.stem.kernel) * network.channels * c + 2 * c;
  for (const Unit& unit : network.units) {
    total += params(unit);
    c = unit.c_out;
  }
  const Head& head = network.head;
  if (head.conv_channels > 0) {
    total += (c + 2) * head.conv_channels;
    c = head.conv_channels;
  }
  if (head.mix_channels > 0) {
    total += (c + (head.mix_bias ? 1 : 0)) * head.mix_channels;
    c = head.mix_channels;
  }
  return total + (c + 1) * head.classes;
}

std::string unit_key(const Unit& unit) {
  std::string_view gate = unit.se_channels > 0 ? activation_name(unit.se_gate) : "";
  return fmt::format("mb h{} c{} m{} o{} k{} s{} e{} se{}{} {} r{}", unit.h_in, unit.c_in,
                     unit.c_mid, unit.c_out, unit.kernel, unit.stride, unit.expand ? 1 : 0,
                     unit.se_channels, gate, activation_name(unit.act), unit.residual ? 1 : 0);
}

std::string describe(const Unit& unit) {
  double ratio = std::round(100.0 * unit.c_mid / unit.c_in) / 100;
  return fmt::format("k{} e{:g} {}->{} s{}{} @{}", unit.kernel, ratio, unit.c_in, unit.c_out,
                     unit.stride, unit.se_channels > 0 ? " SE" : "", unit.h_in);
}

}  // namespace chanas
