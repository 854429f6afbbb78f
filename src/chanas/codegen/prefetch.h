#pragma once
// Private to this module, because it needs Halide's header.

#include <Halide.h>

#include <set>
#include <string>

namespace chanas {

// Lets the reductions of a kernel prefetch what lies behind its own weights: the weights of the
// stages that run next (plan.h lays them out in the order of execution). A dense reduction computes
// for ten cycles and more on every line that it loads, so that one prefetch more per step is free,
// and evenly paced: a burst would be dropped by the processor.
class PrefetchBehind : public Halide::Internal::IRMutator {
 public:
  // `sums`: names of the reductions' Funcs. `weights`: the buffer. Its bytes from `begin` on, for
  // `bytes`, are spread over all steps.
  PrefetchBehind(std::set<std::string> sums, std::string weights, int64_t begin, int64_t bytes);

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
  const int64_t begin_, bytes_;
  std::vector<Loop> loops_;
  bool counting_ = false, running_ = false;
  int64_t steps_ = 0;         // of all reductions
  int64_t steps_before_ = 0;  // of those that were visited
};

}  // namespace chanas
