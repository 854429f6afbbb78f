// Layers, losses and ten whole steps against values of plain PyTorch, made once by
// testdata/make_reference.py.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "chanas/graph/safetensors.h"
#include "chanas/supernet/functions.h"
#include "chanas/supernet/losses.h"
#include "chanas/supernet/testing.h"

namespace chanas {
namespace {

class ReferenceTest : public testing::Test {
 protected:
  void open(const std::string& name) {
    auto file =
        read_safetensors(std::string(CHANAS_SOURCE_DIR) + "/src/chanas/supernet/testdata/" + name);
    ASSERT_TRUE(file.ok()) << file.status();
    values_ = std::move(file->parameters);
  }
  const Tensor& plain(const std::string& name) const {
    const Tensor* tensor = values_.find(name);
    CHANAS_CHECK(tensor != nullptr) << name;
    return *tensor;
  }
  at::Tensor at(const std::string& name) const {
    const Tensor& t = plain(name);
    return torch::tensor(t.data).view(t.shape);
  }
  at::Tensor leaf(const std::string& name) const { return at(name).requires_grad_(true); }
  void expect_near(const at::Tensor& ours, const std::string& name, double tolerance = 1e-5) const {
    const at::Tensor theirs = at(name);
    ASSERT_EQ(ours.sizes(), theirs.sizes()) << name;
    const double scale = std::max(1.0, theirs.abs().max().item<double>());
    EXPECT_LT((ours - theirs).abs().max().item<double>(), tolerance * scale) << name;
  }

