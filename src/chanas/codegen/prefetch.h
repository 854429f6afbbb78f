#pragma once
// Private to this module, because it needs Halide's header.

#include <Halide.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "chanas/schedule/plan.h"

namespace chanas {

// What a tile of a dense reduction reads, in one piece; what the next tile reads lies behind it.
struct TileInput {
  std::string buffer;  // empty: nothing is fetched
  int64_t floats = 0;
};

struct DenseReduction {
  TileInput input;
  // Of its op, made at a time; counts where the loop over them has no constant length, as the first
  // strip of those that keep rows makes more of them.
  int rows = 1;
};

// Lets the reductions of a kernel prefetch what is needed soon. A dense reduction computes for ten
// cycles and more on every line that it loads, so that one prefetch more per step is free, and
// evenly paced: a burst would be dropped by the processor.
// - Weights ahead of those in use: the rest of their own and those of the stages that run next
//   (plan.h lays them out in the order of execution), into the second cache.
// - The input of the next tile, into the first cache. With several threads another core has made
//   half of it, and a line that another core has written takes as long as one from memory.
class PrefetchAhead : public Halide::Internal::IRMutator {
 public:
  // `reductions`: by the names of their ops' Funcs. `weights`: the buffer; what a thread fetches
  // of each range is spread over all its steps. The threads share parallel loops in equal parts,
  // thread by thread (runtime.h).
  PrefetchAhead(std::map<std::string, DenseReduction> reductions, std::string weights,
                std::vector<PrefetchRange> ranges, int threads);

  Halide::Internal::Stmt mutate(const Halide::Internal::Stmt& statement) override;
  using IRMutator::mutate;

 private:
  struct Loop {
    Halide::Expr index;  // from 0; of a parallel loop within a thread's part
    int64_t extent;
    Halide::Expr thread;  // undefined but for a parallel loop
  };
  Loop loop_of(const Halide::Internal::For& loop, int64_t extent) const;
  // Iterations; nothing: not known.
  std::optional<int64_t> extent_of(const Halide::Internal::For& loop) const;
  Halide::Internal::Stmt visit(const Halide::Internal::For* loop) override;
  using IRMutator::visit;
  // A step of the innermost loop with its prefetches.
  Halide::Internal::Stmt with_weights(Halide::Internal::Stmt body, const Halide::Expr& thread,
                                      const Halide::Expr& step) const;
  Halide::Internal::Stmt with_input(Halide::Internal::Stmt body, const Halide::Internal::For& loop,
                                    const TileInput& input) const;

  const std::map<std::string, DenseReduction> reductions_;
  const std::string weights_;
  const std::vector<PrefetchRange> ranges_;
  const int threads_;
  std::vector<Loop> loops_;
  bool counting_ = false, running_ = false;
  int64_t steps_ = 0;         // of a thread in all reductions
  int64_t steps_before_ = 0;  // of those that were visited
};

}  // namespace chanas
