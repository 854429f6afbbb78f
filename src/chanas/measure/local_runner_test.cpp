// The local runner with children whose code generator is the reference interpreter
// (testing_codegen.cpp), so that it is tested without Halide; some are told to fail.

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <set>
#include <thread>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/stats.h"
#include "chanas/measure/measure.h"

namespace chanas {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Clock = std::chrono::steady_clock;

const std::string kFake = join_path(executable_folder(), "chanas-kernel-fake");

// Small enough that the interpreter serves as a kernel: 1x1 convolutions of several widths.
Workload workload(int c_out) {
  Unit unit{
      .h_in = 4, .c_in = 8, .c_mid = c_out, .c_out = 8, .kernel = 3, .act = Activation::kRelu};
  return unit_element(unit).cuts[0].groups[0].workload;
}

Candidate candidate(const Runner& runner, int c_out, int threads = 1) {
  ScheduleSpace space = schedule_space(workload(c_out), runner.target(), threads);
  return {space.workload, default_schedule(space)};
}

std::unique_ptr<Runner> make(const std::string& fault = "", int children = 2) {
  LocalRunnerOptions options{.program = kFake, .children = children};
  if (!fault.empty()) options.environment = {"CHANAS_KERNEL_FAULT=" + fault};
  StatusOr<std::unique_ptr<Runner>> runner = make_local_runner(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

std::vector<MeasureResult> measure(Runner& runner, const std::vector<Candidate>& candidates,
                                   const MeasurePlan& plan = {}) {
  auto results = runner.measure(candidates, plan);
  EXPECT_TRUE(results.ok()) << results.status();
  if (!results.ok()) return std::vector<MeasureResult>(candidates.size());
  EXPECT_EQ(results->size(), candidates.size());
  return *results;
}

TEST(LocalRunner, MeasuresCandidates) {
  std::unique_ptr<Runner> runner = make();
  std::vector<Candidate> candidates;
  for (int c : {8, 16, 24, 32, 40}) candidates.push_back(candidate(*runner, c));
  for (int64_t cold : {0, 1 << 20}) {
    for (const MeasureResult& result : measure(*runner, candidates, {.cold_bytes = cold})) {
      // Timings on a busy machine may be unstable; anything else is wrong.
      if (result.error != TrialError::kUnstable) {
        EXPECT_TRUE(result.ok()) << result.message;
      }
      EXPECT_GT(result.latency_us, 0);
      EXPECT_GT(result.warm_us, 0);
      EXPECT_GT(result.samples_us.size(), 4u);
      EXPECT_LT(result.relative_error, 1e-6);
    }
  }
  EXPECT_TRUE(measure(*runner, {}).empty());
}

TEST(LocalRunner, SeveralThreads) {
  std::unique_ptr<Runner> runner = make();
  std::vector<Candidate> candidates = {candidate(*runner, 16, 2), candidate(*runner, 24, 2)};
  for (const MeasureResult& result : measure(*runner, candidates, {.threads = 2})) {
    EXPECT_GT(result.latency_us, 0) << result.message;
  }
}

// Rows of one key are measured alike: what is read is what the key says, not what a network asked.
TEST(LocalRunner, ColdMemoryIsThatOfTheKey) {
  TemporaryFolder folder("cold-memory");
  const std::string requests = join_path(folder.path(), "requests"),
                    program = join_path(folder.path(), "program");
  ASSERT_TRUE(
      write_file_atomic(program, "#!/bin/sh\ntee -a '" + requests + "' | '" + kFake + "' \"$@\"\n")
          .ok());
  ASSERT_EQ(::chmod(program.c_str(), 0700), 0);
  auto runner = make_local_runner({.program = program, .children = 1});
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_GT(measure(**runner, {candidate(**runner, 16)}, {.cold_bytes = 1025})[0].latency_us, 0);
  const StatusOr<std::string> heard = read_file(requests);
  ASSERT_TRUE(heard.ok()) << heard.status();
  EXPECT_THAT(*heard, HasSubstr("\"cold_bytes\":2048"));
}

// Samples of all passes that were steady are there, of which most must be.
TEST(LocalRunner, SeveralPasses) {
  std::unique_ptr<Runner> runner = make("steady:canary");
  std::vector<Candidate> candidates;
  for (int c : {8, 16, 24, 32, 40}) candidates.push_back(candidate(*runner, c));
  const auto results = measure(*runner, candidates, {.samples = 7, .passes = 3});
  for (const MeasureResult& result : results) {
    if (result.error == TrialError::kUnstable) continue;
    ASSERT_TRUE(result.ok()) << result.message;
    EXPECT_GE(result.samples_us.size(), 14u);
    EXPECT_EQ(result.samples_us.size() % 7, 0u);
    std::vector<double> of_pass;
    for (auto sample = result.samples_us.begin(); sample != result.samples_us.end(); sample += 7)
      of_pass.push_back(median({sample, sample + 7}));
    EXPECT_DOUBLE_EQ(result.latency_us, median(of_pass));
    EXPECT_GT(result.warm_us, 0);
    EXPECT_LT(result.relative_error, 1e-6);
  }
  runner = make("drift:canary");
  testing::internal::CaptureStderr();
  for (const MeasureResult& result : measure(*runner, candidates, {.passes = 3}))
    EXPECT_EQ(result.error, TrialError::kUnstable);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("than it was"));
}

TEST(LocalRunner, IllegalIsAResult) {
  std::unique_ptr<Runner> runner = make();
  auto results = measure(*runner, {{workload(16), Schedule{{1, 2}}}, candidate(*runner, 16)});
  EXPECT_EQ(results[0].error, TrialError::kIllegal);
  EXPECT_FALSE(results[0].message.empty());
  EXPECT_GT(results[1].latency_us, 0);
}

// The fault meets one of several candidates; the others must not suffer.
struct FaultCase {
  std::string kind, request;
  TrialError error;
  std::string message;
};
class LocalRunnerFault : public testing::TestWithParam<FaultCase> {};
INSTANTIATE_TEST_SUITE_P(
    Faults, LocalRunnerFault,
    testing::Values(FaultCase{"crash", "build", TrialError::kCrash, "signal 11"},
                    FaultCase{"hang", "build", TrialError::kTimeout, "did not answer"},
                    FaultCase{"memory", "build", TrialError::kMemory, "2048 MB"},
                    FaultCase{"garbage", "build", TrialError::kCrash, "no reply"},
                    FaultCase{"wrong", "build", TrialError::kWrongResult, "reference interpreter"}),
    [](const auto& info) { return info.param.kind; });

TEST_P(LocalRunnerFault, HitsOneCandidate) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  if (GetParam().kind == "memory") GTEST_SKIP() << "no memory limit under sanitizers";
#endif
  const FaultCase& fault = GetParam();
  std::string bad = workload(24).fingerprint();
  std::unique_ptr<Runner> runner = make(fault.kind + ":" + fault.request + ":" + bad);
  std::vector<Candidate> candidates;
  for (int c : {8, 16, 24, 32, 40, 48}) candidates.push_back(candidate(*runner, c));
  MeasurePlan plan{.compile_timeout_s = 1.5, .memory_limit_bytes = int64_t{2} << 30};
  for (int repeat = 0; repeat < 2; ++repeat) {
    auto results = measure(*runner, candidates, plan);
    for (size_t i = 0; i < results.size(); ++i) {
      if (i == 2) {
        EXPECT_EQ(results[i].error, fault.error) << results[i].message;
        EXPECT_THAT(results[i].message, HasSubstr(fault.message));
      } else {
        EXPECT_GT(results[i].latency_us, 0) << i << ": " << results[i].message;
      }
    }
  }
}

TEST(LocalRunner, EveryRunThatDiesIsAResult) {
  for (std::string kind : {"crash", "hang", "garbage"}) {
    std::unique_ptr<Runner> runner = make(kind + ":run");
    std::vector<Candidate> candidates = {candidate(*runner, 8), candidate(*runner, 16),
                                         candidate(*runner, 24)};
    for (const int passes : {1, 2}) {
      const MeasurePlan plan{.passes = passes, .run_timeout_s = 0.5};
      for (const MeasureResult& result : measure(*runner, candidates, plan))
        EXPECT_EQ(result.error, kind == "hang" ? TrialError::kTimeout : TrialError::kCrash);
    }
  }
}

// A second pass counts like the first: the kernel that ends its process there has crashed, and the
// other one, built again, gets all its passes.
TEST(LocalRunner, ACrashInALaterPass) {
  auto runner = make_local_runner(
      {.program = kFake, .children = 1, .environment = {"CHANAS_KERNEL_FAULT=late:run"}});
  ASSERT_TRUE(runner.ok()) << runner.status();
  const auto results = measure(**runner, {candidate(**runner, 8), candidate(**runner, 16)},
                               {.samples = 7, .passes = 3});
  EXPECT_EQ(results[1].error, TrialError::kCrash) << results[1].message;
  if (results[0].error == TrialError::kUnstable) GTEST_SKIP() << "a restless machine";
  ASSERT_TRUE(results[0].ok()) << results[0].message;
  const std::vector<double>& samples = results[0].samples_us;
  ASSERT_EQ(samples.size() % 7, 0u);
  ASSERT_GE(samples.size(), 14u);
  EXPECT_FALSE(std::equal(samples.begin(), samples.begin() + 7, samples.end() - 7));
}

// Process ids of this test's chanas-kernel children.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  DIR* folder = ::opendir("/proc");
  while (dirent* entry = ::readdir(folder)) {
    pid_t pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    auto stat = read_file("/proc/" + std::string(entry->d_name) + "/stat");
    if (!stat.ok()) continue;
    size_t name_end = stat->rfind(')');
    if (name_end == std::string::npos) continue;
    char state = 0;
    int parent = 0;
    if (std::sscanf(stat->c_str() + name_end + 1, " %c %d", &state, &parent) == 2 &&
        parent == ::getpid() && state != 'Z') {
      found.push_back(pid);
    }
  }
  ::closedir(folder);
  return found;
}

