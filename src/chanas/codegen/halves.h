#pragma once
// Private to this module, because it needs Halide's header.

#include <Halide.h>

namespace chanas {

// Fused pixels (schedule/tiling.h) need a vector with one value in its lower half and another in
// its upper half, once per reduction step. A constant condition LLVM turns into a permutation of
// two registers, which takes a multiply-add's turn (AMD Zen 5: 216 GFLOP/s where a blend allows
// 255). This hides the constant, so that it becomes a mask register, set before the loops. Only for
// vectors of 16, as other processors have no such registers.
class HideHalves : public Halide::Internal::IRMutator {
  using IRMutator::visit;
  Halide::Expr visit(const Halide::Internal::Select* select) override;
};

}  // namespace chanas
