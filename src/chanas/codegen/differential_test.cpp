// Every workload kind x random schedules against the reference interpreter, assertions on.
// CHANAS_FUZZ_SCHEDULES=N runs N schedules instead of the short list, CHANAS_FUZZ_SEED=S others.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "chanas/codegen/kernel_check.h"
#include "chanas/runtime/runtime.h"
#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

int environment_number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : otherwise;
}

// This machine; every third round of workloads as a CPU with half the vector width and registers.
Target target_of(int index) {
  const auto host = local_target();
  CHANAS_CHECK(host.ok()) << host.status().message();
  const bool avx2 = host->triple.find("avx2") != std::string::npos;
  return avx2 && index / kExampleKinds % 3 == 2 ? simulated_target() : *host;
}

void expect_match(const ScheduleSpace& space, const Schedule& schedule, int seed) {
  std::unique_ptr<chanas_runtime, decltype(&chanas_runtime_destroy)> runtime(
      space.threads > 1 ? chanas_runtime_create(space.threads) : nullptr, chanas_runtime_destroy);
  const KernelCheck check =
      KernelCase(space.workload, seed).check(space, schedule, {.assertions = true}, runtime.get());
  EXPECT_EQ(check.failure, "") << space.workload.describe() << "\n  " << to_text(space, schedule);
}

TEST(Differential, RandomSchedulesMatchTheInterpreter) {
  const int count = environment_number("CHANAS_FUZZ_SCHEDULES", 200);
  const int seed = environment_number("CHANAS_FUZZ_SEED", 1);
  mallopt(M_PERTURB, 1);  // scratch memory starts as huge numbers, so that reading it is seen
  chanas_runtime* runtime = chanas_runtime_create(2);
  ASSERT_NE(runtime, nullptr);
  std::map<std::string, int> failures;
  double compile_s = 0, slowest_s = 0, worst = 0;
  constexpr int kPerWorkload = 3;
  for (int i = 0; i < count; ++i) {
    const int index = i / kPerWorkload;
    const KernelCase test_case(example_workload(seed, index), index);
    const int threads = 1 + index / kExampleKinds % 2;
    const ScheduleSpace space = schedule_space(test_case.workload(), target_of(index), threads);
    Rng rng(seed, "schedule", i);
    const Schedule schedule =
        i % kPerWorkload == 0 ? default_schedule(space) : random_schedule(space, rng);
    // Mostly with assertions; the code that is timed and shipped has none.
    const CompileOptions options{.assertions = i % 4 != 3};
    const KernelCheck check =
        test_case.check(space, schedule, options, threads > 1 ? runtime : nullptr);
    compile_s += check.compile_s;
    slowest_s = std::max(slowest_s, check.compile_s);
    worst = std::max(worst, check.relative_error);
    if (check.failure.empty()) continue;
    ++failures[check.failure.substr(0, check.failure.find(':'))];
    ADD_FAILURE() << i << " " << space.workload.describe() << ", " << threads << " threads\n  "
                  << to_text(space, schedule) << "\n  " << check.failure;
  }
  fmt::print("{} schedules, {:.3f} s a compile (slowest {:.2f}), largest relative error {:.1e}\n",
             count, compile_s / count, slowest_s, worst);
  for (const auto& [kind, number] : failures) fmt::print("  {}: {}\n", kind, number);
  chanas_runtime_destroy(runtime);
}

// Half vectors of two reduction steps: in every kind of workload with a dense convolution, for 8
// and 16 lanes, one thread and two; with whole windows, inputs from inside whose vectors overlap,
// scaled weights and shared reductions among them.
TEST(Differential, PairsOfStepsMatchTheInterpreter) {
  std::map<std::string, int> tried;
  for (int index = 0; index < 100 * kExampleKinds; ++index) {
    const Workload workload = example_workload(3, index);
    const Graph& graph = workload.graph;
    const Target target = target_of(index);
    const int threads = 1 + index / kExampleKinds % 2;
    const ScheduleSpace space = schedule_space(workload, target, threads);
    const std::vector<OpRole> roles = op_roles(workload);
    Rng rng(3, "pairs", index);
    for (int i = 0; i < 20; ++i) {
      const Schedule schedule = random_schedule(space, rng);
      const std::vector<OpTile> tiles = resolve(space, roles, schedule);
      std::vector<std::string> kinds;
      for (size_t op = 0; op < tiles.size(); ++op) {
        if (tiles[op].steps == 1) continue;
        const int data = graph.ops[op].inputs[0];
        const OpTile& input = tiles[data];
        kinds.push_back(fmt::format("{}, {} lanes", workload.kind(), target.vector_floats));
        if (roles[op].window_on_input)
          kinds.push_back(tiles[op].border ? "windows of a copy" : "windows of the input");
        if (input.folded) kinds.push_back(fmt::format("scale={}", input.scale));
        if (tiles[op].parts > 1) kinds.push_back("shared reduction");
        if (graph.ops[data].kind != OpKind::kInput && input.view.c % input.vector != 0)
          kinds.push_back("overlapping input vectors");
      }
      if (std::ranges::all_of(kinds, [&](const auto& kind) { return tried[kind] >= 2; })) continue;
      for (const std::string& kind : kinds) ++tried[kind];
      expect_match(space, schedule, index);
      break;
    }
  }
  std::erase_if(tried, [](const auto& kind) { return kind.second == 0; });
  for (const auto& [kind, count] : tried) fmt::print("  {}: {}\n", kind, count);
  for (const char* kind : {"windows of a copy", "windows of the input", "scale=0", "scale=2",
                           "shared reduction", "overlapping input vectors"})
    EXPECT_GE(tried[kind], 2) << kind;
  EXPECT_GE(tried.size(), 15u);
}

