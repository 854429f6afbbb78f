#include "chanas/arch/space.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "chanas/base/fingerprint.h"

namespace chanas {
namespace {

constexpr int kMaxListLength = 64;
constexpr int kMaxSlots = kMaxUnits - 1;  // blocks * max_depth, beside the fixed first unit

template <typename Number>
Status ascending(std::string_view field, const std::vector<Number>& values, Number low,
                 Number high) {
  if (values.empty() || values.size() > kMaxListLength) {
    return absl::InvalidArgumentError(
        fmt::format("{}: found {} values, expected 1 to {}", field, values.size(), kMaxListLength));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] >= low && values[i] <= high)) {
      return absl::InvalidArgumentError(
          fmt::format("{}[{}]: found {}, expected {} to {}", field, i, values[i], low, high));
    }
    if (i > 0 && !(values[i - 1] < values[i])) {
      return absl::InvalidArgumentError(
          fmt::format("{}[{}]: {} after {}, expected ascending values without repeats", field, i,
                      values[i], values[i - 1]));
    }
  }
  return absl::OkStatus();
}

Status in_range(std::string_view field, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: found {}, expected {} to {}", field, value, low, high));
}

std::string network_name(const std::string& id) {
  constexpr size_t kFingerprint = 16;
  if (id.size() <= kMaxNameLength) return id;
  return id.substr(0, kMaxNameLength - kFingerprint - 1) + "-" + fingerprint(id);
}

// Sizes before and after each block, which depend on the cell alone.
struct Place {
  int h = 0;
  int c = 0;
};

Unit fixed_unit(const ArchSpace& space, const SubSpace& cell, Place in) {
  Unit unit;
  unit.h_in = in.h;
  unit.c_in = unit.c_mid = in.c;
  unit.c_out = space.scaled(space.first_channels, cell.width);
  unit.stride = space.first_stride;
  unit.expand = false;
  unit.act = space.first_act;
  unit.residual = unit.stride == 1 && unit.c_in == unit.c_out;
  return unit;
}

Place after_stem(const ArchSpace& space, const SubSpace& cell) {
  return {strided(cell.resolution, space.stem_stride),
          space.scaled(space.stem_channels, cell.width)};
}

// What enters block 0.
Place before_blocks(const ArchSpace& space, const SubSpace& cell) {
  Place place = after_stem(space, cell);
  if (space.first_channels == 0) return place;
  return {strided(place.h, space.first_stride), space.scaled(space.first_channels, cell.width)};
}

Unit unit_at(const BlockSpec& block, Place in, int c_out, int stride, const UnitGene& gene) {
  Unit unit;
  unit.h_in = in.h;
  unit.c_in = in.c;
  unit.c_mid = gene.expand == 1 ? in.c : make_divisible(in.c * gene.expand, 8);
  unit.c_out = c_out;
  unit.kernel = gene.kernel;
  unit.stride = stride;
  unit.expand = gene.expand != 1;
  unit.se_channels = block.se ? se_width(unit.c_mid) : 0;
  unit.act = block.act;
  unit.residual = stride == 1 && in.c == c_out;
  return unit;
}

void append_elastic_units(const ArchSpace& space, const SubSpace& cell, std::vector<Unit>& units,
                          std::set<std::string>& seen) {
  for (int block = 0; block < static_cast<int>(space.blocks.size()); ++block) {
    for (bool later : {false, true}) {
      if (later && space.max_depth() == 1) continue;
      for (int kernel : space.kernels) {
        for (int expand : space.expands) {
          Unit unit = elastic_unit(space, cell, block, later, {kernel, expand});
          if (seen.insert(unit_key(unit)).second) units.push_back(unit);
        }
      }
    }
  }
}

void append_distinct_units(const ArchSpace& space, const SubSpace& cell, std::vector<Unit>& units,
                           std::set<std::string>& seen) {
  if (space.first_channels > 0) {
    Unit unit = fixed_unit(space, cell, after_stem(space, cell));
    if (seen.insert(unit_key(unit)).second) units.push_back(unit);
  }
  append_elastic_units(space, cell, units, seen);
}

}  // namespace

std::string describe(const SubSpace& cell) {
  std::string width = fmt::format("{}", cell.width);
  if (width.find('.') == std::string::npos) width += ".0";
  return fmt::format("r{} w{}", cell.resolution, width);
}

std::vector<SubSpace> ArchSpace::cells() const {
  std::vector<SubSpace> cells;
  for (int resolution : resolutions) {
    for (double width : widths) cells.push_back({resolution, width});
  }
  return cells;
}

