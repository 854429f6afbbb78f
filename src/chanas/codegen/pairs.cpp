#include "chanas/codegen/pairs.h"

namespace chanas {

using namespace Halide::Internal;

namespace {

// First element of a dense vector that is loaded; undefined: something else.
Halide::Expr dense_base(const Load* load) {
  const Ramp* ramp = load != nullptr ? load->index.as<Ramp>() : nullptr;
  return ramp != nullptr && is_const_one(ramp->stride) ? ramp->base : Halide::Expr();
}

}  // namespace

Halide::Expr AddPairs::visit(const Shuffle* shuffle) {
  const bool evens = shuffle->is_slice() && shuffle->slice_begin() == 0 &&
                     shuffle->slice_stride() == 2 && shuffle->vectors.size() == 1;
  const Add* add = evens ? shuffle->vectors[0].as<Add>() : nullptr;
  const Load* first = add != nullptr ? add->a.as<Load>() : nullptr;
  const Load* second = add != nullptr ? add->b.as<Load>() : nullptr;
  const Halide::Expr base = dense_base(first), next = dense_base(second);
  const int lanes = shuffle->type.lanes();
  if (!base.defined() || !next.defined() || first->name != second->name ||
      first->type.lanes() != 2 * lanes || !is_const_one(simplify(next - base)))
    return IRMutator::visit(shuffle);
  // Times a one that the compiler does not know: the plain sum would become an instruction that
  // only reaches half of the registers (vhaddps), to which it would then confine all accumulators.
  const Halide::Expr one = Broadcast::make(
      Call::make(Halide::Float(32), "llvm.arithmetic.fence.f32", {1.0f}, Call::PureExtern), lanes);
  return Shuffle::make_slice(add->a, 0, 2, lanes) * one + Shuffle::make_slice(add->a, 1, 2, lanes);
}

}  // namespace chanas
