// Objects for another processor: ARM code compiled here, linked with the runtime that ships and run
// under qemu's user mode, against the reference interpreter. Says nothing about speed.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "chanas/base/file.h"
#include "chanas/base/rng.h"
#include "chanas/codegen/kernel_check.h"
#include "chanas/graph/interpreter.h"

namespace chanas {
namespace {

constexpr int kThreads = 2;
constexpr int kWorkloads = 24;

Target arm() {
  Target target = simulated_target();
  target.name = "ARM, 64 bit";
  target.triple = "arm-64-linux";
  target.vector_floats = 4;
  target.vector_registers = 32;
  return target;
}

bool runs(const std::string& command) {
  return std::system((command + " > /dev/null 2>&1").c_str()) == 0;
}

std::string output_of(const std::string& command) {
  std::string text;
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return "cannot start: " + command;
  for (char buffer[4096]; std::fgets(buffer, sizeof buffer, pipe) != nullptr;) text += buffer;
  if (const int code = ::pclose(pipe); code != 0) text += fmt::format("exit status {}", code);
  return text;
}

// What the program reads, all 32-bit: per kernel its inputs, weights and reference output, each
// behind its length.
void append(std::string& data, const std::vector<float>& values) {
  const auto count = static_cast<uint32_t>(values.size());
  data.append(reinterpret_cast<const char*>(&count), sizeof count);
  data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// Runs every kernel and prints "kernel <i> <error relative to the largest value>".
constexpr const char* kProgram = R"(
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "halide_abi.h"
#include "runtime.h"
{}
static FILE* file;
static float* values(uint32_t* count) {{
  if (fread(count, 4, 1, file) != 1) exit(2);
  float* data = aligned_alloc(64, (*count * 4 + 127) / 64 * 64);
  if (fread(data, 4, *count, file) != *count) exit(3);
  return data;
}}
int main(int argc, char** argv) {{
  if (argc < 2 || !(file = fopen(argv[1], "rb"))) return 4;
  chanas_runtime* runtime = chanas_runtime_create({});
  for (int k = 0; k < {}; ++k) {{
    chanas_halide_tensor t[8];
    int count = kKernels[k].inputs + 1;
    for (int i = 0; i < count; ++i) {{
      uint32_t size;
      float* data = values(&size);
      int32_t extent = (int32_t)size;
      chanas_halide_tensor_init(&t[i], data, 1, &extent);
    }}
    uint32_t size;
    float* expected = values(&size);
    float* output = aligned_alloc(64, (size * 4 + 127) / 64 * 64);
    for (uint32_t i = 0; i < size; ++i) output[i] = NAN;
    int32_t extent = (int32_t)size;
    chanas_halide_tensor_init(&t[count], output, 1, &extent);
    int code = kKernels[k].call(runtime, t);
    float error = 0, largest = 0;
    for (uint32_t i = 0; i < size; ++i) {{
      float difference = fabsf(output[i] - expected[i]);
      if (!(difference <= error)) error = difference;
      largest = fmaxf(largest, fabsf(expected[i]));
    }}
    printf("kernel %d %g\n", k, code ? 1e9 : (double)(error / largest));
  }}
  return 0;
}}
)";

// So few channels that they are half a vector, which holds two steps of the reduction.
Workload narrow_workload() {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "op0", .inputs = {}, .shape = {5, 5, 8}});
  graph.add({.kind = OpKind::kConv2d, .name = "op1", .inputs = {0}, .shape = {5, 5, 3}});
  return make_workload(graph, {1});
}

