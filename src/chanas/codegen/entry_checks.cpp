#include "chanas/codegen/entry_checks.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace chanas {
namespace {

using namespace Halide::Internal;

constexpr std::string_view kConstraint = "halide_error_constraint_violated";
constexpr std::string_view kAccess = "halide_error_access_out_of_bounds";
constexpr std::array<std::string_view, 8> kArgument = {
    "halide_error_bad_dimensions",
    "halide_error_bad_type",
    "halide_error_buffer_argument_is_null",
    "halide_error_buffer_extents_negative",
    "halide_error_buffer_extents_too_large",
    "halide_error_device_dirty_with_no_device_support",
    "halide_error_host_is_null",
    "halide_error_unaligned_host_ptr"};

// The function that an assertion calls when it fails; "" when it passes on another's code.
std::string_view error_of(const AssertStmt* op) {
  const Call* call = op->message.as<Call>();
  return call != nullptr ? std::string_view(call->name) : "";
}

// "op0.extent.0 == 6272" and its like.
class Constraints : public IRVisitor {
 public:
  std::map<std::string, Halide::Expr> known;

 private:
  using IRVisitor::visit;
  void visit(const AssertStmt* op) override {
    if (error_of(op) != kConstraint) return;
    const EQ* equal = op->condition.as<EQ>();
    if (equal == nullptr) return;
    const Variable* name = equal->a.as<Variable>();
    if (name != nullptr && is_const(equal->b)) known[name->name] = equal->b;
  }
};

}  // namespace

Stmt RemoveEntryChecks::mutate(const Stmt& stmt) {
  if (!inside_) {
    inside_ = true;
    Constraints constraints;
    stmt.accept(&constraints);
    known_ = std::move(constraints.known);
  }
  return IRMutator::mutate(stmt);
}

Stmt RemoveEntryChecks::visit(const AssertStmt* op) {
  const std::string_view error = error_of(op);
  if (error.empty()) return op;  // the result of a parallel loop
  bool holds = error == kConstraint ||
               std::find(kArgument.begin(), kArgument.end(), error) != kArgument.end();
  if (error == kAccess) holds = is_const_one(simplify(substitute(known_, op->condition)));
  if (holds) return Evaluate::make(0);
  ++*left_;
  return op;
}

}  // namespace chanas
