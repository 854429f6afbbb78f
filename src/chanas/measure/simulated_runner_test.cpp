#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "chanas/base/cancellation.h"
#include "chanas/measure/measure.h"

namespace chanas {
namespace {

Workload small_workload(int c_out = 48) {
  Unit unit{.h_in = 14, .c_in = 32, .c_mid = 96, .c_out = c_out, .kernel = 3};
  return unit_element(unit).cuts[0].groups[0].workload;
}

TEST(SimulatedRunner, IsAFunctionOfItsArguments) {
  std::unique_ptr<Runner> a = make_simulated_runner(), b = make_simulated_runner();
  ScheduleSpace space = schedule_space(small_workload(), a->target(), 1);
  Rng rng(7);
  std::vector<Candidate> candidates;
  for (int i = 0; i < 20; ++i) candidates.push_back({space.workload, random_schedule(space, rng)});
  const MeasurePlan plan{.samples = 9};
  auto first = a->measure(candidates, plan);
  auto second = b->measure(candidates, plan);
  ASSERT_TRUE(first.ok() && second.ok());
  for (size_t i = 0; i < candidates.size(); ++i) {
    EXPECT_TRUE((*first)[i].ok());
    EXPECT_GT((*first)[i].latency_us, 0);
    EXPECT_EQ((*first)[i].latency_us, (*second)[i].latency_us);
    EXPECT_EQ((*first)[i].samples_us.size(), 9u);
  }
}

TEST(SimulatedRunner, SchedulesMatterAndMoreWorkTakesLonger) {
  std::unique_ptr<Runner> runner = make_simulated_runner();
  auto best_and_worst = [&](const Workload& workload) {
    ScheduleSpace space = schedule_space(workload, runner->target(), 1);
    Rng rng(3);
    double best = 1e30, worst = 0;
    for (int i = 0; i < 200; ++i) {
      std::vector<Candidate> one = {{workload, random_schedule(space, rng)}};
      double us = runner->measure(one, {}).value()[0].latency_us;
      best = std::min(best, us);
      worst = std::max(worst, us);
    }
    return std::pair(best, worst);
  };
  auto [best, worst] = best_and_worst(small_workload());
  EXPECT_GT(worst, 1.3 * best);
  EXPECT_LT(worst, 100 * best);
  Unit larger{.h_in = 28, .c_in = 32, .c_mid = 96, .c_out = 48, .kernel = 3};
  EXPECT_GT(best_and_worst(unit_element(larger).cuts[0].groups[0].workload).first, best);
}

TEST(SimulatedRunner, MoreThreadsAreFaster) {
  std::unique_ptr<Runner> runner = make_simulated_runner();
  auto us = [&](int threads) {
    ScheduleSpace space = schedule_space(small_workload(), runner->target(), threads);
    std::vector<Candidate> one = {{space.workload, default_schedule(space)}};
    return runner->measure(one, {.threads = threads}).value()[0].latency_us;
  };
  EXPECT_LT(us(4), us(1));
}

TEST(SimulatedRunner, IllegalIsAResult) {
  std::unique_ptr<Runner> runner = make_simulated_runner();
  std::vector<Candidate> candidates = {{small_workload(), Schedule{{1, 2}}}};
  auto results = runner->measure(candidates, {});
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].error, TrialError::kIllegal);
  EXPECT_FALSE((*results)[0].message.empty());
}

TEST(SimulatedRunner, CanBeInterrupted) {
  std::unique_ptr<Runner> runner = make_simulated_runner();
  std::vector<Candidate> candidates = {{small_workload(), Schedule{}}};
  request_cancellation();
  EXPECT_EQ(runner->measure(candidates, {}).status().code(), absl::StatusCode::kCancelled);
  reset_cancellation();
}

TEST(ScriptedRunner, AnswersFromTheScript) {
  std::map<Schedule, double> script = {{Schedule{{1}}, 10}, {Schedule{{2}}, 20}};
  auto answer = [](const Candidate& candidate, void* context) {
    auto& table = *static_cast<std::map<Schedule, double>*>(context);
    MeasureResult result;
    auto it = table.find(candidate.schedule);
    if (it == table.end()) {
      result.error = TrialError::kCrash;
    } else {
      result.latency_us = it->second;
    }
    return result;
  };
  std::unique_ptr<Runner> runner = make_scripted_runner(simulated_target(), answer, &script);
  Workload workload = small_workload();
  std::vector<Candidate> candidates = {{workload, {{2}}}, {workload, {{3}}}, {workload, {{1}}}};
  auto results = runner->measure(candidates, {}).value();
  EXPECT_EQ(results[0].latency_us, 20);
  EXPECT_EQ(results[1].error, TrialError::kCrash);
  EXPECT_EQ(results[2].latency_us, 10);
  ExecutionPlan plan;
  plan.stages.resize(2);
  plan.stages[0].workload = plan.stages[1].workload = workload;
  plan.stages[0].schedule = {{1}};
  plan.stages[1].schedule = {{2}};
  EXPECT_EQ(runner->measure_network(plan, 3)->median_us, 30);
}

}  // namespace
}  // namespace chanas
