#pragma once
// The elastic space (paper section 3.3): blocks of MBConv units with elastic kernel, expansion and
// depth, times a grid of resolutions x widths. A space is data: a TOML file under spaces/.

#include <string>
#include <string_view>
#include <vector>

#include "chanas/arch/network.h"
#include "chanas/base/rng.h"

namespace chanas {

// One cell of the resolution x width grid.
struct SubSpace {
  int resolution = 0;
  double width = 1.0;
  friend bool operator==(const SubSpace&, const SubSpace&) = default;
};
// "r192 w1.2".
std::string describe(const SubSpace& cell);

struct BlockSpec {
  int channels = 0;  // output channels at width 1.0
  int stride = 1;    // of the first unit
  bool se = false;
  Activation act = Activation::kRelu;
};

struct ArchSpace {
  std::string name;
  int channels = 3;
  int classes = 1000;
  std::vector<int> resolutions;  // ascending
  std::vector<double> widths;    // ascending
  std::vector<int> kernels;      // ascending, shared by all blocks
  std::vector<int> expands;
  std::vector<int> depths;
  // Channels at width 1.0; a width multiplies and rounds with make_divisible(., 8).
  int stem_channels = 16;
  int stem_stride = 2;
  Activation stem_act = Activation::kHSwish;
  int first_channels = 16;  // the fixed E = 1 unit; 0: none
  int first_stride = 1;
  Activation first_act = Activation::kRelu;
  std::vector<BlockSpec> blocks;
  int head_channels = 960;
  int mix_channels = 1280;  // 0: none
  Activation head_act = Activation::kHSwish;
  double dropout = 0.1;

  int max_depth() const { return depths.back(); }
  std::vector<SubSpace> cells() const;  // resolution-major order
  // c * width rounded; the channel count of a slice.
  int scaled(int channels, double width) const { return make_divisible(channels * width, 8); }
};

// One elastic unit's choice; kept also beyond the active depth so that genomes align.
struct UnitGene {
  int kernel = 3;
  int expand = 3;
  friend auto operator<=>(const UnitGene&, const UnitGene&) = default;
};

// The genome. units.size() == blocks * max_depth; unit u of block b is units[b * max_depth + u],
// and only the first depth[b] of a block exist in the network.
struct Arch {
  SubSpace cell;
  std::vector<int> depth;
  std::vector<UnitGene> units;
  friend bool operator==(const Arch&, const Arch&) = default;
};

// Built-in spaces ("cifar", "cifar-medium", "cifar-small", "demo", "paper"), in alphabetical order.
std::vector<std::string> space_names();
// A built-in name or the path of a space file. kNotFound names the nearest built-in space.
StatusOr<ArchSpace> load_space(const std::string& name_or_path);
// A space file; its format is described in spaces/README.md. Returns validated spaces;
// kInvalidArgument names file, line and field, and for an unknown key the nearest one. A file
// without `name` is called after the file.
StatusOr<ArchSpace> parse_space(std::string_view toml, std::string_view file_name);
StatusOr<ArchSpace> space_from_json(const Json& json);
Json to_json(const ArchSpace& space);
// Lists ascending and in range, and every network of the space valid. kInvalidArgument names the
// field. All functions below need a valid space.
Status validate(const ArchSpace& space);
// 16 hex characters of everything but the name: what a checkpoint's weights belong to.
std::string space_fingerprint(const ArchSpace& space);

// kInvalidArgument names the gene that is outside the space (inactive genes count too).
Status validate(const ArchSpace& space, const Arch& arch);
// The concrete network of an arch that is in the space; its name is arch_id(),
// of which a long one keeps its beginning and a fingerprint.
Network to_network(const ArchSpace& space, const Arch& arch);
// Clears inactive genes to the smallest choice: archs that give the same network compare equal.
Arch canonical(const ArchSpace& space, Arch arch);
// Stable text for logs, file names and maps, one character per active gene (a = 10, b = 11, ...):
// "r192-w1.2-d2.3.4.2.2-k35.357.3357.33.35-e34.346.3346.33.36". Equal exactly for archs that give
// the same network.
std::string arch_id(const ArchSpace& space, const Arch& arch);
// All genes, inactive ones too. arch_from_json refuses an arch outside the space.
Json to_json(const Arch& arch);
StatusOr<Arch> arch_from_json(const ArchSpace& space, const Json& json);

Arch smallest(const ArchSpace& space, const SubSpace& cell);
Arch largest(const ArchSpace& space, const SubSpace& cell);
inline Arch smallest(const ArchSpace& s) {
  return smallest(s, {s.resolutions.front(), s.widths.front()});
}
inline Arch largest(const ArchSpace& s) {
  return largest(s, {s.resolutions.back(), s.widths.back()});
}

// Uniform over genes inside one cell.
Arch sample(const ArchSpace& space, const SubSpace& cell, Rng& rng);
// Each unit gene (kernel and expand together) and each depth redrawn with `probability`; the cell
// stays (evolution runs inside one sub-space).
Arch mutate(const ArchSpace& space, const Arch& arch, double probability, Rng& rng);
// Unit and depth genes from either parent with equal chance; the cell is that of `a`.
Arch crossover(const ArchSpace& space, const Arch& a, const Arch& b, Rng& rng);

// The accuracy predictor's input: one-hot kernels of all unit slots, then one-hot expands of all
// slots (both zero beyond the depth), one-hot resolution, one-hot width. blocks * max_depth *
// (kernels + expands) + resolutions + widths values: for the paper's space 120 + 5 + 4 = 129.
int encoding_size(const ArchSpace& space);
// Writes encoding_size() floats of an arch that is in the space. No allocation, thread safe.
void encode(const ArchSpace& space, const Arch& arch, float* out);

// The unit that a gene gives: `later` false for a block's first unit (stride, channel change), true
// for all that follow it.
Unit elastic_unit(const ArchSpace& space, const SubSpace& cell, int block, bool later,
                  const UnitGene& gene);
// Every distinct unit that a cell's (or the whole space's) networks may contain, the fixed first
// unit included, in a stable order.
std::vector<Unit> distinct_units(const ArchSpace& space, const SubSpace& cell);
std::vector<Unit> distinct_units(const ArchSpace& space);
// Distinct elastic units only: 90 per sub-space and 1,503 over all 20 of the paper's space.
std::vector<Unit> elastic_units(const ArchSpace& space, const SubSpace& cell);
// log10 of the number of architectures of one cell: (sum over depths of (K*E)^d)^blocks.
double log10_size(const ArchSpace& space);

}  // namespace chanas