TEST(LocalRunner, ReplacesChildrenKilledFromOutside) {
  std::unique_ptr<Runner> runner = make();
  std::vector<Candidate> candidates = {candidate(*runner, 8), candidate(*runner, 16)};
  measure(*runner, candidates);
  EXPECT_FALSE(children().empty());
  for (pid_t pid : children()) ::kill(pid, SIGKILL);
  for (int i = 0; i < 1000 && !children().empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (const MeasureResult& result : measure(*runner, candidates)) {
    EXPECT_GT(result.latency_us, 0) << result.message;
  }
  runner.reset();
  EXPECT_TRUE(children().empty()) << "no child outlives the runner";
}

// The bound of 300 MB is that of a worker on a small machine.
TEST(LocalRunner, ReplacesChildrenThatGrow) {
  std::unique_ptr<Runner> runner = make("leak", 1);
  std::set<pid_t> seen;
  for (int i = 0; i < 20; ++i) {
    measure(*runner, {candidate(*runner, 8)});
    for (const pid_t pid : children()) {
      seen.insert(pid);
      const auto memory = read_file("/proc/" + std::to_string(pid) + "/statm");
      long pages = 0, resident = 0;
      ASSERT_TRUE(memory.ok());
      ASSERT_EQ(std::sscanf(memory->c_str(), "%ld %ld", &pages, &resident), 2);
      EXPECT_LT(resident * ::sysconf(_SC_PAGESIZE), 300'000'000) << "after " << i + 1;
    }
  }
  EXPECT_GT(seen.size(), 1u);
  EXPECT_LT(seen.size(), 10u) << "not for every candidate";
}

TEST(LocalRunner, InterruptionEndsAHangingBuild) {
  std::unique_ptr<Runner> runner = make("hang");
  std::vector<Candidate> candidates = {candidate(*runner, 8), candidate(*runner, 16)};
  std::thread interrupt([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    request_cancellation();
  });
  auto start = Clock::now();
  Status status = runner->measure(candidates, {.compile_timeout_s = 60}).status();
  interrupt.join();
  reset_cancellation();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(20));
}

