// Prints how many architectures evolution evaluates per second with a full-size predictor
// (125-400-400-400-1). Checks that it finishes, not how fast.

#include <gtest/gtest.h>

#include <cstdio>
#include <ctime>

#include "chanas/base/file.h"
#include "chanas/graph/safetensors.h"
#include "chanas/predict/accuracy.h"
#include "chanas/search/testing_toy.h"

namespace chanas {
namespace {

AccuracyPredictor full_size_predictor(const ArchSpace& space) {
  SafetensorsFile file;
  Rng rng(1);
  int64_t in = encoding_size(space);
  const std::vector<int64_t> outs = {400, 400, 400, 1};
  for (size_t i = 0; i < outs.size(); ++i) {
    Tensor weight{{outs[i], in}, {}}, bias{{outs[i]}, std::vector<float>(outs[i], 0.0f)};
    for (int64_t k = 0; k < outs[i] * in; ++k) {
      weight.data.push_back(static_cast<float>(0.05 * rng.normal()));
    }
    file.parameters.set(fmt::format("layers.{}.weight", i), std::move(weight));
    file.parameters.set(fmt::format("layers.{}.bias", i), std::move(bias));
    in = outs[i];
  }
  file.metadata = {{"space", space_fingerprint(space)},
                   {"offset", "0.7"},
                   {"quality", R"({"samples":1,"rmse":0,"kendall_tau":0,"spearman":0})"}};
  TemporaryFolder folder("perf");
  const std::string path = join_path(folder.path(), "predictor.safetensors");
  CHANAS_CHECK(write_safetensors(path, file).ok());
  auto predictor = AccuracyPredictor::load(space, path);
  CHANAS_CHECK(predictor.ok()) << predictor.status();
  return *predictor;
}

TEST(EvolvePerf, ArchitecturesPerSecond) {
  Toy toy(space_named("paper"), 1);
  AccuracyPredictor predictor = full_size_predictor(toy.space());
  Evaluators evaluators = toy.evaluators();
  evaluators.accuracy = [&](std::span<const Arch> archs) { return predictor.predict(archs); };
  // Processor time: other work on the machine should not show.
  auto seconds = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  double best_rate = 0;
  for (int round = 0; round < 3; ++round) {
    const double start = seconds();
    auto result = evolve(toy.space(), toy.cell(), evaluators, 350, {}, nullptr);
    const double spent = seconds() - start;
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GT(result->evaluations, 5000);
    best_rate = std::max(best_rate, static_cast<double>(result->evaluations) / spent);
  }
  std::printf("evolution: %.0f architectures per second of one core (goal 20,000)\n", best_rate);
}

}  // namespace
}  // namespace chanas