TEST(Cross, ArmObjectsAreRightUnderEmulation) {
  const std::string compiler = "aarch64-linux-gnu-gcc", emulator = "qemu-aarch64-static";
  if (!runs(compiler + " --version") || !runs(emulator + " --version"))
    GTEST_SKIP() << "needs " << compiler << " and " << emulator
                 << " (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user-static)";
  const TemporaryFolder folder("chanas-cross");
  Rng rng(7, "cross");
  std::string data, declarations, table, objects;
  std::vector<std::string> described;
  for (int k = 0; k < kWorkloads; ++k) {
    const KernelCase test_case(k == 0 ? narrow_workload() : example_workload(11, k), 1);
    const ScheduleSpace space = schedule_space(test_case.workload(), arm(), kThreads);
    const Schedule schedule = k % 3 == 0 ? default_schedule(space) : random_schedule(space, rng);
    described.push_back(test_case.workload().describe() + ": " + to_text(space, schedule));
    const std::string object = join_path(folder.path(), fmt::format("kernel_{}.o", k));
    const Status compiled =
        compile_object(space, schedule, {}, fmt::format("kernel_{}", k), object);
    ASSERT_TRUE(compiled.ok()) << described.back() << ": " << compiled.message();
    objects += " " + object;

    const size_t inputs = test_case.inputs().size();
    for (const std::vector<float>& input : test_case.inputs()) append(data, input);
    append(data, test_case.packed(space, schedule));
    append(data, test_case.reference());
    std::string parameters, arguments;
    for (size_t i = 0; i < inputs + 2; ++i) {
      parameters += ", chanas_halide_buffer*";
      arguments += fmt::format(", &t[{}].buffer", i);
    }
    declarations += fmt::format(
        "int kernel_{0}(void*{1});\n"
        "static int call_{0}(void* c, chanas_halide_tensor* t) {{ return kernel_{0}(c{2}); }}\n",
        k, parameters, arguments);
    table += fmt::format("  {{call_{}, {}}},\n", k, inputs);
  }
  declarations +=
      "static const struct { int (*call)(void*, chanas_halide_tensor*); int inputs; } "
      "kKernels[] = {\n" +
      table + "};\n";
  const std::string source = join_path(folder.path(), "main.c");
  const std::string values = join_path(folder.path(), "values.bin");
  ASSERT_TRUE(
      write_file_atomic(source, fmt::format(kProgram, declarations, kThreads, kWorkloads)).ok());
  ASSERT_TRUE(write_file_atomic(values, data).ok());

  const std::string program = join_path(folder.path(), "main");
  const std::string runtime = std::string(CHANAS_SOURCE_DIR) + "/src/chanas/runtime";
  const std::string built = output_of(fmt::format(
      "{} -std=gnu11 -O1 -static -I{} -o {} {} {}/runtime.c {}/halide_abi.c{} -lpthread "
      "-lm",
      compiler, runtime, program, source, runtime, runtime, objects));
  ASSERT_EQ(built, "");
  const std::string report = output_of(emulator + " " + program + " " + values);
  int seen = 0;
  for (size_t at = 0; at < report.size(); ++seen) {
    int kernel = -1;
    double error = 1e9;
    ASSERT_EQ(std::sscanf(report.c_str() + at, "kernel %d %lf", &kernel, &error), 2) << report;
    ASSERT_EQ(kernel, seen) << report;
    EXPECT_LE(error, 1e-4) << described[static_cast<size_t>(kernel)];
    at = report.find('\n', at) + 1;
  }
  EXPECT_EQ(seen, kWorkloads) << report;
}

// No device here: the objects must hold code for one, of every op.
TEST(Cross, CudaObjectsHoldKernels) {
  Target cuda = simulated_target();
  cuda.triple = "x86-64-linux-avx2-fma-sse41-avx-cuda-cuda_capability_61";
  cuda.vector_floats = 32;
  cuda.vector_registers = 66;
  const TemporaryFolder folder("chanas-cuda");
  const std::string object = join_path(folder.path(), "kernel.o");
  Rng rng(5, "cuda");
  for (int k = 0; k < kWorkloads; ++k) {
    const KernelCase test_case(example_workload(12, k), 1);
    const ScheduleSpace space = schedule_space(test_case.workload(), cuda, 1);
    const Schedule schedule = k % 3 == 0 ? default_schedule(space) : random_schedule(space, rng);
    const std::string what = test_case.workload().describe() + ": " + to_text(space, schedule);
    const Status compiled = compile_object(space, schedule, {}, "cuda_kernel", object);
    ASSERT_TRUE(compiled.ok()) << what << ": " << compiled.message();
    const std::string code = *read_file(object);
    EXPECT_NE(code.find(".target sm_61"), std::string::npos) << what;
    size_t entries = 0;
    for (size_t at = 0; (at = code.find(".entry", at)) != std::string::npos; ++at) ++entries;
    EXPECT_GE(entries, 1u) << what;
  }
}

}  // namespace
}  // namespace chanas