TEST(LocalRunner, MissingProgramSaysHowToBuildIt) {
  Status status = make_local_runner({.program = "/nowhere/chanas-kernel"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(message(status)), HasSubstr("/nowhere/chanas-kernel"));
  EXPECT_THAT(std::string(message(status)), HasSubstr("make build"));
}

TEST(LocalRunner, AnotherProgramIsRefused) {
  for (std::string program : {"/bin/true", "/bin/cat"}) {
    Status status = make_local_runner({.program = program}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << program;
  }
  // One of another version.
  TemporaryFolder folder("chanas-test");
  std::string script = join_path(folder.path(), "old");
  ASSERT_TRUE(write_file_atomic(script,
                                "#!/bin/sh\nread line\n"
                                "echo '{\"id\": 1, \"protocol\": 0, \"schedule\": 0}'\nread line\n")
                  .ok());
  ::chmod(script.c_str(), 0755);
  Status status = make_local_runner({.program = script}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(message(status)), HasSubstr("build all programs anew"));
}

TEST(LocalRunner, ABatchDuringAJoltIsMeasuredAgain) {
  std::unique_ptr<Runner> runner = make("jolt:canary");
  for (const MeasureResult& result : measure(*runner, {candidate(*runner, 8)})) {
    EXPECT_THAT(result.message, testing::Not(HasSubstr("the device was")));
    EXPECT_GT(result.latency_us, 0);
  }
}

// Who measured in the slow moments would find the device at two speeds in every attempt.
TEST(LocalRunner, AMeasurementWaitsForANeighbourToGo) {
  std::unique_ptr<Runner> runner = make("neighbour:canary");
  for (const int c_out : {8, 16}) {
    for (const MeasureResult& result : measure(*runner, {candidate(*runner, c_out)})) {
      EXPECT_THAT(result.message, testing::Not(HasSubstr("the device was")));
      EXPECT_GT(result.latency_us, 0);
    }
  }
}

TEST(LocalRunner, ADeviceThatKeepsChangingItsClockMakesUnstableResults) {
  std::unique_ptr<Runner> runner = make("drift:canary");
  std::vector<Candidate> candidates = {candidate(*runner, 8), candidate(*runner, 16)};
  testing::internal::CaptureStderr();
  for (const MeasureResult& result : measure(*runner, candidates)) {
    EXPECT_EQ(result.error, TrialError::kUnstable);
    EXPECT_THAT(result.message, HasSubstr("faster by 20 % after the measurement"));
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("than it was"));
}

TEST(LocalRunner, ACanaryThatDiesCostsNoCandidate) {
  std::unique_ptr<Runner> runner = make("crash:canary");
  for (const MeasureResult& result : measure(*runner, {candidate(*runner, 8)})) {
    EXPECT_NE(result.error, TrialError::kCrash) << result.message;
    EXPECT_GT(result.latency_us, 0);
  }
}

// --- Whole networks ---------------------------------------------------------------------------

ExecutionPlan small_plan(const Target& target, int threads) {
  Network network;
  network.name = "small";
  network.resolution = 16;
  network.stem.c_out = 8;
  network.units = {
      {.h_in = 8, .c_in = 8, .c_mid = 16, .c_out = 8, .se_channels = 8, .residual = true},
      {.h_in = 8, .c_in = 8, .c_mid = 16, .c_out = 16, .stride = 2}};
  network.head = {.conv_channels = 32, .classes = 10};
  EXPECT_TRUE(validate(network).ok()) << validate(network);
  return default_plan(cut_network(network), target, threads).value();
}

// Measured again while the canary moves, but not for ever.
TEST(MeasureNetwork, LooksWhetherTheDeviceKeepsItsSpeed) {
  std::unique_ptr<Runner> runner = make("drift:canary");
  testing::internal::CaptureStderr();
  const auto m = runner->measure_network(small_plan(runner->target(), 1), 5);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("than it was"));
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_GT(m->median_us, 0);
}

TEST(MeasureNetwork, TimesTheWholeAndItsStages) {
  std::unique_ptr<Runner> runner = make();
  for (int threads : {1, 2}) {
    ExecutionPlan plan = small_plan(runner->target(), threads);
    auto m = runner->measure_network(plan, 20);
    ASSERT_TRUE(m.ok()) << m.status();
    EXPECT_EQ(m->samples_us.size(), 20u);
    EXPECT_EQ(m->stage_us.size(), plan.stages.size());
    EXPECT_LE(m->min_us, m->p10_us);
    EXPECT_LE(m->p10_us, m->median_us);
    EXPECT_LE(m->median_us, m->p90_us);
    for (double us : m->stage_us) EXPECT_GT(us, 0);
    // The largest value of a stage is kept twice by this code generator.
    EXPECT_GE(m->scratch_bytes, 8 * 8 * 16 * 4);
  }
}

TEST(MeasureNetwork, FailuresAreStatuses) {
  std::unique_ptr<Runner> runner = make();
  ExecutionPlan plan = small_plan(runner->target(), 1);
  plan.stages[1].schedule.values.push_back(1);
  Status status = runner->measure_network(plan, 20).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(status)), HasSubstr("length"));

  std::unique_ptr<Runner> crashing = make("crash:network");
  plan = small_plan(crashing->target(), 1);
  for (int repeat = 0; repeat < 2; ++repeat) {
    status = crashing->measure_network(plan, 20).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(message(status)), HasSubstr("signal 11"));
  }
}