// Each thread sums up a part of the input channels, or of the rows: in every kind of workload that
// offers it, with as many parts as fit, channels that do not fill their vectors and rows that are
// no multiple of the threads among them.
TEST(Differential, SharedReductionsMatchTheInterpreter) {
  std::map<std::string, int> tried;
  int repeated_channels = 0, missing_rows = 0;
  for (int index = 0; index < 100 * kExampleKinds; ++index) {
    const Workload workload = example_workload(3, index);
    const int threads = 2 + index / kExampleKinds % 3;
    const ScheduleSpace space = schedule_space(workload, target_of(index), threads);
    const std::vector<OpRole> roles = op_roles(workload);
    const std::string kind = fmt::format("{}, {} threads", workload.kind(), threads);
    const auto shared = std::ranges::find_if(space.fields, [](const Field& field) {
      return field.name.ends_with(".parallel") && field.choices.back() == 3;
    });
    if (tried[kind] == 2 || shared == space.fields.end()) continue;
    const auto field = static_cast<size_t>(shared - space.fields.begin());
    Rng rng(3, "parts", index);
    Schedule schedule = default_schedule(space);
    for (int i = 0; i < 50 && schedule.values[field] != 3; ++i)
      schedule = random_schedule(space, rng);
    if (schedule.values[field] != 3) continue;
    ++tried[kind];
    const auto op = static_cast<size_t>(field_key(*shared).op);
    const OpTile tile = resolve(space, roles, schedule)[op];
    const Shape& input = workload.graph.ops[workload.graph.ops[op].inputs[0]].shape;
    EXPECT_EQ(tile.parts, threads);
    repeated_channels += tile.parts * tile.part_steps > input.c;
    missing_rows += tile.part_steps == 0 && input.h % threads != 0;
    expect_match(space, schedule, index);
  }
  std::erase_if(tried, [](const auto& kind) { return kind.second == 0; });
  for (const auto& [kind, count] : tried) fmt::print("  {}: {}\n", kind, count);
  EXPECT_GE(tried.size(), 12u);
  EXPECT_GE(repeated_channels, 4);
  EXPECT_GE(missing_rows, 2);
}

// Rows that one strip keeps for the next, in buffers that hold no more than a strip needs: by every
// op that can have them, on maps that the strips do not divide.
TEST(Differential, KeptRowsMatchTheInterpreter) {
  const int most = environment_number("CHANAS_FUZZ_SCHEDULES", 200) / 50;  // per kind
  std::map<std::string, int> tried;
  for (int index = 0; index < 30 * most * kExampleKinds; ++index) {
    const Workload workload = example_workload(9, index);
    const int threads = 1 + index % 2;
    const ScheduleSpace space = schedule_space(workload, target_of(index), threads);
    const std::string kind = fmt::format("{}, {} thread(s)", workload.kind(), threads);
    if (tried[kind] == most) continue;
    Rng rng(9, "kept rows", index);
    Schedule schedule = default_schedule(space);
    for (int i = 0; i < 50 && !keeps_rows(space, schedule); ++i)
      schedule = random_schedule(space, rng);
    if (!keeps_rows(space, schedule)) continue;
    ++tried[kind];
    expect_match(space, schedule, index);
  }
  std::erase_if(tried, [](const auto& kind) { return kind.second == 0; });
  for (const auto& [kind, count] : tried) fmt::print("  {}: {}\n", kind, count);
  EXPECT_GE(tried.size(), 16u);
}

// The same for what few random schedules have: an op inside the strips of another that is not
// sliced hands the strips on to what it reads.
TEST(Differential, StripsThroughAnUnslicedOpMatchTheInterpreter) {
  std::map<std::string, int> tried;
  for (int index = 0; index < 100 * kExampleKinds; ++index) {
    const Workload workload = example_workload(3, index);
    const Target target = target_of(index);
    const int threads = 1 + index % 2;
    const ScheduleSpace space = schedule_space(workload, target, threads);
    const std::vector<OpRole> roles = op_roles(workload);
    const std::string kind = fmt::format("{}, {} thread(s)", workload.kind(), threads);
    if (tried[kind] == 3) continue;
    const auto hands_on = [&](const Schedule& schedule) {
      const std::vector<OpTile> tiles = resolve(space, roles, schedule);
      for (size_t i = 0; i < tiles.size(); ++i)
        if (!roles[i].final && tiles[i].inside && !tiles[i].sliced()) return true;
      return false;
    };
    Rng rng(3, "strips", index);
    Schedule schedule = default_schedule(space);
    for (int i = 0; i < 50 && !hands_on(schedule); ++i) schedule = random_schedule(space, rng);
    if (!hands_on(schedule)) continue;
    ++tried[kind];
    expect_match(space, schedule, index);
  }
  std::erase_if(tried, [](const auto& kind) { return kind.second == 0; });
  for (const auto& [kind, count] : tried) fmt::print("  {}: {}\n", kind, count);
  EXPECT_GE(tried.size(), 4u);
}

}  // namespace
}  // namespace chanas
