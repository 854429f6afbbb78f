// Prints how many architectures evolution evaluates per second with a full-size predictor
// (400-400-400-1). Checks that it finishes, not how fast.

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

// Architectures per second of processor time: other work on the machine should not show.
double evolution_rate(Toy& toy, double limit_us, int64_t least_evaluations) {
  AccuracyPredictor predictor = full_size_predictor(toy.space());
  Evaluators evaluators = toy.evaluators();
  evaluators.accuracy = [&](std::span<const Arch> archs) { return predictor.predict(archs); };
  auto seconds = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  double best_rate = 0;
  for (int round = 0; round < 3; ++round) {
    const double start = seconds();
    auto result = evolve(toy.space(), toy.cell(), evaluators, limit_us, {}, nullptr);
    const double spent = seconds() - start;
    CHANAS_CHECK(result.ok()) << result.status();
    EXPECT_GT(result->evaluations, least_evaluations);
    best_rate = std::max(best_rate, static_cast<double>(result->evaluations) / spent);
  }
  std::printf("evolution in %s: %.0f architectures per second of one core (goal 20,000)\n",
              toy.space().name.c_str(), best_rate);
  return best_rate;
}

TEST(EvolvePerf, LargeCell) {
  Toy toy(space_named("paper"), 1);
  evolution_rate(toy, 350, 5000);
}

// Nearly all of a small cell gets evaluated: most of what breeding draws has been seen before.
TEST(EvolvePerf, SmallCell) {
  Toy toy(space_named("demo"), 1);
  const Arch middle = largest(toy.space(), toy.cell());
  evolution_rate(toy, 0.6 * toy.evaluators().latency_us(middle), 100);
}

}  // namespace
}  // namespace chanas
