// The whole road with real kernels: chanas-kernel compiles, checks against the reference
// interpreter, and times.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "chanas/base/file.h"
#include "chanas/codegen/codegen.h"
#include "chanas/measure/measure.h"

namespace chanas {
namespace {

std::unique_ptr<Runner> make() {
  auto runner = make_local_runner();
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

Network small_network() {
  Network network;
  network.name = "small";
  network.resolution = 32;
  network.units = {
      {.h_in = 16,
       .c_in = 16,
       .c_mid = 48,
       .c_out = 16,
       .kernel = 5,
       .se_channels = 16,
       .residual = true},
      {.h_in = 16, .c_in = 16, .c_mid = 64, .c_out = 24, .stride = 2, .act = Activation::kHSwish}};
  network.head = {.conv_channels = 96, .mix_channels = 64, .classes = 10};
  EXPECT_TRUE(validate(network).ok()) << validate(network);
  return network;
}

TEST(HostTriple, OursIsHalides) { EXPECT_EQ(local_target()->triple, host_triple()); }

TEST(Kernels, EveryWorkloadOfANetworkUnderDefaultAndRandomSchedules) {
  std::unique_ptr<Runner> runner = make();
  for (int threads : {1, 2}) {
    if (threads > runner->target().cores) continue;
    std::vector<Candidate> candidates;
    std::set<std::string> seen;
    Rng rng(static_cast<uint64_t>(threads));
    for (const Element& element : elements(small_network())) {
      for (const Cut& cut : element.cuts) {
        for (const Group& group : cut.groups) {
          if (!seen.insert(group.workload.fingerprint()).second) continue;
          ScheduleSpace space = schedule_space(group.workload, runner->target(), threads);
          candidates.push_back({group.workload, default_schedule(space)});
          candidates.push_back({group.workload, random_schedule(space, rng)});
        }
      }
    }
    auto results = runner->measure(candidates, {.threads = threads, .cold_bytes = 1 << 20});
    ASSERT_TRUE(results.ok()) << results.status();
    for (size_t i = 0; i < candidates.size(); ++i) {
      const MeasureResult& result = (*results)[i];
      std::string what = candidates[i].workload.describe();
      if (result.error == TrialError::kUnstable) continue;  // a busy machine
      EXPECT_TRUE(result.ok()) << what << ": " << trial_error_name(result.error) << ", "
                               << result.message;
      EXPECT_LT(result.relative_error, 1e-4) << what;
      EXPECT_GT(result.latency_us, 0) << what;
      EXPECT_GT(result.compile_s, 0) << what;
    }
  }
}

TEST(Kernels, ANetworkAndItsStages) {
  std::unique_ptr<Runner> runner = make();
  for (int threads : {1, 2}) {
    if (threads > runner->target().cores) continue;
    ExecutionPlan plan =
        default_plan(cut_network(small_network()), runner->target(), threads).value();
    auto m = runner->measure_network(plan, 50);
    ASSERT_TRUE(m.ok()) << m.status();
    EXPECT_EQ(m->samples_us.size(), 50u);
    ASSERT_EQ(m->stage_us.size(), plan.stages.size());
    double sum = 0;
    for (double us : m->stage_us) sum += us;
    EXPECT_GT(m->min_us, 0);
    // Medians of parts against the median of the whole: far apart only when stamps are wrong.
    EXPECT_GT(sum, 0.3 * m->median_us);
    EXPECT_LT(sum, 3 * m->median_us);
  }
}

TEST(Kernels, ObjectsOfEveryStage) {
  TemporaryFolder folder("chanas-test");
  ExecutionPlan plan = default_plan(cut_network(small_network()), *local_target(), 1).value();
  auto objects = compile_stage_objects(plan, "net", folder.path());
  ASSERT_TRUE(objects.ok()) << objects.status();
  ASSERT_EQ(objects->size(), plan.stages.size());
  for (const StageObject& object : *objects) {
    std::string bytes = read_file(object.path).value();
    EXPECT_EQ(bytes.substr(0, 4),
              "\x7f"
              "ELF");
    EXPECT_NE(bytes.find(object.symbol), std::string::npos);
  }
}

}  // namespace
}  // namespace chanas
