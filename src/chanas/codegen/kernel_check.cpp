#include "chanas/codegen/kernel_check.h"

#include <fmt/core.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "chanas/graph/interpreter.h"
#include "chanas/schedule/packing.h"
#include "chanas/schedule/tiling.h"

namespace chanas {

GuardedBuffer::GuardedBuffer(size_t floats) : size_(floats) {
  constexpr size_t kPage = 4096;
  const size_t used = (floats * sizeof(float) + 63) / 64 * 64;  // keeps the start aligned
  bytes_ = (used + kPage - 1) / kPage * kPage + kPage;
  pages_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHANAS_CHECK(pages_ != MAP_FAILED) << bytes_;
  char* end = static_cast<char*>(pages_) + bytes_ - kPage;
  CHANAS_CHECK(mprotect(end, kPage, PROT_NONE) == 0);
  data_ = reinterpret_cast<float*>(end - used);
  for (size_t i = 0; i < size_; ++i) data_[i] = std::numeric_limits<float>::quiet_NaN();
}
GuardedBuffer::GuardedBuffer(const std::vector<float>& values) : GuardedBuffer(values.size()) {
  std::memcpy(data_, values.data(), values.size() * sizeof(float));
}
GuardedBuffer::~GuardedBuffer() { munmap(pages_, bytes_); }

KernelCase::KernelCase(Workload workload, uint64_t seed) : workload_(std::move(workload)) {
  const Graph& graph = workload_.graph;
  parameters_ = random_parameters(graph, seed);
  Rng rng(seed, "inputs");
  for (int input : graph.input_ops()) {
    std::vector<float> values(graph.ops[input].shape.elements());
    for (float& value : values) value = static_cast<float>(rng.normal());
    inputs_.push_back(std::move(values));
  }
  reference_ = interpret(graph, parameters_, inputs_).back();
}

std::vector<float> KernelCase::packed(const ScheduleSpace& space, const Schedule& schedule) const {
  std::vector<std::string> names;
  for (const Op& op : workload_.graph.ops) names.push_back(op.name);
  std::vector<float> weights(packing(space, schedule).size);
  pack_weights(space, schedule, parameters_, names, weights.data());
  return weights;
}

bool keeps_rows(const ScheduleSpace& space, const Schedule& schedule) {
  return std::ranges::any_of(resolve(space, op_roles(space.workload), schedule),
                             &OpTile::keeps_rows);
}

KernelCheck KernelCase::check(const ScheduleSpace& space, const Schedule& schedule,
                              const CompileOptions& options, void* runtime) const {
  KernelCheck result;
  const auto start = std::chrono::steady_clock::now();
  auto kernel = compile_jit(space, schedule, options, runtime);
  result.compile_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!kernel.ok()) {
    result.failure = fmt::format("compile: {}", message(kernel.status()));
    return result;
  }
  std::vector<std::unique_ptr<GuardedBuffer>> inputs;
  std::vector<const float*> pointers;
  for (const std::vector<float>& values : inputs_) {
    inputs.push_back(std::make_unique<GuardedBuffer>(values));
    pointers.push_back(inputs.back()->data());
  }
  const GuardedBuffer weights(packed(space, schedule));
  const GuardedBuffer output(reference_.size());  // starts as NaN: what is not written is seen
  std::string error;
  const int code = (*kernel)->run(pointers, weights.data(), output.data(), &error);
  if (code != 0) {
    result.failure = fmt::format("run: code {}: {}", code, error);
    return result;
  }
  result.relative_error =
      max_relative_error({output.data(), output.data() + output.size()}, reference_);
  if (!(result.relative_error <= 1e-4))
    result.failure = fmt::format("wrong: relative error {}", result.relative_error);
  return result;
}

