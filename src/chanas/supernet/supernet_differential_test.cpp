// The elastic network against plain PyTorch semantics: NCHW convolutions, batch_norm and autograd
// on weights that are cut by the description of the space rather than by our code (plain.h).

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <map>

#include "chanas/base/rng.h"
#include "chanas/graph/interpreter.h"
#include "chanas/supernet/plain.h"
#include "chanas/supernet/supernet.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

using testing_supernet::random_batch;

ArchSpace test_space() {
  return testing_supernet::space_of("test_space", R"(
    classes = 7
    resolutions = [12, 16]
    widths = [1.0, 1.3]
    kernels = [3, 5, 7]
    expands = [3, 4, 6]
    depths = [1, 2, 3]
    stem = { channels = 8, stride = 1, act = "hswish" }
    first = { channels = 8, act = "relu" }
    blocks = [
      { channels = 16, stride = 2, act = "relu" },
      { channels = 24, stride = 2, se = true, act = "hswish" },
    ]
    head = { channels = 32, mix = 40, act = "hswish", dropout = 0.0 }
  )");
}

// Away from the initial values, where scales are zero and matrices identity.
void scramble(Supernet& supernet, uint64_t seed) {
  Rng rng(seed);
  for (float& value : supernet.values()) value += static_cast<float>(0.05 * rng.normal());
}

double relative(const torch::Tensor& a, const torch::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-6)).item<double>();
}

TEST(SupernetDifferentialTest, LogitsEqualPlainPyTorch) {
  const ArchSpace space = test_space();
  Supernet supernet(space, 1, true);
  scramble(supernet, 2);
  Rng rng(5);
  for (int i = 0; i < 12; ++i) {
    Arch arch = sample(space, rng.choose(space.cells()), rng);
    if (i == 0) arch = largest(space);
    if (i == 1) arch = smallest(space);
    const Batch batch = random_batch(6, arch.cell.resolution, space.classes, 7);
    const torch::Tensor ours =
        torch::tensor(supernet.batch_logits(arch, batch)).view({batch.n, space.classes});
    EXPECT_LT(relative(ours, plain_logits(space, plain_weights(supernet), arch,
                                          plain_images(batch, arch.cell.resolution, false))),
              1e-4)
        << arch_id(space, arch);
  }
}

// Scales and shifts are each resolution's own, all other weights are shared.
TEST(SupernetDifferentialTest, NormalisationIsOfOneResolution) {
  const ArchSpace space = test_space();
  Supernet supernet(space, 1, true);
  scramble(supernet, 3);
  supernet.clear_gradients();
  supernet.accumulate({largest(space, {12, 1.3})}, random_batch(8, 12, space.classes, 11), nullptr,
                      {});
  int learns = 0, stays = 0;
  for (const Supernet::Parameter& p : supernet.parameters()) {
    if (p.name.find(".bn.") == std::string::npos) continue;
    const auto gradient = supernet.gradients().subspan(p.offset, p.size);
    const bool moves = std::ranges::any_of(gradient, [](float g) { return g != 0; });
    EXPECT_EQ(moves, p.name.find(".r12.") != std::string::npos) << p.name;
    ++(moves ? learns : stays);
  }
  EXPECT_GT(learns, 0);
  EXPECT_EQ(learns, stays);
}

// The whole sandwich: hard labels, soft labels of the first network for networks that see the same
// images in another resolution, sum of gradients.
TEST(SupernetDifferentialTest, GradientsEqualPlainPyTorch) {
  const ArchSpace space = test_space();
  for (const bool gap : {false, true}) {
    Supernet supernet(space, 1, true);
    scramble(supernet, 3);
    Rng rng(9);
    const SubSpace cell{16, 1.3};
    const std::vector<Arch> archs = {largest(space, cell), sample(space, cell, rng),
                                     smallest(space, {12, 1.0})};
    Batch batch = random_batch(8, 16, space.classes, 11);
    Batch other = random_batch(8, 16, space.classes, 12);
    batch.images.merge(random_batch(8, 12, space.classes, 13).images);
    other.images.merge(random_batch(8, 12, space.classes, 14).images);
    LossOptions options;
    options.label_smoothing = 0.1;
    options.gap_lambda = 0.45;
    const StepLoss loss = supernet.accumulate(archs, batch, gap ? &other : nullptr, options);

    std::map<std::string, torch::Tensor> sums;
    torch::Tensor soft, soft_other;
    double gaps = 0;
    for (size_t i = 0; i < archs.size(); ++i) {
      const PlainWeights weights = plain_weights(supernet);
      const auto loss_of = [&](const Batch& images, torch::Tensor& teacher) {
        const torch::Tensor logits = plain_logits(
            space, weights, archs[i], plain_images(images, archs[i].cell.resolution, false));
        if (i > 0) return torch::nn::functional::cross_entropy(logits, teacher);
        teacher = torch::softmax(logits.detach(), 1);
        std::vector<int64_t> labels(images.labels.begin(), images.labels.end());
        return torch::nn::functional::cross_entropy(
            logits, torch::tensor(labels),
            torch::nn::functional::CrossEntropyFuncOptions().label_smoothing(0.1));
      };
      torch::Tensor total = loss_of(batch, soft);
      if (i == 0) {
        EXPECT_NEAR(loss.loss, total.item<double>(), 1e-4);
      }
      if (gap) {
        const torch::Tensor second = loss_of(other, soft_other);
        gaps += (second - total).item<double>() / static_cast<double>(archs.size());
        total = total + 0.45 * (second - total).abs();
      }
      total.backward();
      for (const auto& [name, tensor] : weights) {
        if (!tensor.grad().defined()) continue;
        sums[name] = sums.count(name) ? sums[name] + tensor.grad() : tensor.grad();
      }
    }
    EXPECT_NEAR(loss.gap, gaps, 1e-4);
    for (const Supernet::Parameter& p : supernet.parameters()) {
      const auto range = supernet.gradients().subspan(p.offset, p.size);
      const torch::Tensor ours =
          torch::tensor(std::vector<float>(range.begin(), range.end())).view(p.shape);
      if (sums.count(p.name) == 0) {
        EXPECT_EQ(ours.abs().max().item<double>(), 0) << p.name << " was in no network";
        continue;
      }
      // Biases before a batch normalisation's mean have no gradient but rounding.
      const double scale = std::max(1e-3, sums[p.name].abs().max().item<double>());
      EXPECT_LT((ours - sums[p.name]).abs().max().item<double>() / scale, 2e-3) << p.name;
    }
  }
}

