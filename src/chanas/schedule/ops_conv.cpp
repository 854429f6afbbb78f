// Dense convolution: a register-tiled matrix product per row of pixels, weights packed in panels.

#include <fmt/core.h>

#include <algorithm>

#include "chanas/schedule/ops.h"

namespace chanas {
namespace {

// The innermost loop of the reduction: input channels, or a whole window row of a copied input.
int reduction_row(const OpContext& context) {
  const bool row = context.role().window_on_input;
  return context.input().shape.c * (row ? context.op().kernel : 1);
}

// Rows can be made strip by strip where something is computed for them.
bool may_strip(const OpContext& context) {
  return context.role().final && !context.target.gpu() &&
         (context.has_producer() || context.role().window_on_input);
}

std::vector<int> vectors_choices(const OpContext& context) {
  const Shape& view = context.role().view;
  const bool one_pixel = view.w * view.h == 1;
  return channel_vector_choices(
      context.target, view.c,
      one_pixel ? std::vector{1, 2, 3, 4, 5, 6, 8, 10} : std::vector{1, 2, 3, 4, 5, 6, 7},
      one_pixel ? 10 : 7);
}

std::vector<int> pixels_choices(const OpContext& context) {
  return split_choices({1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28}, context.role().view.w,
                       28);
}

// Every thread can make a part of the input channels and sum it up. Where the stage before has made
// them it gains nothing.
bool may_share_reduction(const OpContext& context) {
  return context.role().final && context.has_producer() && !context.target.gpu() &&
         context.op().kernel == 1 && context.op().stride == 1 &&
         context.input().shape.c >= context.threads * context.target.vector_floats;
}

void fields(const OpContext& context, std::vector<Field>& out) {
  const Shape& view = context.role().view;
  add_vector_field(context, out);
  add_field(context, "channel_vectors", Primitive::kSplit, vectors_choices(context),
            needed_vectors(view.c, vector_choices(context.target, view.c).back()), out);
  add_field(context, "pixels", Primitive::kSplit, pixels_choices(context), view.w, out);
  std::vector<int> unroll = {1};
  for (int steps : {2, 4, 8})
    if (reduction_row(context) % steps == 0) unroll.push_back(steps);
  add_field(context, "unroll", Primitive::kUnroll, unroll, reduction_row(context), out);
  if (view.w * view.h > 1) add_field(context, "order", Primitive::kReorder, {0, 1}, 0, out);
  if (context.role().window_on_input && !context.target.gpu())
    add_field(context, "border", Primitive::kCache, {0, 1}, 0, out);
  if (may_strip(context))
    add_field(context, "strip", Primitive::kComputeAt, strip_choices(view.h), view.h, out);
  add_bind_field(context, out);
  add_parallel_field(
      context, may_share_reduction(context) ? std::vector{0, 1, 2, 3} : std::vector{0, 1, 2}, out);
}

Status check(const OpContext& context, const OpTile& tile) {
  if (tile.steps > 1 && reduction_row(context) % (tile.steps * tile.unroll) != 0)
    return broken(context, "unroll",
                  fmt::format("{} x {} steps do not divide {}", tile.unroll, tile.steps,
                              reduction_row(context)));
  CHANAS_RETURN_IF_ERROR(check_channels(context, tile));
  CHANAS_RETURN_IF_ERROR(check_registers(context, tile));
  CHANAS_RETURN_IF_ERROR(
      check_body(context, int64_t{tile.channel_vectors} * tile.pixels * tile.unroll, 128));
  CHANAS_RETURN_IF_ERROR(check_copy(context, tile));
  if (tile.parts > 1 && tile.strip_rows < tile.view.h)
    return broken(context, "forbidden combination", "parallel=3 with strips");
  if (tile.parallel == 2 && tile.inside)
    return broken(
        context, "forbidden combination",
        "parallel=2 fuses channel blocks into the strips, which would repeat the producer");
  if (tile.parallel == 2 && tile.order == 1 && !context.role().final)
    return broken(context, "forbidden combination",
                  "parallel=2 needs order=0 where the value is not the output");
  return absl::OkStatus();
}

// Whether so few tiles of a row read beside the image, with code that is slower, that a copy takes
// longer.
bool worth_no_copy(const OpContext& context, int pixels) {
  const Op& op = context.op();
  const bool right = window_extent(op.shape.w, op) - op.kernel / 2 > context.input().shape.w;
  return 10 * (1 + right) <= ceil_div(op.shape.w, pixels);
}

OpChoices defaults(const OpContext& context, int vector) {
  OpChoices values;
  const TileChoice tile =
      choose_tile(context, vector, vectors_choices(context), pixels_choices(context), 1);
  values.vector = vector;
  values.channel_vectors = tile.channel_vectors;
  values.pixels = tile.pixels;
  values.border = !worth_no_copy(context, tile.pixels);
  values.parallel = default_parallel(context);
  return values;
}

}  // namespace

const OpRules kConvRules = {fields, check, defaults};

}  // namespace chanas