namespace {

Op input(int h, int w, int c) {
  return {.kind = OpKind::kInput, .name = "", .inputs = {}, .shape = {h, w, c}};
}

// Builds graphs op by op with names that are canonical.
class Maker {
 public:
  int add(Op op) {
    op.name = fmt::format("op{}", graph_.ops.size());
    return graph_.add(std::move(op));
  }
  int conv(int x, int c_out, int kernel, int stride, Activation act, bool bias, int residual = -1) {
    const Shape& in = graph_.ops[x].shape;
    Op op{.kind = OpKind::kConv2d,
          .name = "",
          .inputs = {x},
          .shape = {strided(in.h, stride), strided(in.w, stride), c_out},
          .kernel = kernel,
          .stride = stride,
          .bias = bias,
          .act = act};
    if (residual >= 0) op.inputs.push_back(residual), op.residual = true;
    return add(op);
  }
  int depthwise(int x, int kernel, int stride, Activation act) {
    const Shape& in = graph_.ops[x].shape;
    return add({.kind = OpKind::kDepthwise,
                .name = "",
                .inputs = {x},
                .shape = {strided(in.h, stride), strided(in.w, stride), in.c},
                .kernel = kernel,
                .stride = stride,
                .bias = true,
                .act = act});
  }
  int pool(int x) {
    return add({.kind = OpKind::kGlobalPool,
                .name = "",
                .inputs = {x},
                .shape = {1, 1, graph_.ops[x].shape.c}});
  }
  int scale(int x, int gate) {
    return add(
        {.kind = OpKind::kScale, .name = "", .inputs = {x, gate}, .shape = graph_.ops[x].shape});
  }
  int elementwise(OpKind kind, std::vector<int> inputs, Activation act) {
    const Shape shape = graph_.ops[inputs[0]].shape;
    return add({.kind = kind, .name = "", .inputs = std::move(inputs), .shape = shape, .act = act});
  }
  int channels(int value) const { return graph_.ops[value].shape.c; }
  Workload workload() const {
    std::vector<int> ops;
    for (size_t i = 0; i < graph_.ops.size(); ++i)
      if (graph_.ops[i].kind != OpKind::kInput) ops.push_back(static_cast<int>(i));
    return make_workload(graph_, ops);
  }

 private:
  Graph graph_;
};

constexpr Activation kActs[] = {Activation::kNone,   Activation::kRelu,    Activation::kRelu6,
                                Activation::kHSwish, Activation::kSigmoid, Activation::kHSigmoid};

}  // namespace

