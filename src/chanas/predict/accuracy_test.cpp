// The predictor against a plain double-precision loop over the same file, and files that must be
// refused.

#include "chanas/predict/accuracy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/rng.h"
#include "chanas/graph/safetensors.h"

namespace chanas {
namespace {

using testing::HasSubstr;

ArchSpace space_named(const std::string& name) {
  auto space = load_space(name);
  CHANAS_CHECK(space.ok()) << space.status();
  return *space;
}

Tensor random_tensor(std::vector<int64_t> shape, double scale, Rng& rng) {
  Tensor tensor{std::move(shape), {}};
  int64_t size = 1;
  for (int64_t extent : tensor.shape) size *= extent;
  for (int64_t i = 0; i < size; ++i) {
    tensor.data.push_back(static_cast<float>(scale * rng.normal()));
  }
  return tensor;
}

SafetensorsFile random_file(const ArchSpace& space, const std::vector<int>& hidden, uint64_t seed) {
  SafetensorsFile file;
  Rng rng(seed);
  int in = encoding_size(space);
  std::vector<int> sizes = hidden;
  sizes.push_back(1);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::string name = "layers." + std::to_string(i);
    file.parameters.set(name + ".weight", random_tensor({sizes[i], in}, std::sqrt(2.0 / in), rng));
    file.parameters.set(name + ".bias", random_tensor({sizes[i]}, 0.1, rng));
    in = sizes[i];
  }
  file.metadata = {
      {"space", space_fingerprint(space)},
      {"offset", "0.625"},
      {"quality", R"({"samples": 300, "rmse": 0.0125, "kendall_tau": 0.75, "spearman": 0.875})"}};
  return file;
}

// Straight from the description in accuracy.h, in double precision.
double naive_predict(const SafetensorsFile& file, const ArchSpace& space, const Arch& arch) {
  std::vector<float> code(encoding_size(space));
  encode(space, arch, code.data());
  std::vector<double> x(code.begin(), code.end());
  for (int layer = 0;; ++layer) {
    const std::string name = "layers." + std::to_string(layer);
    const Tensor* weight = file.parameters.find(name + ".weight");
    if (weight == nullptr) break;
    const Tensor* bias = file.parameters.find(name + ".bias");
    std::vector<double> y(weight->shape[0]);
    for (size_t o = 0; o < y.size(); ++o) {
      y[o] = bias->data[o];
      for (size_t i = 0; i < x.size(); ++i) y[o] += double{weight->data[o * x.size() + i]} * x[i];
    }
    bool last = file.parameters.find("layers." + std::to_string(layer + 1) + ".weight") == nullptr;
    if (!last) {
      for (double& v : y) v = std::max(v, 0.0);
    }
    x = y;
  }
  return x[0] + 0.625;
}

std::vector<Arch> random_archs(const ArchSpace& space, int count, uint64_t seed) {
  Rng rng(seed);
  std::vector<Arch> archs;
  for (int i = 0; i < count; ++i) archs.push_back(sample(space, rng.choose(space.cells()), rng));
  return archs;
}

class AccuracyPredictorTest : public testing::Test {
 protected:
  std::string write(const SafetensorsFile& file) {
    std::string path = join_path(folder_.path(), "predictor.safetensors");
    Status status = write_safetensors(path, file);
    CHANAS_CHECK(status.ok()) << status;
    return path;
  }
  void expect_refused(const SafetensorsFile& file, absl::StatusCode code, const std::string& text) {
    auto loaded = AccuracyPredictor::load(space_, write(file));
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.status().code(), code) << loaded.status();
    EXPECT_THAT(std::string(message(loaded.status())), HasSubstr(text));
    EXPECT_THAT(std::string(message(loaded.status())), HasSubstr("predictor.safetensors"));
  }

  TemporaryFolder folder_{"accuracy"};
  ArchSpace space_ = space_named("demo");
};

