#pragma once
// Objectives with tables instead of devices and supernets, whose answers a test can work out.

#include <algorithm>
#include <limits>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/base/rng.h"
#include "chanas/search/search.h"

namespace chanas {

inline ArchSpace space_named(const std::string& name) {
  auto space = load_space(name);
  CHANAS_CHECK(space.ok()) << space.status();
  return *space;
}

// Latency: a random table entry per (slot, kernel, expand) of active units, times the cell's area.
// Accuracy: saturating in a second random table with interactions between neighbours, so that
// neither is a function of the other.
class Toy {
 public:
  Toy(ArchSpace space, uint64_t seed) : space_(std::move(space)) {
    Rng rng(seed, "toy");
    const size_t slots = space_.blocks.size() * space_.max_depth();
    for (size_t i = 0; i < slots * space_.kernels.size() * space_.expands.size(); ++i) {
      cost_.push_back(rng.uniform_real(5, 30));
      value_.push_back(rng.uniform_real(0, 1));
    }
  }

  double latency_us(const Arch& arch) const {
    double sum = 20;
    each_unit(arch, [&](size_t entry, size_t) { sum += cost_[entry]; });
    return sum * scale(arch.cell);
  }

  double accuracy(const Arch& arch) const {
    double sum = 0;
    size_t before = 0;
    each_unit(arch, [&](size_t entry, size_t slot) {
      sum += value_[entry] + 0.5 * value_[(entry * 7 + before * 13 + slot) % value_.size()];
      before = entry;
    });
    return sum / (sum + 5) + 0.0005 * arch.cell.resolution;
  }

  // Depths and units are independent in latency_us, so each block has a minimum of its own.
  Arch minimum_arch(const SubSpace& cell) const {
    Arch best = smallest(space_, cell);
    for (size_t slot = 0; slot < best.units.size(); ++slot) {
      double lowest = std::numeric_limits<double>::infinity();
      for (int kernel : space_.kernels) {
        for (int expand : space_.expands) {
          const double cost = cost_[entry(slot, {kernel, expand})];
          if (cost < lowest) {
            lowest = cost;
            best.units[slot] = {kernel, expand};
          }
        }
      }
    }
    return best;  // every unit costs something, so the smallest depth is the fastest
  }

  Evaluators evaluators() const {
    return {[this](std::span<const Arch> archs) {
              std::vector<double> accuracies;
              for (const Arch& arch : archs) accuracies.push_back(accuracy(arch));
              return accuracies;
            },
            [this](const Arch& arch) { return latency_us(arch); },
            [this](const SubSpace& cell) { return latency_us(minimum_arch(cell)); },
            [this](const SubSpace& cell) { return minimum_arch(cell); }};
  }

  const ArchSpace& space() const { return space_; }
  SubSpace cell(size_t index = 0) const { return space_.cells()[index]; }

 private:
  double scale(const SubSpace& cell) const {
    const double side = cell.resolution / static_cast<double>(space_.resolutions.front());
    return side * side * cell.width;
  }
  size_t entry(size_t slot, const UnitGene& gene) const {
    auto index = [](const std::vector<int>& values, int value) {
      return static_cast<size_t>(std::find(values.begin(), values.end(), value) - values.begin());
    };
    return (slot * space_.kernels.size() + index(space_.kernels, gene.kernel)) *
               space_.expands.size() +
           index(space_.expands, gene.expand);
  }
  template <typename Visit>
  void each_unit(const Arch& arch, Visit visit) const {
    for (size_t b = 0; b < arch.depth.size(); ++b) {
      for (int u = 0; u < arch.depth[b]; ++u) {
        const size_t slot = b * space_.max_depth() + u;
        visit(entry(slot, arch.units[slot]), slot);
      }
    }
  }

  ArchSpace space_;
  std::vector<double> cost_, value_;
};

}  // namespace chanas