Workload example_workload(uint64_t seed, int index) {
  Rng rng(seed, "workload", index);
  auto channels = [&] {
    static const std::vector<int> kUsual = {8, 16, 24, 40, 64, 72, 80, 120, 184};
    return rng.bernoulli(0.75) ? rng.choose(kUsual) : static_cast<int>(rng.uniform_int(1, 50));
  };
  auto act = [&] { return kActs[rng.uniform(std::size(kActs))]; };
  const std::vector<int> sizes = {1, 2, 3, 4, 5, 7, 8, 9, 11, 14, 16, 17};
  const int h = rng.choose(sizes);
  const int w = rng.bernoulli(0.8) ? h : rng.choose(sizes);
  const int kernel = rng.choose(std::vector<int>{1, 3, 3, 5, 5, 7});
  const int stride = rng.choose(std::vector<int>{1, 1, 1, 2, 2, 3});
  Maker maker;
  const int c = channels();
  switch (index % kExampleKinds) {
    case 0: {  // 1x1
      const int x = maker.add(input(h, w, c));
      maker.conv(x, channels(), 1, 1, act(), rng.bernoulli(0.8));
      break;
    }
    case 1: {  // 1x1 with residual
      const int c_out = channels();
      const int x = maker.add(input(h, w, c)), r = maker.add(input(h, w, c_out));
      maker.conv(x, c_out, 1, 1, act(), true, r);
      break;
    }
    case 2: {  // stem
      const int x = maker.add(input(2 * h + 1, 2 * w, static_cast<int>(rng.uniform_int(1, 4))));
      maker.conv(x, channels(), kernel, stride, act(), rng.bernoulli(0.5));
      break;
    }
    case 3: {  // dense k x k
      const int x = maker.add(input(h, w, c));
      maker.conv(x, channels(), kernel, stride, act(), true);
      break;
    }
    case 4: {
      const int x = maker.add(input(h, w, c));
      maker.depthwise(x, kernel, stride, act());
      break;
    }
    case 5: {  // linear
      const int x = maker.add(input(1, 1, c * 4));
      maker.conv(x, rng.bernoulli(0.5) ? 10 : channels(), 1, 1, act(), rng.bernoulli(0.5));
      break;
    }
    case 6: {  // squeeze
      const int x = maker.add(input(h, w, c));
      const int p = maker.pool(x);
      const int reduced = maker.conv(p, std::max(1, c / 4), 1, 1, Activation::kRelu, true);
      maker.conv(reduced, c, 1, 1, Activation::kHSigmoid, true);
      break;
    }
    case 7: {  // scale + project
      const int x = maker.add(input(h, w, c)), gate = maker.add(input(1, 1, c));
      const int c_out = channels();
      const int r = rng.bernoulli(0.5) ? maker.add(input(h, w, c_out)) : -1;
      maker.conv(maker.scale(x, gate), c_out, 1, 1, Activation::kNone, true, r);
      break;
    }
    case 8: {  // depthwise + project
      const int c_out = channels();
      const int x = maker.add(input(h, w, c));
      const int d = maker.depthwise(x, kernel, stride, act());
      const bool residual = stride == 1 && rng.bernoulli(0.5);
      maker.conv(d, residual ? c : c_out, 1, 1, Activation::kNone, true, residual ? x : -1);
      break;
    }
    case 9: {  // expand + depthwise
      const int x = maker.add(input(h, w, c));
      maker.depthwise(maker.conv(x, channels(), 1, 1, act(), true), kernel, stride, act());
      break;
    }
    case 10: {  // all
      const int x = maker.add(input(h, w, c));
      const int d =
          maker.depthwise(maker.conv(x, channels(), 1, 1, act(), true), kernel, stride, act());
      const bool residual = stride == 1 && rng.bernoulli(0.5);
      maker.conv(d, residual ? c : channels(), 1, 1, Activation::kNone, true, residual ? x : -1);
      break;
    }
    case 11: {  // head
      const int x = maker.add(input(h, w, c));
      maker.pool(maker.conv(x, channels(), 1, 1, act(), true));
      break;
    }
    case 12: {
      maker.pool(maker.add(input(h, w, c)));
      break;
    }
    case 13: {  // stem + depthwise, with and without the projection
      const int x = maker.add(input(2 * h + 1, 2 * w, static_cast<int>(rng.uniform_int(1, 4))));
      const int d =
          maker.depthwise(maker.conv(x, c, rng.choose(std::vector<int>{3, 3, 5}),
                                     static_cast<int>(rng.uniform_int(1, 2)), act(), true),
                          kernel, stride, act());
      if (rng.bernoulli(0.7)) maker.conv(d, channels(), 1, 1, Activation::kNone, true);
      break;
    }
    default: {  // rarer graphs: not fused, or windows on inner values
      const int x = maker.add(input(h, w, c));
      switch (rng.uniform(5)) {
        case 0:
          maker.elementwise(OpKind::kActivation, {x}, Activation::kHSwish);
          break;
        case 1: {
          const int y = maker.add(input(h, w, c));
          maker.elementwise(OpKind::kAdd, {x, y}, Activation::kNone);
          break;
        }
        case 2: {
          const int gate = maker.add(input(1, 1, c));
          maker.depthwise(maker.scale(x, gate), kernel, stride, act());
          break;
        }
        case 3: {  // a value that two ops read
          const int e = maker.conv(x, channels(), 1, 1, act(), true);
          const int c_mid = maker.channels(e);
          maker.conv(maker.depthwise(e, kernel, 1, act()), c_mid, 1, 1, Activation::kNone, true, e);
          break;
        }
        default:
          maker.conv(maker.conv(x, channels(), 1, 1, act(), true), channels(), kernel, stride,
                     act(), true);
      }
    }
  }
  return maker.workload();
}

}  // namespace chanas
