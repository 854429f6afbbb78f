// The same supernet on other terms: LibTorch's own operations instead of our kernels, bfloat16, a
// batch in two parts. What a GPU runs is checked here on the CPU, as far as that goes.

#include "chanas/supernet/device.h"

#include <ATen/Context.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "chanas/supernet/collective_open.h"
#include "chanas/supernet/gpu_kernels.h"
#include "chanas/supernet/supernet.h"
#include "chanas/supernet/testing.h"
#include "chanas/supernet/testing_gpu.h"
#include "chanas/supernet/testing_ranks.h"

namespace chanas {
namespace {

using testing::HasSubstr;

constexpr int kImages = 12, kResolution = 16;

struct Outcome {
  StepLoss loss;
  std::vector<float> gradient, logits;
};

class DeviceTest : public testing::Test {
 protected:
  DeviceTest() {
    set_threads(1);  // ranks are threads here
    archs_ = {largest(space_, {kResolution, 1.3})};
    Rng rng(5);
    archs_.push_back(sample(space_, {kResolution, 1.0}, rng));
    archs_.push_back(smallest(space_, {kResolution, 1.0}));
  }

  // Scales of residual branches start at zero, where gradients of much are zero too.
  Supernet supernet() const {
    Supernet net(space_, 3, true);
    Rng rng(5);
    for (const Supernet::Parameter& p : net.parameters()) {
      if (p.name.find(".bn.") == std::string::npos || !p.name.ends_with(".weight")) continue;
      for (float& v : net.values().subspan(p.offset, p.size)) {
        v = static_cast<float>(1 + 0.1 * rng.normal());
      }
    }
    return net;
  }

  static Batch part_of(const Batch& whole, Share share) {
    const size_t size = size_t{kResolution} * kResolution * 3;
    const auto begin = static_cast<size_t>(share.begin), end = static_cast<size_t>(share.end);
    Batch part;
    part.n = share.end - share.begin;
    const float* images = whole.images.at(kResolution).data();
    part.images[kResolution].assign(images + begin * size, images + end * size);
    part.labels.assign(&whole.labels[begin], &whole.labels[0] + end);
    part.first = share.begin;
    part.whole = whole.n;
    return part;
  }

  Outcome step(const Device& device, Collective* ranks = nullptr, bool gap = true) const {
    Supernet net = supernet();
    net.use(device);
    LossOptions options;
    options.dropout_seed = 9;
    options.ranks = ranks;
    const Batch whole = testing_supernet::random_batch(kImages, kResolution, space_.classes, 1);
    const Batch gap_whole = testing_supernet::random_batch(kImages, kResolution, space_.classes, 2);
    Outcome outcome;
    if (ranks == nullptr) {
      outcome.loss = net.accumulate(archs_, whole, gap ? &gap_whole : nullptr, options);
    } else {
      // Five and seven images: parts need not be even.
      const Share share = ranks->first() ? Share{0, 5} : Share{5, kImages};
      const Batch part = part_of(whole, share), gap_part = part_of(gap_whole, share);
      outcome.loss = net.accumulate(archs_, part, gap ? &gap_part : nullptr, options);
      ranks->sum(net.gradients());
    }
    outcome.gradient.assign(net.gradients().begin(), net.gradients().end());
    outcome.logits = net.batch_logits(archs_[0], whole);
    return outcome;
  }

  static void expect_near(const Outcome& got, const Outcome& want, double tolerance) {
    EXPECT_NEAR(got.loss.loss, want.loss.loss, tolerance);
    EXPECT_NEAR(got.loss.gap, want.loss.gap, tolerance);
    EXPECT_EQ(got.loss.negative_gaps, want.loss.negative_gaps);
    double most = 0, square = 0, difference = 0;
    ASSERT_EQ(got.logits.size(), want.logits.size());
    for (size_t i = 0; i < want.logits.size(); ++i) {
      most = std::max(most, std::abs(double{got.logits[i]} - double{want.logits[i]}));
    }
    EXPECT_LT(most, tolerance) << "logits";
    for (size_t i = 0; i < want.gradient.size(); ++i) {
      const double d = double{got.gradient[i]} - double{want.gradient[i]};
      square += double{want.gradient[i]} * double{want.gradient[i]};
      difference += d * d;
    }
    EXPECT_GT(square, 0);
    EXPECT_LT(std::sqrt(difference / square), tolerance) << "gradient";
  }

