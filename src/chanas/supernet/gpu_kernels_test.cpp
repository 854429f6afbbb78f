// Our GPU kernels, emulated on the CPU, against LibTorch's own operations.

#include "chanas/supernet/gpu_kernels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>

#include "chanas/supernet/functions.h"
#include "chanas/supernet/testing_gpu.h"
#include "chanas/supernet/testing_ranks.h"

namespace chanas {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

class GpuKernelsTest : public testing::Test {
 protected:
  GpuKernelsTest() {
    at::manual_seed(7);
    gpu::use(testing_supernet::emulated_gpu());
  }
  ~GpuKernelsTest() override { gpu::use(nullptr); }

  static Tensor random(at::IntArrayRef shape) { return at::randn(shape, at::kFloat); }

  // The operation's result and the gradients of all inputs: emulated in float32 and bfloat16, and
  // by LibTorch in float32. `narrow_inputs`: which inputs have the type that is tested.
  static void compare(const std::function<Tensor(const Tensors&)>& operation, const Tensors& inputs,
                      const std::vector<bool>& narrow_inputs, double tolerance = 2e-5,
                      double narrow_tolerance = 0.02) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      Tensors ours, theirs;
      for (size_t i = 0; i < inputs.size(); ++i) {
        const Tensor in = narrow_inputs[i] ? inputs[i].to(type) : inputs[i];
        ours.push_back(in.detach().clone().set_requires_grad(true));
        theirs.push_back(in.to(at::kFloat).detach().clone().set_requires_grad(true));
      }
      ASSERT_TRUE(gpu::runs(ours[0]));
      const Tensor y = operation(ours);
      EXPECT_EQ(y.scalar_type(), type);
      Tensor want;
      {
        const GenericOperations generic(true);
        want = operation(theirs);
      }
      const Tensor dy = random(want.sizes().vec()).to(type);
      y.backward(dy);
      want.backward(dy.to(at::kFloat));
      const double allowed = type == at::kFloat ? tolerance : narrow_tolerance;
      const auto near = [&](const Tensor& a, const Tensor& b, const std::string& what) {
        ASSERT_TRUE(a.defined() && b.defined()) << what;
        const Tensor left = a.detach().to(at::kFloat), right = b.detach();
        ASSERT_EQ(left.sizes(), right.sizes()) << what;
        const double distance = (left - right).norm().item<double>();
        const double size = right.norm().item<double>() + 1e-6;
        EXPECT_LE(distance / size, allowed) << what << " " << at::toString(type);
      };
      near(y, want, "result");
      for (size_t i = 0; i < ours.size(); ++i) {
        near(ours[i].grad(), theirs[i].grad(), "gradient " + std::to_string(i));
      }
    }
  }
};

struct Case {
  int n, size, c, kernel, stride;
};

constexpr Case kCases[] = {
    {2, 32, 24, 7, 1}, {2, 32, 24, 5, 2}, {2, 16, 72, 5, 1}, {1, 16, 144, 7, 2}, {5, 8, 40, 3, 1},
    {3, 7, 16, 3, 2},  {2, 14, 16, 7, 2}, {2, 12, 96, 5, 1}, {40, 4, 88, 7, 1},  {3, 3, 8, 7, 1},
    {2, 28, 8, 3, 1},  {1, 65, 8, 7, 1},  {4, 1, 8, 3, 1},   {6, 2, 8, 3, 2}};

TEST_F(GpuKernelsTest, NormDepthwise) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.n << " x " << c.size << " x " << c.c << ", kernel "
                                    << c.kernel << ", stride " << c.stride);
    const Tensor x = random({c.n, c.size, c.size, c.c}) * 2 + 3 * random({c.c});
    compare(
        [&](const Tensors& in) {
          return norm_depthwise(in[0], in[1], in[2], 1e-5, Activation::kHSwish, in[3], c.stride,
                                nullptr, nullptr);
        },
        {x, 1 + random({c.c}), random({c.c}), random({c.c, 1, c.kernel, c.kernel})},
        {true, false, false, true}, 1e-4);
  }
}

TEST_F(GpuKernelsTest, Depthwise) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.n << " x " << c.size << " x " << c.c << ", kernel "
                                    << c.kernel << ", stride " << c.stride);
    compare([&](const Tensors& in) { return depthwise(in[0], in[1], c.stride); },
            {random({c.n, c.size, c.size, c.c}), random({c.c, 1, c.kernel, c.kernel})},
            {true, true});
  }
}