  Parameters values_;
};

TEST_F(ReferenceTest, Depthwise) {
  open("layers.safetensors");
  for (const std::string name : {"3/1", "3/2", "5/1", "5/2", "7/1", "7/2"}) {
    const std::string c = "depthwise/" + name + "/";
    const at::Tensor x = leaf(c + "x"), weight = leaf(c + "weight");
    const at::Tensor y = depthwise(x, weight, name[2] - '0');
    expect_near(y, c + "y");
    y.backward(at(c + "d_y"));
    expect_near(x.grad(), c + "d_x");
    expect_near(weight.grad(), c + "d_weight");
  }
}

TEST_F(ReferenceTest, BatchNorm) {
  open("layers.safetensors");
  for (const std::string name : {"batch_norm/none", "batch_norm/relu", "batch_norm/relu6",
                                 "batch_norm/hswish", "batch_norm_residual/none"}) {
    const std::string c = name + "/";
    const bool residual = values_.find(c + "residual") != nullptr;
    const at::Tensor x = leaf(c + "x"), weight = leaf(c + "weight"), bias = leaf(c + "bias");
    const at::Tensor other = residual ? leaf(c + "residual") : at::Tensor();
    at::Tensor mean, variance;
    const at::Tensor y =
        batch_norm(x, weight, bias, 1e-5, *parse_activation(name.substr(name.find('/') + 1)), other,
                   &mean, &variance);
    expect_near(y, c + "y");
    y.backward(at(c + "d_y"));
    expect_near(x.grad(), c + "d_x");
    expect_near(weight.grad(), c + "d_weight");
    expect_near(bias.grad(), c + "d_bias");
    if (residual) expect_near(other.grad(), c + "d_residual");
  }
}

TEST_F(ReferenceTest, SqueezeExcite) {
  open("layers.safetensors");
  for (const std::string gate : {"sigmoid", "hsigmoid"}) {
    const std::string c = "squeeze_excite/" + gate + "/";
    std::vector<at::Tensor> leaves;
    const std::vector<std::string> names = {"x", "reduce_weight", "reduce_bias", "expand_weight",
                                            "expand_bias"};
    for (const std::string& name : names) leaves.push_back(leaf(c + name));
    const at::Tensor y = squeeze_excite(leaves[0], leaves[1], leaves[2], leaves[3], leaves[4],
                                        *parse_activation(gate));
    expect_near(y, c + "y");
    y.backward(at(c + "d_y"));
    for (size_t i = 0; i < names.size(); ++i) {
      expect_near(leaves[i].grad(), c + "d_" + names[i]);
    }
  }
}

TEST_F(ReferenceTest, Losses) {
  open("layers.safetensors");
  std::vector<int> labels;
  for (const float label : plain("loss/labels").data) labels.push_back(static_cast<int>(label));
  const at::Tensor hard = smooth_targets(labels, 5, 0.1);
  const at::Tensor soft = at::softmax(at("loss/teacher"), 1);
  const std::map<std::string, GapTerm> gaps = {{"absolute", GapTerm::kAbsolute},
                                               {"one_sided", GapTerm::kOneSided},
                                               {"stop_loss", GapTerm::kStopLoss},
                                               {"stop_other", GapTerm::kStopOther}};
  for (const std::string sign : {"above", "below"}) {
    for (const std::string kind :
         {"label", "soft", "absolute", "one_sided", "stop_loss", "stop_other"}) {
      const std::string c = "loss/" + kind + "/" + sign + "/";
      const at::Tensor x = leaf(c + "x"), other = leaf(c + "other");
      at::Tensor loss = cross_entropy(x, kind == "soft" ? soft : hard);
      if (gaps.count(kind) != 0) {
        loss = with_gap(loss, cross_entropy(other, hard), gaps.at(kind), 0.45);
      }
      expect_near(loss, c + "y");
      loss.backward();
      expect_near(x.grad(), c + "d_x");
      expect_near(other.grad().defined() ? other.grad() : at::zeros_like(other), c + "d_other");
    }
  }
}

TEST_F(ReferenceTest, AlphaDivergence) {
  open("layers.safetensors");
  for (const std::string clip : {"2", "5", "1000"}) {
    const std::string c = "alpha/" + clip + "/";
    const at::Tensor x = leaf(c + "x");
    const at::Tensor loss = alpha_divergence(x, at("loss/teacher"), std::stod(clip));
    expect_near(loss, c + "y", 1e-4);
    loss.backward();
    expect_near(x.grad(), c + "d_x", 1e-4);
  }
  // Of itself: nothing, and no slope.
  const at::Tensor same = leaf("loss/teacher");
  const at::Tensor loss = alpha_divergence(same, at("loss/teacher"), 5);
  loss.backward();
  EXPECT_NEAR(loss.item<double>(), 0, 1e-6);
  EXPECT_NEAR(same.grad().abs().max().item<double>(), 0, 1e-6);
}

// Against float64: no further from it than twice as far as PyTorch's own float32 strays, give or
// take the last bits of a number near 1.
TEST_F(ReferenceTest, TenStepsOfTheSandwich) {
  constexpr double kLastBits = 3e-7;
  open("steps.safetensors");
  ArchSpace space = testing_supernet::tiny_space();
  space.dropout = 0;
  space.resolutions = {12};
  for (const std::string kind : {"plain", "gap"}) {
    Supernet supernet(space, 1, true);
    for (const Supernet::Parameter& p : supernet.parameters()) {
      const Tensor& from = plain("weight/" + p.name);
      ASSERT_EQ(from.shape, p.shape) << p.name;
      std::copy(from.data.begin(), from.data.end(), &supernet.values()[p.offset]);
    }
    const auto tolerance = [&](const std::string& name) {
      return 2 * double{plain(name + "_rounding/" + kind).data[0]} + kLastBits;
    };
    for (int step = 0; step < 10; ++step) {
      const std::string n = std::to_string(step);
      const std::vector<float>& genes = plain("arch/" + n).data;
      Arch random;
      random.cell = {12, genes[0] > 1.1f ? 1.3 : 1.0};
      random.depth = {static_cast<int>(genes[1]), static_cast<int>(genes[2])};
      for (size_t i = 3; i < genes.size(); i += 2) {
        random.units.push_back({static_cast<int>(genes[i]), static_cast<int>(genes[i + 1])});
      }
      ASSERT_TRUE(validate(space, random).ok()) << validate(space, random);
      const auto half = [&](size_t part) {
        const std::vector<float>&images = plain("images/" + n).data,
              &labels = plain("labels/" + n).data;
        Batch batch{6, {}, {}};
        const size_t size = images.size() / 2;
        batch.images[12].assign(images.begin() + static_cast<std::ptrdiff_t>(part * size),
                                images.begin() + static_cast<std::ptrdiff_t>((part + 1) * size));
        for (size_t i = 0; i < 6; ++i) {
          batch.labels.push_back(static_cast<int>(labels[part * 6 + i]));
        }
        return batch;
      };
      const Batch batch = half(0), other = half(1);
      supernet.clear_gradients();
      const StepLoss loss =
          supernet.accumulate({largest(space, {12, 1.3}), random, smallest(space, {12, 1.0})},
                              batch, kind == "gap" ? &other : nullptr, {});
      EXPECT_NEAR(loss.loss, plain("losses/" + kind).data[static_cast<size_t>(step)],
                  tolerance("losses"))
          << kind << " step " << step;
      supernet.update({.rate = 0.05, .momentum = 0.9, .weight_decay = 3e-5});
    }
    size_t compared = 0;
    for (const Supernet::Parameter& p : supernet.parameters()) {
      const Tensor* end = values_.find("end/" + kind + "/" + p.name);
      if (end == nullptr) continue;  // too large to be kept
      ++compared;
      for (size_t i = 0; i < p.size; ++i) {
        ASSERT_NEAR(supernet.values()[p.offset + i], end->data[i], tolerance("end"))
            << kind << " " << p.name << " " << i;
      }
    }
    EXPECT_GT(compared, size_t{40});
  }
}

}  // namespace
}  // namespace chanas
