// Exported libraries, judged by the reference interpreter (selftest) and by linking them as a user
// does.

#include "chanas/deploy/deploy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "chanas/base/file.h"
#include "chanas/base/json.h"
#include "chanas/graph/safetensors.h"

namespace chanas {
namespace {

using testing::HasSubstr;

ExportRequest request_for(const std::string& network_file, int threads, const std::string& folder) {
  ExportRequest request;
  request.folder = folder;
  auto network = load_network(network_file);
  EXPECT_TRUE(network.ok()) << network.status();
  request.name = network->name;
  request.graph = lower(*network);
  request.parameters = random_parameters(request.graph, 3);
  auto target = local_target();
  EXPECT_TRUE(target.ok()) << target.status();
  auto plan = default_plan(cut_network(*network), *target, threads);
  EXPECT_TRUE(plan.ok()) << plan.status();
  request.plan = *plan;
  return request;
}

std::string tiny() { return std::string(CHANAS_SOURCE_DIR) + "/tests/tiny_network.toml"; }

int shell(const std::string& command) { return std::system(command.c_str()); }

void quiet(const std::string&) {}

class DeployTest : public testing::Test {
 protected:
  TemporaryFolder folder_{"chanas-deploy"};
  std::string out_ = join_path(folder_.path(), "export");
};

TEST_F(DeployTest, SelftestAgreesWithTheInterpreter) {
  for (int threads : {1, 2}) {
    auto result = export_network(request_for(tiny(), threads, out_), quiet);
    ASSERT_TRUE(result.ok()) << result.status();
    auto selftest = run_selftest(out_, threads, 50);
    ASSERT_TRUE(selftest.ok()) << selftest.status();
    EXPECT_TRUE(selftest->correct) << selftest->max_relative_error;
    EXPECT_LE(selftest->max_relative_error, 1e-4);
    EXPECT_EQ(selftest->threads, threads);
    EXPECT_GT(selftest->median_us, 0);
  }
}

// Two instances at once from two threads, unaligned images, and no allocation after create.
TEST_F(DeployTest, InstancesAndThreads) {
  ASSERT_TRUE(export_network(request_for(tiny(), 2, out_), quiet).ok());
  std::ofstream(join_path(out_, "user.c")) << R"(
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

static _Thread_local int counting;
static int allocations;
void* __libc_malloc(size_t);
void* malloc(size_t n) {
  if (counting) __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
  return __libc_malloc(n);
}
static float image[MODEL_INPUT_FLOATS + 1];
static float want[MODEL_CLASSES];

static void* work(void* failed) {
  model* net;
  if (model_create(&net, 2)) { *(int*)failed = 1; return NULL; }
  counting = 1;
  for (int i = 0; i < 300; ++i) {
    float logits[MODEL_CLASSES];
    if (model_run(net, image + i % 2, logits)) *(int*)failed = 2;
    if (i % 2 && memcmp(logits, want, sizeof want)) *(int*)failed = 3;
  }
  counting = 0;
  model_destroy(net);
  return NULL;
}

int main(void) {
  for (int i = 0; i <= MODEL_INPUT_FLOATS; ++i) image[i] = (float)((i * 37) % 19) / 9.0f - 1.0f;
  model* net;
  if (model_create(&net, 300) != MODEL_ERROR_ARGUMENT || net) return 10;
  if (model_create(&net, 1)) return 11;
  if (model_run(net, NULL, want) != MODEL_ERROR_ARGUMENT) return 12;
  if (model_run(net, image + 1, want)) return 13;
  int failed[4] = {0};
  pthread_t threads[4];
  for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, work, &failed[i]);
  for (int i = 0; i < 4; ++i) { pthread_join(threads[i], NULL); if (failed[i]) return 20 + failed[i]; }
  model_destroy(net);
  if (allocations) return 30;
  if (strlen(model_info()) < 10 || model_class_name(-1)[0] || model_stage_count() < 1) return 31;
  return 0;
}
)";
  ASSERT_EQ(shell("cd " + out_ + " && cc -O1 user.c -I. libmodel.a -lpthread -lm -o user"), 0);
  EXPECT_EQ(shell("cd " + out_ + " && ./user"), 0);
  // The same through the shared library.
  ASSERT_EQ(shell("cd " + out_ + " && cc -O1 user.c -I. -L. -lmodel -lpthread -o user_so"), 0);
  EXPECT_EQ(shell("cd " + out_ + " && LD_LIBRARY_PATH=. ./user_so"), 0);
}

TEST_F(DeployTest, ShowsOnlyItsInterfaceAndNeedsOnlyLibc) {
  ASSERT_TRUE(export_network(request_for(tiny(), 1, out_), quiet).ok());
  EXPECT_EQ(shell("nm -D --defined-only " + out_ + "/libmodel.so | grep -v ' model_' | grep -q ."),
            256);
  EXPECT_EQ(shell("nm -g --defined-only " + out_ +
                  "/libmodel.a | grep ' [TRDB] ' | grep -v ' model_' | grep -q ."),
            256);
  EXPECT_EQ(shell("readelf -d " + out_ +
                  "/libmodel.so | grep NEEDED | grep -vE 'libc.so|libm.so|libpthread' | grep -q ."),
            256);
}

