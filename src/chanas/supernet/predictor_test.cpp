// The fitted predictor, read back by the module that uses it.

#include "chanas/supernet/predictor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/rng.h"
#include "chanas/base/stats.h"
#include "chanas/predict/accuracy.h"

namespace chanas {
namespace {

// Accuracies that depend on genes in a known way, with a little noise.
std::vector<PredictorSample> samples_of(const ArchSpace& space, int count, double noise,
                                        uint64_t seed) {
  Rng rng(seed);
  std::vector<PredictorSample> samples;
  for (int i = 0; i < count; ++i) {
    PredictorSample s{sample(space, rng.choose(space.cells()), rng), 0.6};
    for (size_t b = 0; b < s.arch.depth.size(); ++b) {
      s.accuracy += 0.02 * s.arch.depth[b];
      for (int u = 0; u < s.arch.depth[b]; ++u) {
        const UnitGene& gene =
            s.arch.units[b * static_cast<size_t>(space.max_depth()) + static_cast<size_t>(u)];
        s.accuracy += 0.004 * gene.expand + 0.002 * gene.kernel;
      }
    }
    s.accuracy += 0.001 * s.arch.cell.resolution + noise * rng.normal();
    samples.push_back(s);
  }
  return samples;
}

class PredictorTest : public testing::Test {
 protected:
  ArchSpace space_ = *load_space("demo");
  TemporaryFolder folder_{"predictor"};
  std::string path_ = join_path(folder_.path(), "predictor.safetensors");
  PredictorConfig config_ = [] {
    PredictorConfig config;
    config.hidden = 64;
    config.epochs = 120;
    return config;
  }();
};

TEST_F(PredictorTest, RanksUnseenArchitectures) {
  const auto samples = samples_of(space_, 150, 0.002, 1);
  std::vector<double> shares;
  auto result = fit(space_, samples, config_, path_, [&](double s) { shares.push_back(s); });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->samples, 150);
  EXPECT_GT(result->kendall_tau, 0.8);
  EXPECT_GT(result->spearman, 0.9);
  EXPECT_LT(result->rmse, 0.012);
  EXPECT_NEAR(shares.back(), 1, 1e-9);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));

  auto predictor = AccuracyPredictor::load(space_, path_);
  ASSERT_TRUE(predictor.ok()) << predictor.status();
  EXPECT_EQ(predictor->quality().kendall_tau, result->kendall_tau);
  const auto unseen = samples_of(space_, 200, 0, 2);
  std::vector<Arch> archs;
  std::vector<double> truth;
  for (const PredictorSample& s : unseen) {
    archs.push_back(s.arch);
    truth.push_back(s.accuracy);
  }
  const std::vector<double> predicted = predictor->predict(archs);
  EXPECT_GT(kendall_tau_b(predicted, truth), 0.8);
  double square = 0;
  for (size_t i = 0; i < truth.size(); ++i) square += std::pow(predicted[i] - truth[i], 2);
  // The cross-validated figure is what new architectures get, about.
  EXPECT_LT(std::sqrt(square / 200), 1.5 * result->rmse);
}

// The quality is that on data that was not seen: pure noise has none.
TEST_F(PredictorTest, FindsNothingInNoise) {
  auto samples = samples_of(space_, 100, 0, 1);
  Rng rng(5);
  for (PredictorSample& s : samples) s.accuracy = 0.7 + 0.05 * rng.normal();
  auto result = fit(space_, samples, config_, path_, {});
  ASSERT_TRUE(result.ok());
  EXPECT_LT(std::abs(result->kendall_tau), 0.25);
}

TEST_F(PredictorTest, SameSeedSameFile) {
  const auto samples = samples_of(space_, 40, 0.002, 1);
  config_.epochs = 20;
  ASSERT_TRUE(fit(space_, samples, config_, path_, {}).ok());
  const std::string first = *read_file(path_);
  ASSERT_TRUE(fit(space_, samples, config_, path_, {}).ok());
  EXPECT_EQ(*read_file(path_), first);
}

TEST_F(PredictorTest, RefusesBadInput) {
  auto few = fit(space_, samples_of(space_, 9, 0, 1), config_, path_, {});
  EXPECT_EQ(few.status().code(), absl::StatusCode::kInvalidArgument);
  auto samples = samples_of(space_, 20, 0, 1);
  samples[7].accuracy = 71;
  auto percent = fit(space_, samples, config_, path_, {});
  EXPECT_THAT(std::string(message(percent.status())), testing::HasSubstr("sample 7"));
  samples[7].accuracy = std::nan("");
  EXPECT_FALSE(fit(space_, samples, config_, path_, {}).ok());
  EXPECT_FALSE(file_exists(path_));
  request_cancellation();
  samples[7].accuracy = 0.7;
  EXPECT_TRUE(absl::IsCancelled(fit(space_, samples, config_, path_, {}).status()));
  reset_cancellation();
}

}  // namespace
}  // namespace chanas
