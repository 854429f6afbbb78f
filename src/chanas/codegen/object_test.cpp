// Ahead-of-time objects: what they ask of the program around them, and that they compute the right
// values with the runtime that ships.

#include <dlfcn.h>
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <regex>
#include <sstream>

#include "chanas/base/file.h"
#include "chanas/codegen/kernel_check.h"
#include "chanas/graph/interpreter.h"
#include "chanas/runtime/halide_abi.h"
#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

using Kernel = int (*)(void*, chanas_halide_buffer*, chanas_halide_buffer*, chanas_halide_buffer*);

chanas_halide_tensor tensor(const float* data, const Shape& shape) {
  chanas_halide_tensor result;
  const int32_t extents[] = {shape.c, shape.w, shape.h};
  chanas_halide_tensor_init(&result, data, 3, extents);
  return result;
}

TEST(Object, LinksWithTheRuntimeAloneAndIsRight) {
  const TemporaryFolder folder("chanas-object");
  const std::string object = join_path(folder.path(), "kernel.o");
  const std::string library = join_path(folder.path(), "kernel.so");

  // Large enough for scratch memory and parallel loops.
  const Unit unit{.h_in = 28, .c_in = 16, .c_mid = 72, .c_out = 16, .kernel = 5, .residual = true};
  const KernelCase test_case(unit_element(unit).cuts.back().groups[0].workload, 1);
  const Graph& graph = test_case.workload().graph;
  const ScheduleSpace space = schedule_space(test_case.workload(), *local_target(), 2);
  const Schedule schedule = default_schedule(space);
  const Status compiled = compile_object(space, schedule, {}, "chanas_test_kernel", object);
  ASSERT_TRUE(compiled.ok()) << compiled.message();

  // -z defs: whatever neither the runtime nor libc has is an error.
  const std::string command = fmt::format("{} -shared -Wl,-z,defs -o {} {} {} -lpthread 2>&1",
                                          CHANAS_TEST_CC, library, object, CHANAS_TEST_RUNTIME);
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  void* handle = dlopen(library.c_str(), RTLD_NOW);
  ASSERT_NE(handle, nullptr) << dlerror();
  const auto kernel = reinterpret_cast<Kernel>(dlsym(handle, "chanas_test_kernel"));
  ASSERT_NE(kernel, nullptr);

  const GuardedBuffer input(test_case.inputs()[0]);
  const GuardedBuffer weights(test_case.packed(space, schedule));
  const GuardedBuffer output(test_case.reference().size());
  chanas_halide_tensor in = tensor(input.data(), graph.ops[0].shape);
  chanas_halide_tensor out = tensor(output.data(), graph.output().shape);
  chanas_halide_tensor packed;
  const int32_t size = static_cast<int32_t>(weights.size());
  chanas_halide_tensor_init(&packed, weights.data(), 1, &size);
  chanas_runtime* runtime = chanas_runtime_create(2);
  ASSERT_NE(runtime, nullptr);
  EXPECT_EQ(kernel(runtime, &in.buffer, &packed.buffer, &out.buffer), 0);
  EXPECT_GT(chanas_runtime_scratch_used(runtime), 0u);
  chanas_runtime_destroy(runtime);
  EXPECT_LE(
      max_relative_error({output.data(), output.data() + output.size()}, test_case.reference()),
      1e-4);
  dlclose(handle);
}