TEST_F(AccuracyPredictorTest, EqualsNaiveDoubleLoop) {
  struct Case {
    std::string space;
    std::vector<int> hidden;
    int count;
  };
  // Sizes on both sides of panel (16), row group (8) and batch (64).
  for (const Case& c : {Case{"paper", {400, 400, 400}, 131}, Case{"demo", {17, 5}, 9},
                        Case{"demo", {}, 64}, Case{"cifar", {16, 33, 1}, 1}}) {
    ArchSpace space = space_named(c.space);
    SafetensorsFile file = random_file(space, c.hidden, 7);
    auto predictor = AccuracyPredictor::load(space, write(file));
    ASSERT_TRUE(predictor.ok()) << predictor.status();
    std::vector<Arch> archs = random_archs(space, c.count, 3);
    std::vector<double> predicted = predictor->predict(archs);
    ASSERT_EQ(predicted.size(), archs.size());
    for (size_t i = 0; i < archs.size(); ++i) {
      EXPECT_NEAR(predicted[i], naive_predict(file, space, archs[i]), 1e-5) << c.space << " " << i;
    }
  }
}

TEST_F(AccuracyPredictorTest, DoesNotDependOnTheBatch) {
  auto predictor = AccuracyPredictor::load(space_, write(random_file(space_, {400, 400, 400}, 5)));
  ASSERT_TRUE(predictor.ok()) << predictor.status();
  std::vector<Arch> archs = random_archs(space_, 150, 11);
  std::vector<double> all = predictor->predict(archs);
  for (size_t i = 0; i < archs.size(); i += 13) {
    EXPECT_EQ(predictor->predict({&archs[i], 1}).front(), all[i]);
    std::vector<double> tail = predictor->predict(std::span(archs).subspan(i));
    EXPECT_TRUE(std::equal(tail.begin(), tail.end(), all.begin() + i));
  }
  EXPECT_TRUE(predictor->predict({}).empty());
}

TEST_F(AccuracyPredictorTest, IgnoresInactiveGenes) {
  auto predictor = AccuracyPredictor::load(space_, write(random_file(space_, {64}, 5)));
  ASSERT_TRUE(predictor.ok()) << predictor.status();
  for (const Arch& arch : random_archs(space_, 20, 2)) {
    std::vector<double> both = predictor->predict(std::vector<Arch>{arch, canonical(space_, arch)});
    EXPECT_EQ(both[0], both[1]);
  }
}

TEST_F(AccuracyPredictorTest, ReadsQuality) {
  auto predictor = AccuracyPredictor::load(space_, write(random_file(space_, {8}, 5)));
  ASSERT_TRUE(predictor.ok()) << predictor.status();
  EXPECT_EQ(predictor->quality().samples, 300);
  EXPECT_EQ(predictor->quality().rmse, 0.0125);
  EXPECT_EQ(predictor->quality().kendall_tau, 0.75);
  EXPECT_EQ(predictor->quality().spearman, 0.875);
}

TEST_F(AccuracyPredictorTest, RefusesAnotherSpace) {
  SafetensorsFile file = random_file(space_named("cifar"), {8}, 5);
  expect_refused(file, absl::StatusCode::kInvalidArgument, "belongs to space");
}

TEST_F(AccuracyPredictorTest, RefusesAMissingFile) {
  auto loaded = AccuracyPredictor::load(space_, join_path(folder_.path(), "none.safetensors"));
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kNotFound);
}

TEST_F(AccuracyPredictorTest, RefusesEveryTruncation) {
  std::string path = write(random_file(space_, {4}, 5));
  std::string bytes = *read_file(path);
  for (size_t size = 0; size < bytes.size(); size += 7) {
    ASSERT_TRUE(write_file_atomic(path, bytes.substr(0, size)).ok());
    auto loaded = AccuracyPredictor::load(space_, path);
    ASSERT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss) << size << loaded.status();
  }
}

