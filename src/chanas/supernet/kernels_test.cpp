// Each kernel against LibTorch's own operation, forward and backward, over shapes with odd sizes,
// strides, windows and channel counts that fill no vector.

#include "chanas/supernet/kernels.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "chanas/base/rng.h"
#include "chanas/supernet/cpu.h"
#include "chanas/supernet/functions.h"

namespace chanas {
namespace {

torch::Tensor random_tensor(std::vector<int64_t> shape, uint64_t seed, double scale = 1) {
  torch::Tensor t = torch::empty(shape);
  Rng rng(seed);
  float* to = t.data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i) to[i] = static_cast<float>(scale * rng.normal());
  return t;
}

torch::Tensor leaf(const torch::Tensor& t) { return t.detach().clone().requires_grad_(true); }

// Largest difference, relative to the largest value.
double difference(const torch::Tensor& a, const torch::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  const double scale = std::max(1e-6, b.abs().max().item<double>());
  return (a - b).abs().max().item<double>() / scale;
}

torch::Tensor nchw(const torch::Tensor& x) { return x.permute({0, 3, 1, 2}); }
torch::Tensor nhwc(const torch::Tensor& x) { return x.permute({0, 2, 3, 1}); }

struct DepthwiseCase {
  int n, h, c, kernel, stride;
};

class DepthwiseTest : public testing::TestWithParam<DepthwiseCase> {};

TEST_P(DepthwiseTest, EqualsGroupedConvolution) {
  const DepthwiseCase s = GetParam();
  const torch::Tensor x = random_tensor({s.n, s.h, s.h, s.c}, 1);
  const torch::Tensor w = random_tensor({s.c, 1, s.kernel, s.kernel}, 2);
  torch::Tensor x1 = leaf(x), w1 = leaf(w), x2 = leaf(x), w2 = leaf(w);
  const torch::Tensor y1 = depthwise(x1, w1, s.stride);
  const torch::Tensor y2 = nhwc(torch::conv2d(nchw(x2), w2, {}, s.stride, s.kernel / 2, 1, s.c));
  EXPECT_LT(difference(y1, y2), 1e-5);
  const torch::Tensor dy = random_tensor(y1.sizes().vec(), 3);
  y1.backward(dy);
  y2.backward(dy);
  EXPECT_LT(difference(x1.grad(), x2.grad()), 1e-5);
  EXPECT_LT(difference(w1.grad(), w2.grad()), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DepthwiseTest,
    testing::Values(DepthwiseCase{3, 8, 16, 3, 1}, DepthwiseCase{2, 7, 24, 5, 1},
                    DepthwiseCase{2, 9, 40, 7, 1}, DepthwiseCase{2, 8, 16, 3, 2},
                    DepthwiseCase{3, 7, 8, 5, 2}, DepthwiseCase{2, 12, 72, 7, 2},
                    DepthwiseCase{17, 4, 48, 7, 1}, DepthwiseCase{40, 2, 16, 5, 1},
                    DepthwiseCase{2, 1, 32, 3, 1}, DepthwiseCase{2, 5, 5, 3, 2},
                    DepthwiseCase{2, 11, 3, 1, 1}, DepthwiseCase{2, 10, 20, 9, 1},
                    DepthwiseCase{2, 10, 20, 11, 3}, DepthwiseCase{1, 13, 1, 3, 4},
                    DepthwiseCase{2, 3, 16, 7, 2}));

struct NormCase {
  int n, h, c;
  Activation act;
  bool residual;
};

class BatchNormTest : public testing::TestWithParam<NormCase> {};

TEST_P(BatchNormTest, EqualsBatchNormAndActivation) {
  const NormCase s = GetParam();
  // A large mean, so that a careless variance would show.
  const torch::Tensor x = random_tensor({s.n, s.h, s.h, s.c}, 1, 2) + 30;
  const torch::Tensor w = random_tensor({s.c}, 2), b = random_tensor({s.c}, 3);
  const torch::Tensor r = random_tensor({s.n, s.h, s.h, s.c}, 4);
  torch::Tensor x1 = leaf(x), w1 = leaf(w), b1 = leaf(b), r1 = leaf(r);
  torch::Tensor mean, variance;
  const torch::Tensor y1 =
      batch_norm(x1, w1, b1, 1e-5, s.act, s.residual ? r1 : torch::Tensor(), &mean, &variance);
  torch::Tensor x2 = leaf(x.to(torch::kDouble)), w2 = leaf(w.to(torch::kDouble)),
                b2 = leaf(b.to(torch::kDouble)), r2 = leaf(r.to(torch::kDouble));
  torch::Tensor y2 = nhwc(torch::batch_norm(nchw(x2), w2, b2, {}, {}, true, 0.1, 1e-5, false));
  y2 = activate(y2, s.act);
  if (s.residual) y2 = y2 + r2;
  EXPECT_LT(difference(y1.to(torch::kDouble), y2), 1e-5);
  EXPECT_LT(difference(mean.to(torch::kDouble), x2.mean({0, 1, 2})), 1e-6);
  EXPECT_LT(difference(variance.to(torch::kDouble), x2.var({0, 1, 2}, false)), 1e-5);
  const torch::Tensor dy = random_tensor(y1.sizes().vec(), 5);
  y1.backward(dy);
  y2.backward(dy.to(torch::kDouble));
  EXPECT_LT(difference(x1.grad().to(torch::kDouble), x2.grad()), 2e-5);
  EXPECT_LT(difference(w1.grad().to(torch::kDouble), w2.grad()), 2e-5);
  EXPECT_LT(difference(b1.grad().to(torch::kDouble), b2.grad()), 2e-5);
  if (s.residual) {
    EXPECT_LT(difference(r1.grad().to(torch::kDouble), r2.grad()), 1e-6);
  }
  // With the batch's statistics given, the same.
  const torch::Tensor fixed =
      fixed_norm(x, w, b, mean, variance, 1e-5, s.act, s.residual ? r : torch::Tensor());
  EXPECT_LT(difference(fixed, y1.detach()), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BatchNormTest,
                         testing::Values(NormCase{4, 6, 16, Activation::kRelu, false},
                                         NormCase{3, 5, 24, Activation::kHSwish, false},
                                         NormCase{2, 9, 40, Activation::kNone, true},
                                         NormCase{5, 3, 7, Activation::kRelu6, false},
                                         NormCase{130, 1, 72, Activation::kHSwish, false},
                                         // Blocks of three vectors, and several of four.
                                         NormCase{3, 5, 56, Activation::kHSwish, true},
                                         NormCase{2, 7, 176, Activation::kRelu, true},
                                         NormCase{2, 6, 200, Activation::kHSwish, false},
                                         NormCase{5, 1, 8, Activation::kNone, false}));

TEST(NormDepthwiseTest, EqualsItsPartsBitForBit) {
  for (const Activation act : {Activation::kRelu, Activation::kRelu6, Activation::kHSwish}) {
    for (const DepthwiseCase s : {DepthwiseCase{3, 8, 48, 3, 1}, DepthwiseCase{2, 7, 21, 5, 2},
                                  DepthwiseCase{5, 4, 40, 7, 1}}) {
      const torch::Tensor x = random_tensor({s.n, s.h, s.h, s.c}, 1, 2) + 3;
      const torch::Tensor w = random_tensor({s.c}, 2), b = random_tensor({s.c}, 3);
      const torch::Tensor k = random_tensor({s.c, 1, s.kernel, s.kernel}, 4);
      std::vector<torch::Tensor> one = {leaf(x), leaf(w), leaf(b), leaf(k)};
      std::vector<torch::Tensor> two = {leaf(x), leaf(w), leaf(b), leaf(k)};
      torch::Tensor mean1, variance1, mean2, variance2;
      const torch::Tensor y1 =
          norm_depthwise(one[0], one[1], one[2], 1e-5, act, one[3], s.stride, &mean1, &variance1);
      const torch::Tensor y2 = depthwise(
          batch_norm(two[0], two[1], two[2], 1e-5, act, {}, &mean2, &variance2), two[3], s.stride);
      EXPECT_TRUE(torch::equal(y1, y2));
      EXPECT_TRUE(torch::equal(mean1, mean2));
      EXPECT_TRUE(torch::equal(variance1, variance2));
      const torch::Tensor dy = random_tensor(y1.sizes().vec(), 5);
      y1.backward(dy);
      y2.backward(dy);
      for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_TRUE(torch::equal(one[i].grad(), two[i].grad())) << i;
      }
    }
  }
}

TEST(SqueezeExciteTest, EqualsItsLayers) {
  for (const auto& [gate, c] :
       {std::pair(Activation::kSigmoid, 24), std::pair(Activation::kHSigmoid, 184)}) {
    const torch::Tensor x = random_tensor({5, 4, 4, c}, 1), dy = random_tensor({5, 4, 4, c}, 6);
    const std::vector<torch::Tensor> weights = {random_tensor({8, c}, 2), random_tensor({8}, 3),
                                                random_tensor({c, 8}, 4), random_tensor({c}, 5)};
    std::vector<torch::Tensor> a, b;
    for (const torch::Tensor& w : weights) {
      a.push_back(leaf(w));
      b.push_back(leaf(w));
    }
    torch::Tensor x1 = leaf(x), x2 = leaf(x);
    const torch::Tensor y1 = squeeze_excite(x1, a[0], a[1], a[2], a[3], gate);
    const torch::Tensor hidden = torch::relu(torch::linear(x2.mean({1, 2}), b[0], b[1]));
    const torch::Tensor g = activate(torch::linear(hidden, b[2], b[3]), gate);
    const torch::Tensor y2 = x2 * g.view({5, 1, 1, c});
    EXPECT_LT(difference(y1, y2), 1e-5);
    y1.backward(dy);
    y2.backward(dy);
    EXPECT_LT(difference(x1.grad(), x2.grad()), 1e-5);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_LT(difference(a[i].grad(), b[i].grad()), 1e-5) << i;
    }
  }
}

TEST(PatchesTest, LinearOnPatchesIsConvolution) {
  for (const int stride : {1, 2}) {
    const torch::Tensor x = random_tensor({3, 9, 9, 3}, 1), w = random_tensor({8, 3, 3, 3}, 2);
    const torch::Tensor flat = w.permute({0, 2, 3, 1}).reshape({8, 27});
    const torch::Tensor expected = nhwc(torch::conv2d(nchw(x), w, {}, stride, 1));
    const torch::Tensor y = torch::linear(image_patches(x, 3, stride), flat);
    EXPECT_LT(difference(y.view(expected.sizes()), expected), 1e-5);
  }
}

TEST(KernelsTest, ResultsDoNotDependOnThreads) {
  const torch::Tensor x = random_tensor({33, 6, 6, 40}, 1), w = random_tensor({40, 1, 5, 5}, 2);
  const torch::Tensor dy = random_tensor({33, 6, 6, 40}, 3), scale = random_tensor({40}, 4);
  std::vector<torch::Tensor> first;
  for (const int threads : {1, 2, 5}) {
    torch::set_num_threads(threads);
    torch::Tensor xl = leaf(x), wl = leaf(w), mean, variance;
    const torch::Tensor y = depthwise(
        batch_norm(xl, scale, scale, 1e-5, Activation::kHSwish, {}, &mean, &variance), wl, 1);
    y.backward(dy);
    const std::vector<torch::Tensor> all = {y.detach(), xl.grad(), wl.grad(), mean, variance};
    if (first.empty()) first = all;
    for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(torch::equal(all[i], first[i])) << i;
  }
  torch::set_num_threads(2);
}

// Else matrix products are slow on AMD's processors, and nothing says so.
TEST(CpuTest, MklAsksThisProgram) {
  prepare_cpu();
  const char* const question = "mkl_serv_intel_cpu_true";
  if (::dlsym(RTLD_NEXT, question) == nullptr) GTEST_SKIP() << "no MKL in this LibTorch";
  Dl_info asked = {}, own = {};
  ASSERT_NE(::dladdr(::dlsym(RTLD_DEFAULT, question), &asked), 0);
  ASSERT_NE(::dladdr(reinterpret_cast<const void*>(&prepare_cpu), &own), 0);
  EXPECT_EQ(asked.dli_fbase, own.dli_fbase) << asked.dli_fname;
}

}  // namespace
}  // namespace chanas