  std::vector<Outcome> on_two_ranks(const Device& device) const {
    std::vector<Outcome> outcomes(2);
    testing_supernet::on_two_ranks([&](Collective& ranks) {
      outcomes[static_cast<size_t>(ranks.rank())] = step(device, &ranks);
    });
    return outcomes;
  }

  const ArchSpace space_ = testing_supernet::tiny_space();
  std::vector<Arch> archs_;
};

TEST_F(DeviceTest, GenericOperationsAgreeWithOurKernels) {
  Device generic;
  generic.generic = true;
  expect_near(step(generic), step({}), 1e-4);
}

TEST_F(DeviceTest, SubnetsAgreeToo) {
  const Batch batch = testing_supernet::random_batch(kImages, kResolution, space_.classes, 1);
  std::vector<std::vector<float>> logits;
  for (const bool generic : {false, true}) {
    Supernet net = supernet();
    Device device;
    device.generic = generic;
    net.use(device);
    Subnet subnet = net.subnet(archs_[1]);
    subnet.recalibrate(1, [&](int) -> const Batch& { return batch; });
    logits.push_back(subnet.logits(batch));
  }
  ASSERT_EQ(logits[0].size(), logits[1].size());
  for (size_t i = 0; i < logits[0].size(); ++i) EXPECT_NEAR(logits[0][i], logits[1][i], 1e-4);
}

// Eight bits of mantissa: close, and not equal.
TEST_F(DeviceTest, Bfloat16IsCloseToFloat32) {
  Device narrow;
  narrow.bfloat16 = true;
  // Without the gap, whose sign is not a matter of closeness.
  const Outcome got = step(narrow, nullptr, false), want = step({}, nullptr, false);
  expect_near(got, want, 0.05);
  EXPECT_NE(got.logits, want.logits);
}

TEST_F(DeviceTest, TwoPartsAreOneBatch) {
  for (const bool generic : {false, true}) {
    Device device;
    device.generic = generic;
    const Outcome whole = step(device);
    const std::vector<Outcome> parts = on_two_ranks(device);
    for (const Outcome& part : parts) expect_near(part, whole, generic ? 1e-4 : 1e-5);
    EXPECT_EQ(parts[0].gradient, parts[1].gradient);
    EXPECT_EQ(parts[0].loss.loss, parts[1].loss.loss);
  }
}

// Whole steps on our GPU kernels, emulated.
TEST_F(DeviceTest, GpuKernelsAgreeWithOurKernels) {
  const Outcome want = step({}), close = step({}, nullptr, false);
  gpu::use(testing_supernet::emulated_gpu());
  Device narrow;
  narrow.bfloat16 = true;
  const Outcome got = step({}), got_close = step(narrow, nullptr, false);
  const std::vector<Outcome> parts = on_two_ranks({});
  gpu::use(nullptr);
  expect_near(got, want, 1e-4);
  expect_near(got_close, close, 0.05);
  EXPECT_NE(got.logits, want.logits);  // others, after all
  for (const Outcome& part : parts) expect_near(part, want, 1e-4);
}

// CUDA has to be found before anything else asks for it.
class FirstOfAll : public testing::Environment {
 public:
  void SetUp() override { EXPECT_TRUE(open_device("auto", "float32").ok()); }
};
const testing::Environment* const kFirstOfAll = testing::AddGlobalTestEnvironment(new FirstOfAll);

// What follows needs a GPU.
class GpuTest : public DeviceTest {
 protected:
  void SetUp() override {
    const StatusOr<Device> gpu = open_device("auto", "float32");
    ASSERT_TRUE(gpu.ok()) << gpu.status();
    if (gpu->gpu < 0) GTEST_SKIP() << "no GPU here";
    gpu_ = *gpu;
    narrow(false);
  }
  void TearDown() override { narrow(true); }

