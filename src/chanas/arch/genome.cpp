// The genome: checks, names, random variation and the predictor's encoding of an Arch.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chanas/arch/document.h"
#include "chanas/arch/space.h"

namespace chanas {
namespace {

template <typename T>
int index_of(const std::vector<T>& values, T value) {
  return static_cast<int>(std::find(values.begin(), values.end(), value) - values.begin());
}

template <typename T>
bool contains(const std::vector<T>& values, T value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

template <typename T>
Status not_in(const std::string& gene, T value, const std::vector<T>& values) {
  return absl::InvalidArgumentError(
      fmt::format("{}: found {}, expected one of {}", gene, value, fmt::join(values, ", ")));
}

// Kernels and ratios are at most 16.
char digit(int value) { return static_cast<char>(value < 10 ? '0' + value : 'a' + (value - 10)); }

template <typename Field>
void append_genes(const ArchSpace& space, const Arch& arch, Field field, std::string& id) {
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    if (b > 0) id += '.';
    for (int u = 0; u < arch.depth[b]; ++u) {
      id += digit(arch.units[b * space.max_depth() + u].*field);
    }
  }
}

UnitGene draw_gene(const ArchSpace& space, Rng& rng) {
  // Two statements: the order of draws must not depend on the compiler.
  int kernel = rng.choose(space.kernels);
  int expand = rng.choose(space.expands);
  return {kernel, expand};
}

Arch uniform_arch(const ArchSpace& space, const SubSpace& cell, int depth, const UnitGene& gene) {
  size_t slots = space.blocks.size() * space.max_depth();
  return {cell, std::vector<int>(space.blocks.size(), depth), std::vector<UnitGene>(slots, gene)};
}

}  // namespace

Status validate(const ArchSpace& space, const Arch& arch) {
  if (!contains(space.resolutions, arch.cell.resolution)) {
    return not_in("resolution", arch.cell.resolution, space.resolutions);
  }
  if (!contains(space.widths, arch.cell.width)) {
    return not_in("width", arch.cell.width, space.widths);
  }
  size_t slots = space.blocks.size() * space.max_depth();
  if (arch.depth.size() != space.blocks.size() || arch.units.size() != slots) {
    return absl::InvalidArgumentError(
        fmt::format("found {} depths and {} unit genes, expected {} and {}", arch.depth.size(),
                    arch.units.size(), space.blocks.size(), slots));
  }
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    if (!contains(space.depths, arch.depth[b])) {
      return not_in(fmt::format("depth[{}]", b), arch.depth[b], space.depths);
    }
  }
  for (size_t i = 0; i < slots; ++i) {
    if (!contains(space.kernels, arch.units[i].kernel)) {
      return not_in(fmt::format("kernel[{}]", i), arch.units[i].kernel, space.kernels);
    }
    if (!contains(space.expands, arch.units[i].expand)) {
      return not_in(fmt::format("expand[{}]", i), arch.units[i].expand, space.expands);
    }
  }
  return absl::OkStatus();
}

Arch canonical(const ArchSpace& space, Arch arch) {
  const UnitGene smallest_gene = {space.kernels.front(), space.expands.front()};
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    auto block = arch.units.begin() + static_cast<ptrdiff_t>(b) * space.max_depth();
    std::fill(block + arch.depth[b], block + space.max_depth(), smallest_gene);
  }
  return arch;
}

std::string arch_id(const ArchSpace& space, const Arch& arch) {
  std::string id = describe(arch.cell);
  id.reserve(id.size() + 2 * arch.units.size() + 4 * arch.depth.size() + 8);
  std::replace(id.begin(), id.end(), ' ', '-');
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    id += b == 0 ? "-d" : ".";
    fmt::format_to(std::back_inserter(id), "{}", arch.depth[b]);
  }
  id += "-k";
  append_genes(space, arch, &UnitGene::kernel, id);
  id += "-e";
  append_genes(space, arch, &UnitGene::expand, id);
  return id;
}

Json to_json(const Arch& arch) {
  Json kernels = Json::array(), expands = Json::array();
  for (const UnitGene& gene : arch.units) {
    kernels.push_back(gene.kernel);
    expands.push_back(gene.expand);
  }
  return {{"resolution", arch.cell.resolution},
          {"width", arch.cell.width},
          {"depth", arch.depth},
          {"kernel", std::move(kernels)},
          {"expand", std::move(expands)}};
}

