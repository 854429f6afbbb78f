// Depthwise convolution: a tile of pixels and channel vectors in registers, the window unrolled.
// What lies outside the image is a choice ("border"): zeros in the buffer that is read (the
// producer writes them; an external input is copied), or taps that are left out: columns when the
// code is made, with own code for the first and the last tile of a row, rows by a test.

#include <fmt/core.h>

#include <vector>

#include "chanas/schedule/ops.h"

namespace chanas {
namespace {

std::vector<int> pixels_choices(const OpContext& context) {
  return split_choices({1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14}, context.role().view.w, 24);
}

void fields(const OpContext& context, std::vector<Field>& out) {
  const Shape& view = context.role().view;
  const bool window = context.role().window_on_input;
  add_vector_field(context, out);
  add_field(context, "channel_vectors", Primitive::kSplit,
            channel_vector_choices(context.target, view.c, {1, 2, 3, 4}, 4),
            needed_vectors(view.c, vector_choices(context.target, view.c).back()), out);
  add_field(context, "pixels", Primitive::kSplit, pixels_choices(context), view.w, out);
  add_field(context, "unroll", Primitive::kUnroll, {0, 1}, 0, out);
  add_field(context, "order", Primitive::kReorder, {0, 1}, 0, out);
  if (context.op().kernel > 1) add_field(context, "border", Primitive::kCache, {0, 1}, 0, out);
  if ((window || context.has_producer()) && !context.target.gpu()) {
    add_field(context, "slice", Primitive::kComputeAt, slice_choices(context.target, view.c), 0,
              out);
    if (context.role().final)
      add_field(context, "strip", Primitive::kComputeAt, strip_choices(view.h), view.h, out);
  }
  add_bind_field(context, out);
  add_parallel_field(context, {0, 1, 2}, out);
}

Status check(const OpContext& context, const OpTile& tile) {
  CHANAS_RETURN_IF_ERROR(check_channels(context, tile));
  CHANAS_RETURN_IF_ERROR(check_registers(context, tile));
  const int k = context.op().kernel;
  CHANAS_RETURN_IF_ERROR(check_body(
      context, int64_t{tile.channel_vectors} * tile.pixels * k * (tile.unroll ? k : 1), 400));
  const Shape& view = context.role().view;
  CHANAS_RETURN_IF_ERROR(check_copy(context, tile));
  const bool stripped = tile.strip_rows < view.h;
  if (tile.parallel == 2 && tile.inside && !(tile.sliced() && stripped))
    return broken(context, "forbidden combination",
                  "parallel=2 needs slices and strips, or neither");
  if (tile.parallel == 2 && tile.order == 1 && !context.role().final)
    return broken(context, "forbidden combination",
                  "parallel=2 needs order=0 where the value is not the output");
  return absl::OkStatus();
}

// Whether an input comes from beyond the second-level cache.
bool streams(const OpContext& context) {
  if (context.has_producer() || context.target.gpu()) return false;
  return 4.0 * static_cast<double>(context.input().shape.elements()) >
         2.0 / 3 * static_cast<double>(context.target.l2_bytes);
}

// An input that streams is read once, row by row, in runs of several vectors: channel blocks
// outermost fetch the whole of it for each of them, a line of every pixel at a time, and take two
// to three times as long. Otherwise tiles are two vectors wide where the window is small or the
// row short, else one and long; yet what over 14 pixels read, or 10 with a stride, does not fit
// into the registers, and the code for both ends of a long row in one tile is slow. Measured on 43
// shapes: 0.94 of the best tile and order, where the longest tiles, one vector wide, are 0.72.
OpChoices defaults(const OpContext& context, int vector) {
  OpChoices values;
  const int width = context.role().view.w;
  const int needed = needed_vectors(context.role().view.c, vector);
  const bool streamed = streams(context);
  int vectors = 1, longest = 14;
  if (context.target.gpu()) {
    longest = 24;
  } else if (streamed) {
    vectors = needed % 4 == 0 ? 4 : needed % 2 == 0 ? 2 : needed % 3 == 0 ? 3 : 1;
    longest = 12 / vectors;
  } else if (needed % 2 == 0 && (context.op().kernel <= 3 || width <= 7)) {
    vectors = 2;
    longest = 8;
  } else if (context.op().stride > 1 && width > longest) {
    longest = 10;
  }
  std::vector<int> pixels = pixels_choices(context);
  std::erase_if(pixels, [&](int p) { return p > longest; });
  const TileChoice tile = choose_tile(context, vector, {vectors}, pixels, context.op().stride);
  values.vector = vector;
  values.channel_vectors = tile.channel_vectors;
  values.pixels = tile.pixels;
  values.unroll = 0;
  values.order = streamed ? 1 : 0;
  values.border = 0;
  values.slice = context.has_producer() ? 1 : 0;
  values.parallel = default_parallel(context);
  return values;
}

}  // namespace

const OpRules kDepthwiseRules = {fields, check, defaults};

}  // namespace chanas
