#include "chanas/codegen/prefetch.h"

#include <algorithm>
#include <utility>
#include <vector>

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

// Where a statement first reads a buffer, a step of the reduction at a time or the two that lie
// beside each other: its first pixel and channel.
class FirstRead : public IRVisitor {
 public:
  explicit FirstRead(const std::string& buffer) : buffer_(buffer) {}
  Expr index;  // undefined: nowhere

 private:
  using IRVisitor::visit;
  void visit(const LetStmt* let) override {
    lets_.emplace_back(let->name, let->value);
    IRVisitor::visit(let);
    lets_.pop_back();
  }
  void visit(const Load* load) override {
    if (index.defined() || load->name != buffer_) return;
    const Ramp* pair = load->index.as<Ramp>();
    if (!load->type.is_scalar() && (pair == nullptr || pair->lanes != 2)) return;
    index = pair != nullptr ? pair->base : load->index;
    for (size_t i = lets_.size(); i-- > 0;)
      index = substitute(lets_[i].first, lets_[i].second, index);
  }

  const std::string& buffer_;
  std::vector<std::pair<std::string, Expr>> lets_;
};

enum Cache { kSecond = 2, kFirst = 3 };

// Into a cache and those behind it. Halide's own prefetch is one that leaves the second cache out.
Stmt prefetch_line(const std::string& buffer, const Expr& index, Cache cache) {
  const Expr base = Variable::make(Halide::Handle(), buffer);
  const Expr address = Halide::reinterpret(
      Halide::Handle(), Halide::reinterpret<int64_t>(base) + Halide::cast<int64_t>(index) * 4);
  constexpr int kRead = 0, kData = 1;
  return Evaluate::make(Call::make(Halide::Int(32), "llvm.prefetch.p0",
                                   {address, kRead, static_cast<int>(cache), kData}, Call::Extern));
}

// `body`, which fetches the lines of `floats` floats from `first` on as well, or the first of them.
Stmt with_lines(Stmt body, const std::string& buffer, const Expr& first, int64_t floats,
                Cache cache) {
  const int64_t lines = std::min(kMostLinesPerStep, (floats * 4 + kLine - 1) / kLine);
  for (int64_t i = lines; i-- > 0;)
    body = Block::make(prefetch_line(buffer, first + static_cast<int>(i * kLine / 4), cache), body);
  return body;
}

// The Func of a loop: "op1_sums" of "op1_sums.s1.r4$x" and of "op1_sums$2.s1.r9$x", that in the
// third pipeline that the process makes.
std::string func_of(const std::string& loop) { return loop.substr(0, loop.find_first_of(".$")); }

// The op whose sums a loop updates; empty: another loop.
std::string reduced_op(const std::string& loop) {
  constexpr std::string_view kSums = "_sums";
  std::string func = func_of(loop);
  if (!func.ends_with(kSums) || loop.find(".s1.") == std::string::npos) return "";
  return func.substr(0, func.size() - kSums.size());
}

}  // namespace

PrefetchAhead::PrefetchAhead(std::map<std::string, DenseReduction> reductions, std::string weights,
                             std::vector<PrefetchRange> ranges, int threads)
    : reductions_(std::move(reductions)),
      weights_(std::move(weights)),
      ranges_(std::move(ranges)),
      threads_(threads) {}

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

PrefetchAhead::Loop PrefetchAhead::loop_of(const For& loop, int64_t extent) const {
  const Expr index = Variable::make(Halide::Int(32), loop.name) - loop.min;
  if (loop.for_type != ForType::Parallel || threads_ == 1) return {index, extent, {}};
  const int64_t part = (extent + threads_ - 1) / threads_;
  return {index % static_cast<int>(part), part, index / static_cast<int>(part)};
}

std::optional<int64_t> PrefetchAhead::extent_of(const For& loop) const {
  if (const std::optional<int64_t> extent = as_const_int(loop.extent)) return extent;
  const auto op = reductions_.find(func_of(loop.name));
  if (op == reductions_.end() || loop.name.find(".y") == std::string::npos) return {};
  return op->second.rows;
}

Stmt PrefetchAhead::visit(const For* loop) {
  const std::optional<int64_t> extent = extent_of(*loop);
  if (extent) loops_.push_back(loop_of(*loop, *extent));
  const auto pop = [&] {
    if (extent) loops_.pop_back();
  };
  const auto reduction = reductions_.find(reduced_op(loop->name));
  if (reduction == reductions_.end() || !is_innermost(loop->body)) {
    Stmt result = IRMutator::visit(loop);
    pop();
    return result;
  }
  int64_t steps = 1;
  Expr step = 0, thread = 0;
  for (const Loop& l : loops_) {
    if (l.thread.defined()) thread = l.thread;
    step = step * static_cast<int>(l.extent) + l.index;
    steps *= l.extent;
  }
  pop();
  if (counting_) {
    steps_ += steps;
    return loop;
  }
  Stmt body = loop->body;
  if (extent) body = with_input(body, *loop, reduction->second.input);
  body = with_weights(body, thread, step + static_cast<int>(steps_before_));
  steps_before_ += steps;
  return For::make(loop->name, loop->min, loop->extent, loop->for_type, loop->partition_policy,
                   loop->device_api, body);
}

Stmt PrefetchAhead::with_weights(Stmt body, const Expr& thread, const Expr& step) const {
  for (const PrefetchRange& range : ranges_) {
    // Floats between the lines of two steps, and lines per step where that is more than a line.
    const int64_t floats = std::max<int64_t>(1, (range.bytes / 4 + steps_ - 1) / steps_);
    const Expr first = static_cast<int>(range.begin / 4) +
                       thread * static_cast<int>(range.stride / 4) +
                       step * static_cast<int>(floats);
    body = with_lines(std::move(body), weights_, first, floats, kSecond);
  }
  return body;
}

Stmt PrefetchAhead::with_input(Stmt body, const For& loop, const TileInput& input) const {
  if (input.buffer.empty()) return body;
  FirstRead read(input.buffer);
  body.accept(&read);
  if (!read.index.defined()) return body;
  const int64_t steps = *as_const_int(loop.extent);
  const int64_t floats = (input.floats + steps - 1) / steps;
  const Expr step = Variable::make(Halide::Int(32), loop.name) - loop.min;
  const Expr first = substitute(loop.name, loop.min, read.index) + static_cast<int>(input.floats) +
                     step * static_cast<int>(floats);
  return with_lines(std::move(body), input.buffer, first, floats, kFirst);
}

}  // namespace chanas