StatusOr<Arch> arch_from_json(const ArchSpace& space, const Json& json) {
  Arch arch;
  std::vector<int> kernels, expands;
  Document document = Document::from_json(json);
  Fields fields(document);
  fields.require("resolution", &arch.cell.resolution, 1, kMaxResolution);
  fields.require("width", &arch.cell.width, 0.0, 100.0);
  fields.require("depth", &arch.depth, 1, 100);
  fields.require("kernel", &kernels, 1, 100);
  fields.require("expand", &expands, 1, 100);
  if (kernels.size() != expands.size() && !fields.failed()) {
    fields.fail("expand", fmt::format("found {} values beside {} kernels, expected as many",
                                      expands.size(), kernels.size()));
  }
  CHANAS_RETURN_IF_ERROR(annotate(fields.finish(), "arch"));
  for (size_t i = 0; i < kernels.size(); ++i) arch.units.push_back({kernels[i], expands[i]});
  CHANAS_RETURN_IF_ERROR(annotate(validate(space, arch), "arch"));
  return arch;
}

Arch smallest(const ArchSpace& space, const SubSpace& cell) {
  return uniform_arch(space, cell, space.depths.front(),
                      {space.kernels.front(), space.expands.front()});
}

Arch largest(const ArchSpace& space, const SubSpace& cell) {
  return uniform_arch(space, cell, space.depths.back(),
                      {space.kernels.back(), space.expands.back()});
}

Arch sample(const ArchSpace& space, const SubSpace& cell, Rng& rng) {
  Arch arch = smallest(space, cell);
  for (int& depth : arch.depth) depth = rng.choose(space.depths);
  for (UnitGene& gene : arch.units) gene = draw_gene(space, rng);
  return arch;
}

Arch mutate(const ArchSpace& space, const Arch& arch, double probability, Rng& rng) {
  Arch child = arch;
  for (int& depth : child.depth) {
    if (rng.bernoulli(probability)) depth = rng.choose(space.depths);
  }
  for (UnitGene& gene : child.units) {
    if (rng.bernoulli(probability)) gene = draw_gene(space, rng);
  }
  return child;
}

Arch crossover(const ArchSpace& space, const Arch& a, const Arch& b, Rng& rng) {
  CHANAS_CHECK(a.depth.size() == space.blocks.size() && a.depth.size() == b.depth.size() &&
               a.units.size() == b.units.size())
      << "parents of different spaces";
  Arch child = a;
  for (size_t i = 0; i < child.depth.size(); ++i) {
    if (rng.bernoulli(0.5)) child.depth[i] = b.depth[i];
  }
  for (size_t i = 0; i < child.units.size(); ++i) {
    if (rng.bernoulli(0.5)) child.units[i] = b.units[i];
  }
  return child;
}

int encoding_size(const ArchSpace& space) {
  size_t slots = space.blocks.size() * space.max_depth();
  return static_cast<int>(slots * (space.kernels.size() + space.expands.size()) +
                          space.resolutions.size() + space.widths.size());
}

void encode(const ArchSpace& space, const Arch& arch, float* out) {
  const size_t kernels = space.kernels.size(), expands = space.expands.size();
  const size_t max_depth = space.max_depth();
  const size_t slots = space.blocks.size() * max_depth;
  std::fill(out, out + encoding_size(space), 0.0f);
  float* expand_part = out + slots * kernels;
  for (size_t b = 0; b < space.blocks.size(); ++b) {
    for (size_t slot = b * max_depth; slot < b * max_depth + arch.depth[b]; ++slot) {
      out[slot * kernels + index_of(space.kernels, arch.units[slot].kernel)] = 1;
      expand_part[slot * expands + index_of(space.expands, arch.units[slot].expand)] = 1;
    }
  }
  float* cell_part = expand_part + slots * expands;
  cell_part[index_of(space.resolutions, arch.cell.resolution)] = 1;
  cell_part[space.resolutions.size() + index_of(space.widths, arch.cell.width)] = 1;
}

}  // namespace chanas
