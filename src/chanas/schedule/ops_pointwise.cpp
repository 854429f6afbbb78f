// Ops without a reduction (activation, add, scale) that were not fused into a convolution. They
// stream memory, so that only the place of a scale before a projection is worth a choice.

#include "chanas/schedule/ops.h"

namespace chanas {
namespace {

void fields(const OpContext& context, std::vector<Field>& out) {
  add_vector_field(context, out);
  if (context.role().foldable) add_field(context, "scale", Primitive::kInline, {0, 1, 2}, 0, out);
  add_bind_field(context, out);
  add_parallel_field(context, {0, 1}, out);
}

Status check(const OpContext& context, const OpTile& tile) {
  if (context.op().kind == OpKind::kBatchNorm)
    return broken(context, "batch norm cannot be compiled", "fold it into its convolution first");
  return check_channels(context, tile);
}

OpChoices defaults(const OpContext& context, int vector) {
  OpChoices values;
  values.vector = vector;
  values.parallel = default_parallel(context);
  if (context.role().foldable) {
    // Whichever is smaller is multiplied once: the weights or the input.
    const Shape& in = context.op().shape;
    const Op& conv = context.workload.graph.ops[context.workload.graph.users(context.index)[0]];
    values.scale = in.h * in.w > conv.shape.c ? 2 : 1;
  }
  return values;
}

}  // namespace

const OpRules kPointwiseRules = {fields, check, defaults};

}  // namespace chanas
