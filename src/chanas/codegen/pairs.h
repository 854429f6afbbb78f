#pragma once
// Private to this module, because it needs Halide's header.

#include <Halide.h>

namespace chanas {

// The sums of two reduction steps that lie beside each other (OpTile::steps) are added at the end
// of a tile: floats b, b + 2, ... and b + 1, b + 3, ... of a vector in the stack. Halide reads both
// as dense vectors, the second one float further on, that is across two vectors that were just
// written, for which the processor waits, and the compiler cannot keep any of them in registers.
// This takes both from one vector.
class AddPairs : public Halide::Internal::IRMutator {
  using IRMutator::visit;
  Halide::Expr visit(const Halide::Internal::Shuffle* shuffle) override;
};

}  // namespace chanas