Stage stage(const std::string& name, const Workload& workload, const Schedule& schedule) {
  Stage result;
  result.name = name;
  result.workload = workload;
  result.schedule = schedule;
  return result;
}

TEST(StageObjects, EqualStagesShareAnObject) {
  TemporaryFolder folder("chanas-test");
  ExecutionPlan plan;
  plan.target = *local_target();
  for (int c : {8, 16, 8, 8}) {
    ScheduleSpace space = schedule_space(workload(c), plan.target, 1);
    plan.stages.push_back(stage("s", space.workload, default_schedule(space)));
  }
  auto objects = compile_stage_objects(plan, "net", folder.path(), {.program = kFake});
  ASSERT_TRUE(objects.ok()) << objects.status();
  ASSERT_EQ(objects->size(), 4u);
  EXPECT_EQ((*objects)[0].symbol, "net_stage_0");
  EXPECT_EQ((*objects)[1].symbol, "net_stage_1");
  EXPECT_EQ((*objects)[2].symbol, "net_stage_0");
  EXPECT_EQ((*objects)[3].path, (*objects)[0].path);
  EXPECT_THAT(read_file((*objects)[0].path).value(), StartsWith("net_stage_0 "));
  EXPECT_THAT(read_file((*objects)[1].path).value(), StartsWith("net_stage_1 "));
}

TEST(StageObjects, FailuresNameTheStage) {
  TemporaryFolder folder("chanas-test");
  ExecutionPlan plan;
  plan.target = *local_target();
  plan.stages.push_back(stage("units.3", workload(8), {{1, 2, 3}}));
  Status status = compile_stage_objects(plan, "net", folder.path(), {.program = kFake}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(message(status)), HasSubstr("units.3"));
}

TEST(DumpCandidate, ShowsWhatIsAsked) {
  Target target = *local_target();
  ScheduleSpace space = schedule_space(workload(8), target, 1);
  Candidate c{space.workload, default_schedule(space)};
  LocalRunnerOptions options{.program = kFake};
  EXPECT_THAT(dump_candidate(c, target, 1, "loop_nest", options).value(),
              StartsWith("loop nest of"));
  EXPECT_THAT(dump_candidate(c, target, 1, "lowered", options).value(), StartsWith("program of"));
  EXPECT_EQ(dump_candidate(c, target, 1, "asm", options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace chanas