TEST_F(GpuKernelsTest, BatchNorm) {
  for (const Activation act :
       {Activation::kNone, Activation::kRelu, Activation::kRelu6, Activation::kHSwish}) {
    for (const int c : {8, 264, 1024}) {
      SCOPED_TRACE(testing::Message() << activation_name(act) << " " << c);
      // Columns far from zero, and one without any spread.
      Tensor x = random({3, 5, 5, c}) + 50 * random({c});
      x.select(3, 1).fill_(7);
      compare(
          [&](const Tensors& in) {
            return batch_norm(in[0], in[1], in[2], 1e-3, act, in[3], nullptr, nullptr);
          },
          {x, 1 + random({c}), random({c}), random({3, 5, 5, c})}, {true, false, false, true},
          5e-4);
    }
  }
}

TEST_F(GpuKernelsTest, StatisticsAndFixedNorm) {
  const Tensor x = random({4, 6, 6, 24}) + 5 * random({24});
  const Tensor weight = random({24}), bias = random({24});
  Tensor mean, variance;
  batch_norm(x, weight, bias, 1e-5, Activation::kNone, {}, &mean, &variance);
  const Tensor flat = x.reshape({-1, 24});
  EXPECT_TRUE(at::allclose(mean, flat.mean(0), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(variance, flat.var(0, false), 1e-4, 1e-5));
  const Tensor ours = fixed_norm(x, weight, bias, mean, variance, 1e-5, Activation::kRelu, x);
  const GenericOperations generic(true);
  EXPECT_TRUE(at::allclose(
      ours, fixed_norm(x, weight, bias, mean, variance, 1e-5, Activation::kRelu, x), 1e-4, 1e-4));
}

TEST_F(GpuKernelsTest, SqueezeExcite) {
  for (const int size : {1, 4, 9}) {
    const Tensor x = random({3, size, size, 24}) + random({24});
    compare(
        [&](const Tensors& in) {
          const auto same = [&](const Tensor& t) { return t.to(in[0].scalar_type()); };
          return squeeze_excite(in[0], same(in[1]), same(in[2]), same(in[3]), same(in[4]),
                                Activation::kHSigmoid);
        },
        {x, random({8, 24}), random({8}), random({24, 8}), random({24})},
        {true, true, true, true, true}, 2e-5,
        0.05);  // its small matrices round four times in a row
  }
}

// Twelve rows on one rank, or five and seven on two.
TEST_F(GpuKernelsTest, NormOverTwoRanks) {
  const Tensor x = random({12, 3, 3, 16}) + random({16}), weight = random({16}),
               bias = random({16}), dy = random({12, 3, 3, 16});
  const auto backward = [&](int64_t first, int64_t count, Collective* ranks) {
    Tensor in = x.narrow(0, first, count).clone().set_requires_grad(true);
    Tensor w = weight.clone().set_requires_grad(true), b = bias.clone().set_requires_grad(true);
    batch_norm(in, w, b, 1e-5, Activation::kHSwish, {}, nullptr, nullptr, ranks)
        .backward(dy.narrow(0, first, count));
    return Tensors{in.grad(), w.grad(), b.grad()};
  };
  const Tensors whole = backward(0, 12, nullptr);
  std::vector<Tensors> parts(2);
  testing_supernet::on_two_ranks([&](Collective& ranks) {
    parts[static_cast<size_t>(ranks.rank())] =
        ranks.first() ? backward(0, 5, &ranks) : backward(5, 7, &ranks);
  });
  EXPECT_TRUE(at::allclose(at::cat({parts[0][0], parts[1][0]}), whole[0], 1e-4, 1e-5));
  for (const size_t i : {1, 2}) {
    EXPECT_TRUE(at::allclose(parts[0][i] + parts[1][i], whole[i], 1e-4, 1e-4));
  }
}

TEST_F(GpuKernelsTest, LeavesToOthersWhatItCannot) {
  EXPECT_TRUE(gpu::runs(random({1, 4, 4, 8})));
  EXPECT_FALSE(gpu::runs(random({1, 4, 4, 12})));
  EXPECT_FALSE(gpu::runs(random({1, 4, 4, 8}).to(at::kDouble)));
  EXPECT_FALSE(gpu::runs_depthwise(random({1, 4, 4, 8}), random({8, 1, 9, 9}), 1));
  EXPECT_FALSE(gpu::runs_depthwise(random({1, 4, 400, 8}), random({8, 1, 3, 3}), 1));
  // And they take it.
  EXPECT_EQ(depthwise(random({1, 4, 4, 12}), random({12, 1, 3, 3}), 1).sizes(),
            at::IntArrayRef({1, 4, 4, 12}));
  gpu::use(nullptr);
  EXPECT_FALSE(gpu::runs(random({1, 4, 4, 8})));
}

}  // namespace
}  // namespace chanas
