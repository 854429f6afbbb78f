// The elastic network against plain PyTorch semantics: NCHW convolutions, batch_norm and autograd
// on weights that are cut here by hand, from the description in networks.md rather than by our
// code.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>

#include "chanas/base/rng.h"
#include "chanas/graph/interpreter.h"
#include "chanas/supernet/functions.h"
#include "chanas/supernet/supernet.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

using testing_supernet::random_batch;

ArchSpace test_space() {
  auto space = parse_space(R"(
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
  )",
                           "test_space");
  CHANAS_CHECK(space.ok()) << space.status();
  return *space;
}

// Away from the initial values, where scales are zero and matrices identity.
void scramble(Supernet& supernet, uint64_t seed) {
  Rng rng(seed);
  for (float& value : supernet.values()) value += static_cast<float>(0.05 * rng.normal());
}

// Plain PyTorch over the supernet's named tensors.
struct Plain {
  const ArchSpace& space;
  const Arch& arch;
  std::map<std::string, torch::Tensor> weights;  // leaves

  Plain(const Supernet& supernet, const Arch& a) : space(supernet.space()), arch(a) {
    for (const Supernet::Parameter& p : supernet.parameters()) {
      const auto values = supernet.values().subspan(p.offset, p.size);
      weights[p.name] = torch::tensor(std::vector<float>(values.begin(), values.end()))
                            .view(p.shape)
                            .requires_grad_(true);
    }
  }

  torch::Tensor act(const torch::Tensor& x, Activation activation) const {
    return activate(x, activation);
  }
  torch::Tensor norm(const torch::Tensor& x, const std::string& name) const {
    const int64_t c = x.size(1);
    return torch::batch_norm(x, weights.at(name + ".weight").slice(0, 0, c),
                             weights.at(name + ".bias").slice(0, 0, c), {}, {}, true, 0.1, 1e-5,
                             false);
  }
  torch::Tensor conv1(const torch::Tensor& x, const std::string& name, int64_t out) const {
    return torch::conv2d(x, weights.at(name + ".weight").slice(0, 0, out).slice(1, 0, x.size(1)));
  }

  // 7 -> 5 -> 3: crop, flatten, y_j = sum_i M[j][i] x_i.
  torch::Tensor window(const std::string& prefix, int64_t channels, int kernel) const {
    torch::Tensor w = weights.at(prefix + ".conv.weight").slice(0, 0, channels);
    if (kernel <= 5 && w.size(3) == 7) {
      w = w.slice(2, 1, 6).slice(3, 1, 6).reshape({channels, 25});
      w = torch::matmul(w, weights.at(prefix + ".transform.7to5").t()).view({channels, 1, 5, 5});
    }
    if (kernel == 3 && w.size(3) == 5) {
      w = w.slice(2, 1, 4).slice(3, 1, 4).reshape({channels, 9});
      w = torch::matmul(w, weights.at(prefix + ".transform.5to3").t()).view({channels, 1, 3, 3});
    }
    return w;
  }

  torch::Tensor unit(const torch::Tensor& input, int slot, int expand, int kernel, int stride,
                     int64_t out, bool se, Activation a, bool has_expand) const {
    const std::string prefix = "units." + std::to_string(slot);
    const int64_t mid =
        has_expand ? make_divisible(std::round(input.size(1) * expand), 8) : input.size(1);
    torch::Tensor x = input;
    if (has_expand) x = act(norm(conv1(x, prefix + ".expand.conv", mid), prefix + ".expand.bn"), a);
    x = torch::conv2d(x, window(prefix + ".depthwise", mid, kernel), {}, stride, kernel / 2, 1,
                      mid);
    x = act(norm(x, prefix + ".depthwise.bn"), a);
    if (se) {
      const int64_t squeeze = make_divisible(static_cast<double>(mid) / 4, 8);
      torch::Tensor s = torch::adaptive_avg_pool2d(x, {1, 1});
      s = torch::relu(
          conv1(s, prefix + ".se.reduce", squeeze) +
          weights.at(prefix + ".se.reduce.bias").slice(0, 0, squeeze).view({1, -1, 1, 1}));
      s = conv1(s, prefix + ".se.expand", mid) +
          weights.at(prefix + ".se.expand.bias").slice(0, 0, mid).view({1, -1, 1, 1});
      x = x * (torch::relu6(s + 3) / 6);
    }
    x = norm(conv1(x, prefix + ".project.conv", out), prefix + ".project.bn");
    return stride == 1 && input.size(1) == out ? x + input : x;
  }

