#pragma once
// Private to this module, because it needs Halide's header.

#include <Halide.h>

#include <set>
#include <string>

#include "chanas/schedule/plan.h"

namespace chanas {

// Lets the reductions of a kernel prefetch weights ahead of those in use: the rest of their own and
// those of the stages that run next (plan.h lays them out in the order of execution). A dense
// reduction computes for ten cycles and more on every line that it loads, so that one prefetch more
// per step is free, and evenly paced: a burst would be dropped by the processor.
class PrefetchAhead : public Halide::Internal::IRMutator {
 public:
  // `sums`: names of the reductions' Funcs. `weights`: the buffer. The range is spread over all
  // steps.
  PrefetchAhead(std::set<std::string> sums, std::string weights, const PrefetchRange& range);

  Halide::Internal::Stmt mutate(const Halide::Internal::Stmt& statement) override;
  using IRMutator::mutate;

 private:
  struct Loop {
    Halide::Expr index;  // from 0
    int64_t extent;
  };
  Halide::Internal::Stmt visit(const Halide::Internal::For* loop) override;
  using IRMutator::visit;

  const std::set<std::string> sums_;
  const std::string weights_;
  const PrefetchRange range_;
  std::vector<Loop> loops_;
  bool counting_ = false, running_ = false;
  int64_t steps_ = 0;         // of all reductions
  int64_t steps_before_ = 0;  // of those that were visited
};

}  // namespace chanas