// A layer that ends in a map; the result is written straight into the caller's aligned memory, and
// nothing behind it. The weights survive until the last instance is gone.
TEST_F(DeployTest, ALayerWritesInPlace) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "image", .inputs = {}, .shape = {9, 7, 5}});
  graph.add({.kind = OpKind::kConv2d,
             .name = "conv",
             .inputs = {0},
             .shape = {9, 7, 21},
             .kernel = 3,
             .bias = true});
  ExportRequest request;
  request.folder = out_;
  request.name = "layer";
  request.graph = graph;
  request.parameters = random_parameters(graph, 3);
  auto cut = cut_graph(graph);
  ASSERT_TRUE(cut.ok()) << cut.status();
  request.plan = *default_plan(*cut, *local_target(), 1);
  ASSERT_TRUE(export_network(request, quiet).ok());
  auto selftest = run_selftest(out_, 1, 5);
  ASSERT_TRUE(selftest.ok()) << selftest.status();
  EXPECT_TRUE(selftest->correct) << selftest->max_relative_error;
  std::ofstream(join_path(out_, "user.c")) << R"(
#include <string.h>
#include "model.h"
enum { kFloats = MODEL_OUTPUT_FLOATS };
static _Alignas(64) float image[MODEL_INPUT_FLOATS], first[kFloats + 16], second[kFloats + 16];
int main(void) {
  for (int i = 0; i < MODEL_INPUT_FLOATS; ++i) image[i] = (float)(i % 13) - 6;
  for (int i = 0; i < 16; ++i) first[kFloats + i] = 7;
  model *a, *b;
  if (model_create(&a, 1) || model_create(&b, 1)) return 1;
  if (model_run(a, image, first)) return 2;
  model_destroy(a);
  if (model_run(b, image, second + 1)) return 3;
  model_destroy(b);
  if (memcmp(first, second + 1, sizeof(float) * kFloats)) return 4;
  for (int i = 0; i < 16; ++i) if (first[kFloats + i] != 7) return 5;
  return model_create(&a, 1) || model_run(a, image, second) || memcmp(first, second, sizeof(float) * kFloats);
}
)";
  ASSERT_EQ(shell("cd " + out_ + " && cc -O1 user.c -I. libmodel.a -lpthread -lm -o user"), 0);
  EXPECT_EQ(shell("cd " + out_ + " && ./user"), 0);
}

// Two networks with prefixes of their own live in one program.
TEST_F(DeployTest, TwoNetworksInOneProgram) {
  ExportRequest a = request_for(tiny(), 1, out_), b = request_for(tiny(), 1, out_ + "2");
  b.symbol = "other";
  ASSERT_TRUE(export_network(a, quiet).ok());
  ASSERT_TRUE(export_network(b, quiet).ok());
  std::ofstream(join_path(out_, "both.c")) << R"(
#include "model.h"
#include "other.h"
int main(void) {
  model* a; other* b;
  return model_create(&a, 1) || other_create(&b, 1);
}
)";
  EXPECT_EQ(shell("cd " + out_ +
                  " && cc both.c -I. -I../export2 libmodel.a ../export2/libother.a -lpthread -lm "
                  "-o both && ./both"),
            0);
}

TEST_F(DeployTest, BadRequestsLeaveTheOldFolder) {
  ExportRequest request = request_for(tiny(), 1, out_);
  ASSERT_TRUE(export_network(request, quiet).ok());
  auto before = read_file(join_path(out_, "manifest.json"));
  ASSERT_TRUE(before.ok());

  ExportRequest bad = request;
  bad.symbol = "9 lives";
  EXPECT_THAT(std::string(export_network(bad, quiet).status().message()), HasSubstr("9 lives"));
  bad = request;
  bad.parameters.items.pop_back();
  EXPECT_EQ(exit_code(export_network(bad, quiet).status()), 3);
  bad = request;
  bad.plan.stages[0].names[1] = "elsewhere";
  EXPECT_FALSE(export_network(bad, quiet).ok());

  ASSERT_EQ(::setenv("PATH", "/nowhere", 1), 0);
  Status status = export_network(request, quiet).status();
  EXPECT_EQ(exit_code(status), 69);
  EXPECT_THAT(std::string(status.message()), HasSubstr("apt-get install"));
  ASSERT_EQ(::setenv("PATH", "/usr/local/bin:/usr/bin:/bin", 1), 0);

  auto after = read_file(join_path(out_, "manifest.json"));
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(*before, *after);
}

TEST_F(DeployTest, ReplacesNothingButAnExport) {
  ExportRequest request = request_for(tiny(), 1, out_);
  const std::string results = join_path(out_, "results.txt");
  const std::string neighbour = join_path(out_ + ".old", "kept.txt");
  for (const std::string& file : {results, neighbour}) {
    ASSERT_TRUE(make_folder(file.substr(0, file.rfind('/'))).ok());
    ASSERT_TRUE(write_file_atomic(file, "mine").ok());
  }
  Status status = export_network(request, quiet).status();
  EXPECT_EQ(exit_code(status), 3);
  EXPECT_THAT(std::string(status.message()), HasSubstr("manifest.json"));
  EXPECT_TRUE(read_file(results).ok());

  ASSERT_EQ(shell("rm " + results), 0);
  for (const char* end : {"", "/", "/."}) {  // into an empty folder, then over an export
    request.folder = out_ + end;
    auto result = export_network(request, quiet);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->folder, out_);
  }
  EXPECT_TRUE(read_file(neighbour).ok());

  for (const std::string& folder : {std::string(), std::string("."), out_ + "/.."}) {
    request.folder = folder;
    EXPECT_EQ(exit_code(export_network(request, quiet).status()), 3) << folder;
  }
}

}  // namespace
}  // namespace chanas