  torch::Tensor logits(const Batch& batch) const {
    torch::Tensor x = torch::tensor(batch.images)
                          .view({batch.n, batch.resolution, batch.resolution, 3})
                          .permute({0, 3, 1, 2})
                          .contiguous();
    const auto scaled = [&](int channels) { return make_divisible(channels * arch.cell.width, 8); };
    x = torch::conv2d(x, weights.at("stem.conv.weight").slice(0, 0, scaled(space.stem_channels)),
                      {}, space.stem_stride, 1);
    x = act(norm(x, "stem.bn"), space.stem_act);
    x = unit(x, 0, 1, 3, space.first_stride, scaled(space.first_channels), false, space.first_act,
             false);
    for (size_t b = 0; b < space.blocks.size(); ++b) {
      const BlockSpec& block = space.blocks[b];
      for (int u = 0; u < arch.depth[b]; ++u) {
        const size_t gene = b * static_cast<size_t>(space.max_depth()) + static_cast<size_t>(u);
        x = unit(x, 1 + static_cast<int>(gene), arch.units[gene].expand, arch.units[gene].kernel,
                 u == 0 ? block.stride : 1, scaled(block.channels), block.se, block.act, true);
      }
    }
    x = act(norm(conv1(x, "head.conv", scaled(space.head_channels)), "head.bn"), space.head_act);
    x = torch::adaptive_avg_pool2d(x, {1, 1});
    x = act(conv1(x, "mix", scaled(space.mix_channels)), space.head_act);
    return (conv1(x, "classifier", space.classes) +
            weights.at("classifier.bias").view({1, -1, 1, 1}))
        .flatten(1);
  }
};

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
    EXPECT_LT(relative(ours, Plain(supernet, arch).logits(batch)), 1e-4) << arch_id(space, arch);
  }
}

// The whole sandwich: hard labels, soft labels of the first network, sum of gradients.
TEST(SupernetDifferentialTest, GradientsEqualPlainPyTorch) {
  const ArchSpace space = test_space();
  for (const bool gap : {false, true}) {
    Supernet supernet(space, 1, true);
    scramble(supernet, 3);
    Rng rng(9);
    const SubSpace cell{16, 1.3};
    const std::vector<Arch> archs = {largest(space, cell), sample(space, cell, rng),
                                     smallest(space, {16, 1.0})};
    const Batch batch = random_batch(8, 16, space.classes, 11);
    const Batch other = random_batch(8, 16, space.classes, 12);
    LossOptions options;
    options.label_smoothing = 0.1;
    options.gap_lambda = 0.45;
    const StepLoss loss = supernet.accumulate(archs, batch, gap ? &other : nullptr, options);

    std::map<std::string, torch::Tensor> sums;
    torch::Tensor soft, soft_other;
    double gaps = 0;
    for (size_t i = 0; i < archs.size(); ++i) {
      const Plain plain(supernet, archs[i]);
      const auto loss_of = [&](const Batch& images, torch::Tensor& teacher) {
        const torch::Tensor logits = plain.logits(images);
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
      for (const auto& [name, tensor] : plain.weights) {
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

// networks.md, check 17.
TEST(SupernetDifferentialTest, IdentityMatricesAreTheCentreCrop) {
  const ArchSpace space = test_space();
  const Supernet transformed(space, 1, true), cropped(space, 1, false);
  Rng rng(2);
  for (int i = 0; i < 4; ++i) {
    const Arch arch = sample(space, rng.choose(space.cells()), rng);
    const Batch batch = random_batch(4, arch.cell.resolution, space.classes, 3);
    EXPECT_EQ(transformed.batch_logits(arch, batch), cropped.batch_logits(arch, batch));
  }
  EXPECT_EQ(transformed.values().size() - cropped.values().size(), size_t{6 * 706});
}

// networks.md, check 20: what a network leaves out cannot touch it.
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

// networks.md, check 19: the exported weights, run by the graph's reference interpreter.
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
      const auto begin = batch.images.begin() + image * r * r * 3;
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