TEST(SupernetDifferentialTest, IdentityMatricesAreTheCentreCrop) {
  const ArchSpace space = test_space();
  const Supernet transformed(space, 1, true), cropped(space, 1, false);
  Rng rng(2);
  for (int i = 0; i < 4; ++i) {
    const Arch arch = sample(space, rng.choose(space.cells()), rng);
    const Batch batch = random_batch(4, arch.cell.resolution, space.classes, 3);
    EXPECT_EQ(transformed.batch_logits(arch, batch), cropped.batch_logits(arch, batch));
  }
  const auto numbers = [](const Supernet& net) {
    size_t sum = 0;
    for (const Supernet::Parameter& p : net.parameters()) sum += p.size;
    return sum;
  };
  EXPECT_EQ(numbers(transformed) - numbers(cropped), size_t{6 * 706});
}

// What a network leaves out cannot touch it.
TEST(SupernetDifferentialTest, UnusedWeightsMayBeNan) {
  const ArchSpace space = test_space();
  Supernet supernet(space, 1, true);
  Arch arch = smallest(space);
  const Batch batch = random_batch(4, arch.cell.resolution, space.classes, 3);
  const std::vector<float> before = supernet.batch_logits(arch, batch);
  size_t poisoned = 0;
  for (const Supernet::Parameter& p : supernet.parameters()) {
    for (const int slot : {2, 3, 5, 6}) {  // second and third unit of both blocks
      if (!p.name.starts_with("units." + std::to_string(slot) + ".")) continue;
      const auto range = supernet.values().subspan(p.offset, p.size);
      std::fill(range.begin(), range.end(), std::numeric_limits<float>::quiet_NaN());
      poisoned += p.size;
    }
  }
  EXPECT_GT(poisoned, supernet.values().size() / 2);
  EXPECT_EQ(supernet.batch_logits(arch, batch), before);
  for (const float logit : supernet.batch_logits(largest(space), random_batch(2, 16, 7, 1))) {
    EXPECT_TRUE(std::isnan(logit));
  }
}

// The exported weights, run by the graph's reference interpreter.
TEST(SupernetDifferentialTest, ExportedSubnetEqualsInterpreter) {
  const ArchSpace space = test_space();
  Supernet supernet(space, 1, true);
  scramble(supernet, 4);
  Rng rng(6);
  for (int i = 0; i < 6; ++i) {
    const Arch arch = i == 0 ? largest(space) : sample(space, rng.choose(space.cells()), rng);
    const int r = arch.cell.resolution;
    Subnet subnet = supernet.subnet(arch);
    const Batch calibration = random_batch(16, r, space.classes, 3);
    subnet.recalibrate(1, [&](int) -> const Batch& { return calibration; });
    const Parameters parameters = subnet.parameters();
    const Graph graph = lower(subnet.network());
    ASSERT_TRUE(check_parameters(graph, parameters).ok());
    int64_t count = 0;
    for (const auto& [name, tensor] : parameters.items) {
      if (!name.ends_with("running_mean") && !name.ends_with("running_var")) {
        count += static_cast<int64_t>(tensor.data.size());
      }
    }
    EXPECT_EQ(count, params(to_network(space, arch)));

    const Batch batch = random_batch(2, r, space.classes, 8);
    const std::vector<float> logits = subnet.logits(batch);
    const Subnet again(subnet.network(), parameters);
    EXPECT_EQ(again.logits(batch), logits);
    double largest_logit = 0;
    for (const float v : logits) largest_logit = std::max(largest_logit, std::abs(double{v}));
    for (int image = 0; image < batch.n; ++image) {
      const auto begin = batch.images.at(r).begin() + image * r * r * 3;
      const std::vector<float> output =
          interpret(graph, parameters, {{begin, begin + r * r * 3}}).back();
      for (int c = 0; c < space.classes; ++c) {
        EXPECT_NEAR(output[static_cast<size_t>(c)],
                    logits[static_cast<size_t>(image * space.classes + c)], 1e-5 * largest_logit);
      }
    }
  }
}

}  // namespace
}  // namespace chanas