TEST_F(AccuracyPredictorTest, RefusesShapesThatDoNotFit) {
  const SafetensorsFile good = random_file(space_, {8, 8}, 5);
  Rng rng(1);
  auto replaced = [&](const std::string& name, std::vector<int64_t> shape) {
    SafetensorsFile file = good;
    file.parameters.set(name, random_tensor(std::move(shape), 1, rng));
    return file;
  };
  const int64_t in = encoding_size(space_);
  const auto damaged = absl::StatusCode::kDataLoss;
  expect_refused(replaced("layers.0.weight", {8, in + 1}), damaged, "layers.0.weight");
  expect_refused(replaced("layers.0.weight", {8 * in}), damaged, "layers.0.weight");
  expect_refused(replaced("layers.1.weight", {8, 9}), damaged, "layers.1.weight");
  expect_refused(replaced("layers.1.bias", {7}), damaged, "layers.1.bias");
  expect_refused(replaced("layers.2.weight", {2, 8}), damaged, "layers.2.weight");
  SafetensorsFile gap = good;
  gap.parameters.erase("layers.1.weight");
  gap.parameters.erase("layers.1.bias");
  expect_refused(gap, damaged, "layers.1.weight is missing");
  SafetensorsFile extra = replaced("layers.9.weight", {1, 1});
  expect_refused(extra, damaged, "7 tensors");
  SafetensorsFile empty = good;
  empty.parameters = {};
  expect_refused(empty, damaged, "0 tensors");
}

TEST_F(AccuracyPredictorTest, RefusesValuesThatAreNotFinite) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    SafetensorsFile file = random_file(space_, {8}, 5);
    Tensor bias = *file.parameters.find("layers.0.bias");
    bias.data[3] = bad;
    file.parameters.set("layers.0.bias", bias);
    expect_refused(file, absl::StatusCode::kDataLoss, "value 3 is not finite");
  }
}

TEST_F(AccuracyPredictorTest, RefusesBadMetadata) {
  struct Case {
    std::string key, value, text;
  };
  for (const Case& c :
       {Case{"offset", "nan", "offset"}, Case{"offset", "", "offset"},
        Case{"offset", "0.5x", "offset"}, Case{"quality", "{", "quality"},
        Case{"quality", "{\"samples\": 3}", "rmse"}, Case{"quality", "[]", "quality"}}) {
    SafetensorsFile file = random_file(space_, {8}, 5);
    file.metadata[c.key] = c.value;
    expect_refused(file, absl::StatusCode::kDataLoss, c.text);
    file.metadata.erase(c.key);
    expect_refused(file, absl::StatusCode::kDataLoss, c.key);
  }
}

TEST(DenseTest, EveryBuildGivesTheSameBits) {
  Rng rng(4);
  const int in = 37, out = 50, rows = 3 * kDenseRows;
  Tensor weight = random_tensor({out, in}, 1, rng), bias = random_tensor({out}, 1, rng);
  Tensor x = random_tensor({rows, in}, 1, rng);
  DenseLayer layer = pack_dense(in, out, weight.data.data(), bias.data.data());
  for (bool relu : {false, true}) {
    std::vector<float> expected;
    for (const DenseVariant& variant : dense_variants()) {
      std::vector<float> y(rows * layer.padded_out(), -1.0f);
      variant.run(layer, rows, x.data.data(), in, relu, y.data(), layer.padded_out());
      if (expected.empty()) expected = y;
      EXPECT_EQ(y, expected) << variant.name;
    }
    for (int o = 0; o < out; ++o) {
      double sum = bias.data[o];
      for (int i = 0; i < in; ++i) sum += double{weight.data[o * in + i]} * x.data[5 * in + i];
      EXPECT_NEAR(expected[5 * layer.padded_out() + o], relu ? std::max(sum, 0.0) : sum, 1e-4);
    }
  }
}

}  // namespace
}  // namespace chanas
