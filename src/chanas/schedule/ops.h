#pragma once
// The schedule of each op kind: its fields, its legality rules and its default values stand
// together in one file per kind. A new kind is one file and one line in rules_of().

#include <string>
#include <string_view>
#include <vector>

#include "chanas/schedule/tiling.h"

namespace chanas {

// One op while its fields are made, checked or chosen.
struct OpContext {
  const Workload& workload;
  const Target& target;
  int threads;
  const std::vector<OpRole>& roles;
  int index;

  const Op& op() const { return workload.graph.ops[index]; }
  const Op& input() const { return workload.graph.ops[op().inputs[0]]; }
  const OpRole& role() const { return roles[index]; }
  bool has_producer() const { return role().producer >= 0; }
};

struct OpRules {
  void (*fields)(const OpContext& context, std::vector<Field>& fields);
  Status (*check)(const OpContext& context, const OpTile& tile);
  // Values of the fields that the op has; `vector` is chosen already.
  OpChoices (*defaults)(const OpContext& context, int vector);
};
const OpRules& rules_of(OpKind kind);
extern const OpRules kConvRules, kDepthwiseRules, kPoolRules, kPointwiseRules;

// --- Parts that several kinds share -----------------------------------------------------------

// Appends "op<index>.<what>" unless there is no choice at all.
void add_field(const OpContext& context, std::string_view what, Primitive primitive,
               std::vector<int> choices, int extent, std::vector<Field>& fields);
void add_vector_field(const OpContext& context, std::vector<Field>& fields);
// On a GPU, for the op that makes the output.
void add_bind_field(const OpContext& context, std::vector<Field>& fields);
void add_parallel_field(const OpContext& context, std::vector<int> choices,
                        std::vector<Field>& fields);

// Vector widths for `channels`: natural and half of it, at most `channels`.
std::vector<int> vector_choices(const Target& target, int channels);
// Factors out of `candidates` that cut `extent` with little waste; `extent` itself when small.
std::vector<int> split_choices(std::vector<int> candidates, int extent, int largest);
// Vectors per tile that suit one of the vector widths.
std::vector<int> channel_vector_choices(const Target& target, int channels,
                                        std::vector<int> candidates, int largest);
// Rows per strip; 0: no strips.
std::vector<int> strip_choices(int rows);
// Vectors per slice in units of the common tile; 0: no slices.
std::vector<int> slice_choices(const Target& target, int channels);

// The vectors that a tile holds must fit into the registers, two being left for operands.
Status check_registers(const OpContext& context, const OpTile& tile);
// A tile or slice must not be larger than the op, nor round its channels up by much.
Status check_channels(const OpContext& context, const OpTile& tile);
// A copied input is placed in slices and strips; where there is no copy there is nothing to place.
Status check_copy(const OpContext& context, const OpTile& tile);
Status check_body(const OpContext& context, int64_t steps, int64_t limit);
Status broken(const OpContext& context, std::string_view rule, const std::string& found);

// 1 where the workload is large enough for several threads, else 0: starting a loop costs about a
// microsecond.
int default_parallel(const OpContext& context);
// Whether half vectors are as fast as full ones: they hold two steps of the op's reduction, and no
// other op shares its lanes.
bool either_width(const OpContext& context);
// The width of the untuned schedule: the full one unless half of it computes a third less, or a
// tenth where it is as fast.
int choose_vector(const OpContext& context);
// The tile with the least estimated time of one reduction step: multiply-adds and loads at two a
// cycle, a little more for the loads, as they do not always hide, the latency of the accumulators,
// and what the tile computes twice.
struct TileChoice {
  int channel_vectors = 1, pixels = 1;
};
TileChoice choose_tile(const OpContext& context, int vector,
                       const std::vector<int>& channel_vectors, const std::vector<int>& pixels,
                       double loads_per_pixel);

}  // namespace chanas
