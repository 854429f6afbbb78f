#pragma once
// Assertions that say nothing about a schedule.

#include <Halide.h>

#include <map>
#include <string>

namespace chanas {

// Takes away the checks of a kernel's own arguments (null, type, alignment, extents), which hold
// for the buffers that HalideKernel makes, and the checks that the program stays inside them where
// that follows from their constrained extents. What is left could not be proven: `left` counts it.
// Without any, the program is the one that the target without assertions gets.
class RemoveEntryChecks : public Halide::Internal::IRMutator {
 public:
  explicit RemoveEntryChecks(int* left) : left_(left) {}
  Halide::Internal::Stmt mutate(const Halide::Internal::Stmt& stmt) override;

 private:
  using IRMutator::visit;
  Halide::Internal::Stmt visit(const Halide::Internal::AssertStmt* op) override;

  int* left_;
  bool inside_ = false;  // of the program: its extents are known
  std::map<std::string, Halide::Expr> known_;
};

}  // namespace chanas
