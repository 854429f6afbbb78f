#include "chanas/codegen/prefetch.h"

#include <algorithm>

namespace chanas {
namespace {

using Halide::Expr;
using namespace Halide::Internal;

constexpr int64_t kLine = 64;
constexpr int64_t kMostLinesPerStep = 4;

// Whether a statement holds a loop that runs one iteration after the other.
class HasLoop : public IRVisitor {
 public:
  bool found = false;

 private:
  using IRVisitor::visit;
  void visit(const For*) override { found = true; }
};

bool is_innermost(const Stmt& body) {
  HasLoop loops;
  body.accept(&loops);
  return !loops.found;
}

// Into the second cache and up. Halide's own prefetch is one that leaves the second cache out.
Stmt prefetch_line(const std::string& buffer, const Expr& index) {
  const Expr base = Variable::make(Halide::Handle(), buffer);
  const Expr address = Halide::reinterpret(
      Halide::Handle(), Halide::reinterpret<int64_t>(base) + Halide::cast<int64_t>(index) * 4);
  constexpr int kRead = 0, kSecondCache = 2, kData = 1;
  return Evaluate::make(Call::make(Halide::Int(32), "llvm.prefetch.p0",
                                   {address, kRead, kSecondCache, kData}, Call::Extern));
}

}  // namespace

PrefetchAhead::PrefetchAhead(std::set<std::string> sums, std::string weights,
                             const PrefetchRange& range)
    : sums_(std::move(sums)), weights_(std::move(weights)), range_(range) {}

Stmt PrefetchAhead::mutate(const Stmt& statement) {
  if (running_) return IRMutator::mutate(statement);
  running_ = true;
  counting_ = true;
  steps_ = 0;
  IRMutator::mutate(statement);
  counting_ = false;
  steps_before_ = 0;
  Stmt result = steps_ == 0 ? statement : IRMutator::mutate(statement);
  running_ = false;
  return result;
}

Stmt PrefetchAhead::visit(const For* loop) {
  const std::optional<int64_t> extent = as_const_int(loop->extent);
  if (extent) loops_.push_back({Variable::make(Halide::Int(32), loop->name) - loop->min, *extent});
  const auto pop = [&] {
    if (extent) loops_.pop_back();
  };
  // "op1_sums.s1.r4$x": the update of the reduction; "op1_sums$2.s1.r9$x" in the third pipeline
  // that the process makes.
  const size_t dot = loop->name.find(".s1.");
  const bool reduction =
      dot != std::string::npos &&
      sums_.contains(loop->name.substr(0, std::min(dot, loop->name.find('$')))) &&
      is_innermost(loop->body);
  if (!reduction) {
    Stmt result = IRMutator::visit(loop);
    pop();
    return result;
  }
  int64_t steps = 1;
  Expr step = 0;
  for (const Loop& l : loops_) {
    step = step * static_cast<int>(l.extent) + l.index;
    steps *= l.extent;
  }
  pop();
  if (counting_) {
    steps_ += steps;
    return loop;
  }
  // Floats between the lines of two steps, and lines per step where that is more than a line.
  const int64_t floats = std::max<int64_t>(1, (range_.bytes / 4 + steps_ - 1) / steps_);
  const int64_t lines = std::min(kMostLinesPerStep, (floats * 4 + kLine - 1) / kLine);
  const Expr first = static_cast<int>(range_.begin / 4) +
                     (step + static_cast<int>(steps_before_)) * static_cast<int>(floats);
  steps_before_ += steps;
  Stmt body = loop->body;
  for (int64_t i = lines; i-- > 0;)
    body = Block::make(prefetch_line(weights_, first + static_cast<int>(i * kLine / 4)), body);
  return For::make(loop->name, loop->min, loop->extent, loop->for_type, loop->partition_policy,
                   loop->device_api, body);
}

}  // namespace chanas