TEST(Codegen, IllegalSchedulesAndUnwritablePathsAreStatuses) {
  const KernelCase test_case(example_workload(3, 0), 1);
  const ScheduleSpace space = schedule_space(test_case.workload(), *local_target(), 1);
  Schedule schedule = default_schedule(space);
  const Status unwritable = compile_object(space, schedule, {}, "f", "/nonexistent/folder/f.o");
  EXPECT_FALSE(unwritable.ok());
  schedule.values[0] = -3;
  EXPECT_EQ(compile_jit(space, schedule, {}, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(compile_object(space, schedule, {}, "f", "f.o").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(dump_lowered(space, schedule).status().code(), absl::StatusCode::kInvalidArgument);

  Target wrong = *local_target();
  wrong.triple = "pdp11-unix";
  const ScheduleSpace elsewhere = schedule_space(test_case.workload(), wrong, 1);
  EXPECT_EQ(compile_jit(elsewhere, default_schedule(elsewhere), {}, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Whether the kernel under its default schedule has an instruction that prefetches.
bool prefetches(const Workload& workload, int threads, const CompileOptions& options) {
  const TemporaryFolder folder("chanas-prefetch");
  const std::string object = join_path(folder.path(), "kernel.o");
  const ScheduleSpace space = schedule_space(workload, *local_target(), threads);
  const Status compiled = compile_object(space, default_schedule(space), options, "kernel", object);
  EXPECT_TRUE(compiled.ok()) << compiled.message();
  // The instruction's two bytes; only the compiler's own tables could hold them by chance.
  return read_file(object)->find("\x0f\x18") != std::string::npos;
}

// In every kernel of a process: the compiler gives the same op another name each time.
TEST(Object, PrefetchesWhereItIsToldTo) {
  const Unit unit{.h_in = 7, .c_in = 16, .c_mid = 64, .c_out = 16, .kernel = 5, .residual = true};
  for (const Cut& cut : unit_element(unit).cuts) {
    const Workload& workload = cut.groups.back().workload;
    EXPECT_FALSE(prefetches(workload, 1, {})) << workload.describe();
    EXPECT_TRUE(prefetches(workload, 1, {.prefetch = {{0, 4096}}})) << workload.describe();
  }
}

// Another thread may have made what a 1x1 convolution reads of another stage, gated or not.
TEST(Object, PrefetchesWhatOtherThreadsHaveMade) {
  const Unit unit{.h_in = 14, .c_in = 16, .c_mid = 64, .c_out = 16, .kernel = 3, .se_channels = 8};
  for (const Cut& cut : unit_element(unit).cuts) {
    for (const Group& group : cut.groups) {
      const Workload& workload = group.workload;
      const std::string what = workload.describe();
      const bool reads = what.starts_with("conv1x1") || what.starts_with("scale+conv1x1");
      EXPECT_EQ(prefetches(workload, 2, {}), reads) << what;
      EXPECT_FALSE(prefetches(workload, 1, {})) << what;
    }
  }
}

TEST(Codegen, DumpsShowLoopsAndProgram) {
  const KernelCase test_case(example_workload(3, 9), 1);
  const ScheduleSpace space = schedule_space(test_case.workload(), *local_target(), 2);
  const auto nest = dump_loop_nest(space, default_schedule(space));
  ASSERT_TRUE(nest.ok()) << nest.status().message();
  EXPECT_THAT(*nest, testing::HasSubstr("vectorized"));
  const auto program = dump_lowered(space, default_schedule(space));
  ASSERT_TRUE(program.ok()) << program.status().message();
  EXPECT_THAT(*program, testing::HasSubstr("weights"));
}

// Iterations of the parallel loop in which a nest makes each value, its own or one around it:
// {"op1", 13}; 1: there is none, 0: the compiler does not print its length.
std::map<std::string, int> parallel_loops(const std::string& nest) {
  struct Enclosing {
    std::ptrdiff_t indent;
    std::string value;  // made here; "": a copy, or a loop
    int tasks;
  };
  std::map<std::string, int> loops;
  std::vector<Enclosing> around;
  std::istringstream lines(nest);
  const std::regex produce("^( *)produce (?:(op[0-9]+|output)(?:_parts)?(?:\\$[0-9]+)?|.*):$"),
      parallel("^( *)parallel [^ ]+( in \\[(-?[0-9]+), (-?[0-9]+)\\])?:");
  for (std::string line; std::getline(lines, line);) {
    const auto indent = static_cast<std::ptrdiff_t>(line.find_first_not_of(' '));
    while (!around.empty() && around.back().indent >= indent) around.pop_back();
    const int outside = around.empty() ? 1 : around.back().tasks;
    std::smatch match;
    if (std::regex_search(line, match, produce)) {
      around.push_back({indent, match[2], outside});
      // Parts come first; what adds them up says nothing of how the work is shared.
      if (match[2].matched) loops.emplace(match[2], outside);
    } else if (std::regex_search(line, match, parallel)) {
      const int tasks = match[2].matched ? std::stoi(match[4]) - std::stoi(match[3]) + 1 : 0;
      if (!around.empty() && !around.back().value.empty()) loops[around.back().value] = tasks;
      around.push_back({indent, "", tasks});
    }
  }
  return loops;
}

// What the cost model believes of how work is shared is what the compiler does.
TEST(Codegen, ParallelTasksAreThoseOfTheLoopNest) {
  int compared = 0, serial = 0, shared = 0;
  for (int i = 0; i < 60; ++i) {
    const Workload workload = example_workload(7, i);
    const ScheduleSpace space = schedule_space(workload, *local_target(), 2);
    Rng rng(7, "schedule", i);
    const Schedule schedule = random_schedule(space, rng);
    const std::vector<OpRole> roles = op_roles(workload);
    const std::vector<OpTile> tiles = resolve(space, roles, schedule);
    const std::vector<int> tasks = parallel_tasks(space, roles, tiles);
    const auto nest = dump_loop_nest(space, schedule);
    ASSERT_TRUE(nest.ok()) << nest.status().message();
    for (const auto& [value, extent] : parallel_loops(*nest)) {
      const size_t op =
          value == "output" ? tasks.size() - 1 : static_cast<size_t>(std::stoi(value.substr(2)));
      if (extent == 0) continue;
      if (value == "output" && tiles.back().parts > 1) continue;  // adds up what its parts made
      shared += tiles[op].parts > 1;
      EXPECT_EQ(tasks[op], extent) << workload.describe() << "\n"
                                   << to_text(space, schedule) << "\n"
                                   << value;
      ++compared;
      serial += extent == 1;
    }
  }
  EXPECT_GT(compared, 80);
  EXPECT_GT(serial, 5);
  EXPECT_GE(shared, 2);
}

// Where the tiles say that rows are kept, the loops do it.
TEST(Codegen, KeptRowsAreStoredOutsideTheStrips) {
  int kept = 0, repeated = 0;
  for (int i = 0; i < 200; ++i) {
    const Workload workload = example_workload(8, i);
    const ScheduleSpace space = schedule_space(workload, *local_target(), 1 + i % 2);
    Rng rng(8, "schedule", i);
    const Schedule schedule = random_schedule(space, rng);
    const std::vector<OpTile> tiles = resolve(space, op_roles(workload), schedule);
    const bool keeps = keeps_rows(space, schedule);
    if (!keeps && std::ranges::none_of(tiles, &OpTile::in_strips)) continue;
    const auto nest = dump_loop_nest(space, schedule);
    ASSERT_TRUE(nest.ok()) << nest.status().message();
    EXPECT_EQ(nest->find("store ") != std::string::npos, keeps) << workload.describe() << "\n"
                                                                << to_text(space, schedule) << "\n"
                                                                << *nest;
    ++(keeps ? kept : repeated);
  }
  EXPECT_GT(kept, 5);
  EXPECT_GT(repeated, 10);
}

// The triple that the target module made from cpuid is one that the compiler knows, with the vector
// width that Halide itself would choose.
TEST(Codegen, LocalTargetIsTheHost) {
  const Target target = *local_target();
  EXPECT_THAT(host_triple(), testing::StartsWith("x86-64-linux"));
  EXPECT_EQ(target.triple.find("avx512") != std::string::npos, target.vector_floats == 16);
}

}  // namespace
}  // namespace chanas