  // TF32 in matrix products and convolutions, the default, has ten bits of mantissa.
  static void narrow(bool wanted) {
    at::globalContext().setAllowTF32CuBLAS(wanted);
    at::globalContext().setAllowTF32CuDNN(wanted);
  }

  Device gpu_;
};

TEST_F(GpuTest, AgreesWithTheCpu) { expect_near(step(gpu_), step({}), 1e-4); }

TEST_F(GpuTest, Tf32AndBfloat16AreClose) {
  const Outcome want = step({}, nullptr, false);
  narrow(true);
  expect_near(step(gpu_, nullptr, false), want, 0.01);
  gpu_.bfloat16 = true;
  const Outcome got = step(gpu_, nullptr, false);
  expect_near(got, want, 0.05);
  EXPECT_NE(got.logits, want.logits);
}

TEST_F(GpuTest, SubnetsAgree) {
  const Batch batch = testing_supernet::random_batch(kImages, kResolution, space_.classes, 1);
  std::vector<std::vector<float>> logits;
  for (const Device& device : {Device(), gpu_}) {
    Supernet net = supernet();
    net.use(device);
    Subnet subnet = net.subnet(archs_[1]);
    subnet.recalibrate(1, [&](int) -> const Batch& { return batch; });
    logits.push_back(subnet.logits(batch));
  }
  for (size_t i = 0; i < logits[0].size(); ++i) EXPECT_NEAR(logits[0][i], logits[1][i], 1e-4);
}

// Five updates, with values written from outside between them as a rollback does.
TEST_F(GpuTest, UpdatesAgree) {
  std::vector<std::vector<float>> ends;
  for (const Device& device : {Device(), gpu_}) {
    Supernet net = supernet();
    net.use(device);
    const Batch batch = testing_supernet::random_batch(kImages, kResolution, space_.classes, 1);
    for (int i = 0; i < 5; ++i) {
      net.clear_gradients();
      net.accumulate(archs_, batch, nullptr, {});
      const double norm = net.gradient_norm();
      EXPECT_GT(norm, 0);
      net.update({.gradient_scale = 1 / norm, .rate = 0.01, .weight_decay = 0.1});
      if (i == 2) net.values()[7] += 0.5f;
      if (i == 3) net.momentum()[9] = 0;
    }
    for (const auto& numbers : {net.values(), net.momentum()}) {
      ends.emplace_back(numbers.begin(), numbers.end());
    }
  }
  for (size_t which : {0, 1}) {
    for (size_t i = 0; i < ends[which].size(); ++i) {
      ASSERT_NEAR(ends[which][i], ends[which + 2][i], 1e-4) << which << " " << i;
    }
  }
}

// The real NCCL, with a world of one.
TEST_F(GpuTest, NcclSumsOnTheDevice) {
  Launch launch;
  launch.master_address = "127.0.0.1";
  launch.master_port = 29517;
  const auto ranks = open_nccl(launch, gpu_.gpu, "");
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  std::vector<float> values = {1, 2, 3};
  (*ranks)->sum(std::span(values));
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ((*ranks)->of_first(7), 7);
}

TEST(OpenDeviceTest, TellsWhatIsMissing) {
  const auto text = [](const char* kind, const char* precision) {
    return std::string(message(open_device(kind, precision).status()));
  };
  EXPECT_THAT(text("gpu", "float32"), HasSubstr("expected auto, cpu or cuda"));
  EXPECT_THAT(text("cpu", "float16"), HasSubstr("expected float32 or bfloat16"));
  EXPECT_THAT(text("cpu", "bfloat16"), HasSubstr("is for GPUs"));
  EXPECT_EQ(open_device("cpu", "float32")->gpu, -1);
  const StatusOr<Device> automatic = open_device("auto", "float32");
  ASSERT_TRUE(automatic.ok()) << automatic.status();
  if (automatic->gpu >= 0) GTEST_SKIP() << "there is a GPU: no CUDA cannot be seen here";
  EXPECT_THAT(text("cuda", "float32"), HasSubstr("no CUDA"));
  EXPECT_EQ(open_device("cuda", "float32").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace chanas
