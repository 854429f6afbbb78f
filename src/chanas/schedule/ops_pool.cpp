// Global mean pool: a block of channel vectors summed over all pixels.

#include "chanas/schedule/ops.h"

namespace chanas {
namespace {

// Every thread can sum up a part of the rows where another stage has made them.
bool may_share_reduction(const OpContext& context) {
  return !context.has_producer() && !context.target.gpu() &&
         context.input().shape.h >= context.threads;
}

void fields(const OpContext& context, std::vector<Field>& out) {
  const Shape& view = context.role().view;
  add_vector_field(context, out);
  add_field(context, "channel_vectors", Primitive::kSplit,
            channel_vector_choices(context.target, view.c, {1, 2, 3, 4, 5, 6, 8}, 8),
            needed_vectors(view.c, vector_choices(context.target, view.c).back()), out);
  if (context.has_producer() && !context.target.gpu())
    add_field(context, "slice", Primitive::kComputeAt, slice_choices(context.target, view.c), 0,
              out);
  add_bind_field(context, out);
  add_parallel_field(context,
                     may_share_reduction(context) ? std::vector{0, 1, 3} : std::vector{0, 1}, out);
}

Status check(const OpContext& context, const OpTile& tile) {
  CHANAS_RETURN_IF_ERROR(check_channels(context, tile));
  return check_registers(context, tile);
}

OpChoices defaults(const OpContext& context, int vector) {
  OpChoices values;
  const int needed = needed_vectors(context.role().view.c, vector);
  values.vector = vector;
  for (int vectors : {1, 2, 3, 4, 5, 6, 8})
    if (needed % vectors == 0) values.channel_vectors = vectors;
  values.parallel = default_parallel(context);
  return values;
}

}  // namespace

const OpRules kPoolRules = {fields, check, defaults};

}  // namespace chanas