Status validate(const ArchSpace& space) {
  CHANAS_RETURN_IF_ERROR(validate_name(space.name));
  CHANAS_RETURN_IF_ERROR(in_range("channels", space.channels, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("classes", space.classes, 2, kMaxClasses));
  CHANAS_RETURN_IF_ERROR(ascending("resolutions", space.resolutions, 1, kMaxResolution));
  CHANAS_RETURN_IF_ERROR(ascending("widths", space.widths, 0.125, 8.0));
  CHANAS_RETURN_IF_ERROR(ascending("kernels", space.kernels, 1, kMaxKernel));
  for (int kernel : space.kernels) {
    if (kernel % 2 == 0) {
      return absl::InvalidArgumentError(
          fmt::format("kernels: found {}, expected odd numbers", kernel));
    }
  }
  CHANAS_RETURN_IF_ERROR(ascending("expands", space.expands, 1, 16));
  CHANAS_RETURN_IF_ERROR(ascending("depths", space.depths, 1, 16));
  CHANAS_RETURN_IF_ERROR(in_range("stem.channels", space.stem_channels, 1, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("stem.stride", space.stem_stride, 1, kMaxStride));
  CHANAS_RETURN_IF_ERROR(in_range("first.channels", space.first_channels, 0, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("first.stride", space.first_stride, 1, kMaxStride));
  int blocks = static_cast<int>(space.blocks.size());
  CHANAS_RETURN_IF_ERROR(in_range("blocks", blocks, 1, kMaxSlots / space.max_depth()));
  for (int b = 0; b < blocks; ++b) {
    CHANAS_RETURN_IF_ERROR(
        in_range(fmt::format("blocks[{}].channels", b), space.blocks[b].channels, 1, kMaxChannels));
    CHANAS_RETURN_IF_ERROR(
        in_range(fmt::format("blocks[{}].stride", b), space.blocks[b].stride, 1, kMaxStride));
  }
  CHANAS_RETURN_IF_ERROR(in_range("head.channels", space.head_channels, 0, kMaxChannels));
  CHANAS_RETURN_IF_ERROR(in_range("head.mix", space.mix_channels, 0, kMaxChannels));
  // Sizes only grow with width, ratio and resolution, so the largest network speaks for the rest.
  return annotate(validate(to_network(space, largest(space))), "largest network");
}

Unit elastic_unit(const ArchSpace& space, const SubSpace& cell, int block, bool later,
                  const UnitGene& gene) {
  CHANAS_CHECK(block >= 0 && block < static_cast<int>(space.blocks.size())) << "block " << block;
  Place in = before_blocks(space, cell);
  for (int b = 0; b < block; ++b) {
    in = {strided(in.h, space.blocks[b].stride),
          space.scaled(space.blocks[b].channels, cell.width)};
  }
  const BlockSpec& spec = space.blocks[block];
  int c_out = space.scaled(spec.channels, cell.width);
  if (!later) return unit_at(spec, in, c_out, spec.stride, gene);
  return unit_at(spec, {strided(in.h, spec.stride), c_out}, c_out, 1, gene);
}

Network to_network(const ArchSpace& space, const Arch& arch) {
  Status inside = validate(space, arch);
  CHANAS_CHECK(inside.ok()) << inside.message();
  const double width = arch.cell.width;
  Network network;
  network.name = network_name(arch_id(space, arch));
  network.resolution = arch.cell.resolution;
  network.channels = space.channels;
  network.dropout = space.dropout;
  network.stem = {space.scaled(space.stem_channels, width), 3, space.stem_stride, space.stem_act};
  Place at = after_stem(space, arch.cell);
  network.units.reserve(1 + arch.units.size());
  if (space.first_channels > 0) {
    network.units.push_back(fixed_unit(space, arch.cell, at));
    at = {network.units.back().h_out(), network.units.back().c_out};
  }
  for (size_t b = 0; b < space.blocks.size(); ++b) {
    const BlockSpec& spec = space.blocks[b];
    int c_out = space.scaled(spec.channels, width);
    for (int u = 0; u < arch.depth[b]; ++u) {
      const UnitGene& gene = arch.units[b * space.max_depth() + u];
      network.units.push_back(unit_at(spec, at, c_out, u == 0 ? spec.stride : 1, gene));
      at = {network.units.back().h_out(), c_out};
    }
  }
  Head& head = network.head;
  head.conv_channels = space.head_channels > 0 ? space.scaled(space.head_channels, width) : 0;
  head.mix_channels = space.mix_channels > 0 ? space.scaled(space.mix_channels, width) : 0;
  head.conv_act = head.mix_act = space.head_act;
  head.classes = space.classes;
  return network;
}

std::vector<Unit> distinct_units(const ArchSpace& space, const SubSpace& cell) {
  std::vector<Unit> units;
  std::set<std::string> seen;
  append_distinct_units(space, cell, units, seen);
  return units;
}

std::vector<Unit> distinct_units(const ArchSpace& space) {
  std::vector<Unit> units;
  std::set<std::string> seen;
  for (const SubSpace& cell : space.cells()) append_distinct_units(space, cell, units, seen);
  return units;
}

std::vector<Unit> elastic_units(const ArchSpace& space, const SubSpace& cell) {
  std::vector<Unit> units;
  std::set<std::string> seen;
  append_elastic_units(space, cell, units, seen);
  return units;
}

double log10_size(const ArchSpace& space) {
  double per_unit = static_cast<double>(space.kernels.size() * space.expands.size());
  double per_block = 0;
  for (int depth : space.depths) per_block += std::pow(per_unit, depth);
  return static_cast<double>(space.blocks.size()) * std::log10(per_block);
}

}  // namespace chanas
