#include "chanas/schedule/schedule.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "chanas/graph/testing_networks.h"
#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;

Target avx512() {
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  target.l1_bytes = 32 << 10;
  return target;
}
Target neon() {
  Target target = simulated_target();
  target.vector_floats = 4;
  target.vector_registers = 32;
  return target;
}

// Every workload of every cut, each once.
std::map<std::string, Workload> workloads_of(const Network& network) {
  std::map<std::string, Workload> result;
  for (const Element& element : elements(network))
    for (const Cut& cut : element.cuts)
      for (const Group& group : cut.groups)
        result.emplace(group.workload.fingerprint(), group.workload);
  return result;
}

std::vector<Workload> test_workloads() {
  std::map<std::string, Workload> found = workloads_of(*load_network("mobilenet_v3_large"));
  Rng rng(3);
  for (int i = 0; i < 8; ++i) found.merge(workloads_of(random_network(rng)));
  std::vector<Workload> result;
  for (auto& [name, workload] : found) result.push_back(std::move(workload));
  return result;
}

Workload workload_named(const std::string& kind, const std::string& text) {
  for (const auto& [name, workload] : workloads_of(*load_network("mobilenet_v3_large")))
    if (workload.kind() == kind && workload.describe().find(text) != std::string::npos)
      return workload;
  CHANAS_CHECK(false) << kind << " " << text;
  return {};
}

Schedule changed(const ScheduleSpace& space, std::string_view field, int value) {
  Schedule schedule = default_schedule(space);
  const int index = space.find(field);
  CHANAS_CHECK(index >= 0) << field;
  schedule.values[index] = value;
  return schedule;
}

TEST(ScheduleSpace, FieldsAreNamedSortedAndExplained) {
  for (const Workload& workload : test_workloads()) {
    const ScheduleSpace space = schedule_space(workload, avx512(), 2);
    std::vector<std::string> names;
    for (const Field& field : space.fields) {
      EXPECT_TRUE(std::ranges::is_sorted(field.choices)) << field.name;
      EXPECT_EQ(std::ranges::adjacent_find(field.choices), field.choices.end()) << field.name;
      EXPECT_FALSE(field.choices.empty()) << field.name;
      EXPECT_FALSE(field_help(field.name).empty()) << field.name;
      EXPECT_FALSE(primitive_name(field.primitive).empty());
      EXPECT_THAT(names, testing::Not(testing::Contains(field.name)));
      names.push_back(field.name);
    }
  }
  EXPECT_EQ(field_help("op1.nonsense"), "");
}

TEST(ScheduleSpace, OneThreadHasNothingToShareOut) {
  const Workload workload = workload_named("conv1x1", "14x14 112->672");
  EXPECT_EQ(schedule_space(workload, avx512(), 1).find("op1.parallel"), -1);
  EXPECT_GE(schedule_space(workload, avx512(), 2).find("op1.parallel"), 0);
}

TEST(Schedule, RandomMutatedAndCrossedPointsAreLegal) {
  const std::vector<Workload> workloads = test_workloads();
  Rng rng(1);
  int points = 0;
  while (points < 10'000) {
    for (const Workload& workload : workloads) {
      const Target target = points % 3 == 0   ? avx512()
                            : points % 3 == 1 ? neon()
                                              : simulated_target();
      const ScheduleSpace space = schedule_space(workload, target, 1 + points % 2);
      ASSERT_TRUE(check_legal(space, default_schedule(space)).ok());
      const Schedule a = random_schedule(space, rng), b = random_schedule(space, rng);
      const Schedule mutant = mutate(space, a, rng), child = crossover(space, a, mutant, rng);
      for (const Schedule& schedule : {a, b, mutant, child}) {
        const Status status = check_legal(space, schedule);
        ASSERT_TRUE(status.ok()) << status.message();
        ++points;
      }
      int legal = 0;  // the whole space, where it is small
      for (const Field& field : space.fields) legal += static_cast<int>(field.choices.size()) - 1;
      if (legal > 0) {
        ASSERT_NE(mutant, a) << workload.describe() << " " << to_text(space, a);
      }
      for (size_t f = 0; f < child.values.size(); ++f)
        ASSERT_THAT(child.values[f], AnyOf(a.values[f], mutant.values[f]));
    }
  }
}

TEST(Schedule, SameSeedSamePoints) {
  const ScheduleSpace space =
      schedule_space(workload_named("conv1x1+depthwise", "14x14 112->672"), avx512(), 2);
  Rng a(5), b(5);
  for (int i = 0; i < 50; ++i) {
    const Schedule schedule = random_schedule(space, a);
    ASSERT_EQ(schedule, random_schedule(space, b));
    ASSERT_EQ(mutate(space, schedule, a), mutate(space, schedule, b));
  }
}

TEST(Schedule, MutationPrefersNearAndDividingValues) {
  const ScheduleSpace space =
      schedule_space(workload_named("conv1x1", "14x14 112->672"), avx512(), 1);
  const int field = space.find("op1.pixels");
  const Schedule start = changed(space, "op1.pixels", 4);
  Rng rng(2);
  std::map<int, int> drawn;
  for (int i = 0; i < 20'000; ++i) ++drawn[mutate(space, start, rng).values[field]];
  // 196 pixels: 7 divides, 6 does not and is nearer; 28 and 14 divide, 14 is nearer.
  EXPECT_GT(drawn[7], drawn[6]);
  EXPECT_GT(drawn[14], drawn[12]);
  EXPECT_GT(drawn[2], drawn[1]);
}

TEST(Schedule, TextAndJsonRoundTrip) {
  Rng rng(4);
  for (const Workload& workload : test_workloads()) {
    const ScheduleSpace space = schedule_space(workload, avx512(), 2);
    const Schedule schedule = random_schedule(space, rng);
    const auto from_text = parse_schedule(space, to_text(space, schedule));
    ASSERT_TRUE(from_text.ok()) << from_text.status().message();
    EXPECT_EQ(*from_text, schedule);
    const auto from_json = schedule_from_json(to_json(schedule));
    ASSERT_TRUE(from_json.ok());
    EXPECT_EQ(*from_json, schedule);
  }
}

TEST(Schedule, TextErrorsNameTheField) {
  const ScheduleSpace space =
      schedule_space(workload_named("conv1x1", "14x14 112->672"), avx512(), 1);
  const std::string text = to_text(space, default_schedule(space));
  const auto error = [&](const std::string& changed_text) {
    return std::string(message(parse_schedule(space, changed_text).status()));
  };
  EXPECT_THAT(error(text + " op1.pixel=3"), HasSubstr("did you mean \"op1.pixels\""));
  EXPECT_THAT(error(text + " op1.order=0"), HasSubstr("\"op1.order\" is given twice"));
  EXPECT_THAT(error("op1.vector=16"), HasSubstr("is missing"));
  EXPECT_THAT(error("op1.vector=x"), HasSubstr("no whole number"));
  EXPECT_THAT(error("op1.vector"), HasSubstr("no whole number"));
  EXPECT_FALSE(schedule_from_json(Json::parse("[1, 2.5]")).ok());
  EXPECT_FALSE(schedule_from_json(Json::parse("{}")).ok());
  EXPECT_FALSE(schedule_from_json(Json::parse("[1e300, \"a\"]")).ok());
}

TEST(Schedule, IllegalVectorsAreToldTheRule) {
  const ScheduleSpace conv =
      schedule_space(workload_named("conv1x1", "14x14 112->672"), avx512(), 2);
  const auto rule = [](const ScheduleSpace& space, const Schedule& schedule) {
    const Status status = check_legal(space, schedule);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(message(status));
  };
  Schedule schedule = default_schedule(conv);
  schedule.values.pop_back();
  EXPECT_THAT(rule(conv, schedule), HasSubstr("length"));
  EXPECT_THAT(rule(conv, changed(conv, "op1.pixels", 9)), HasSubstr("value not offered"));
  EXPECT_THAT(rule(conv, changed(conv, "op1.pixels", 28)), HasSubstr("register budget"));
  schedule = changed(conv, "op1.unroll", 8);
  schedule.values[conv.find("op1.channel_vectors")] = 3;
  schedule.values[conv.find("op1.pixels")] = 10;
  EXPECT_THAT(rule(conv, schedule), HasSubstr("unrolled body too large"));

  const ScheduleSpace reduce =
      schedule_space(workload_named("conv1x1", "14x14 200->80"), avx512(), 2);
  schedule = changed(reduce, "op2.unroll", 8);  // fits 200 steps, but not 100 pairs
  schedule.values[reduce.find("op2.channel_vectors")] = 1;
  schedule.values[reduce.find("op2.pixels")] = 4;
  EXPECT_TRUE(check_legal(reduce, schedule).ok()) << check_legal(reduce, schedule).message();
  schedule.values[reduce.find("op2.vector")] = 8;
  EXPECT_THAT(rule(reduce, schedule), HasSubstr("8 x 2 steps do not divide 200"));

  const ScheduleSpace depthwise =
      schedule_space(workload_named("depthwise", "28x28 120"), avx512(), 2);
  EXPECT_THAT(rule(depthwise, changed(depthwise, "op1.slice", 3)),
              HasSubstr("forbidden combination: border=0"));
  schedule = changed(depthwise, "op1.border", 1);
  schedule.values[depthwise.find("op1.channel_vectors")] = 3;
  schedule.values[depthwise.find("op1.pixels")] = 2;
  schedule.values[depthwise.find("op1.slice")] = 2;  // 12 vectors where 120 channels fill 8
  EXPECT_THAT(rule(depthwise, schedule), HasSubstr("rounded up by more than a third"));
  const ScheduleSpace fused =
      schedule_space(workload_named("conv1x1+depthwise+conv1x1", "14x14 80->200"), avx512(), 2);
  schedule = changed(fused, "op3.strip", 7);
  schedule.values[fused.find("op3.parallel")] = 2;
  EXPECT_THAT(rule(fused, schedule), HasSubstr("parallel=2"));
  schedule.values[fused.find("op3.parallel")] = 3;
  EXPECT_THAT(rule(fused, schedule), HasSubstr("parallel=3 with strips"));
  schedule = changed(fused, "op1.order", 1);
  schedule.values[fused.find("op1.parallel")] = 2;
  EXPECT_THAT(rule(fused, schedule), HasSubstr("parallel=2 needs order=0"));
  // 200 channels are 13 vectors, two parts of whole slices 16, with 2 x 5 vectors 20.
  schedule = changed(fused, "op2.slice", 2);
  schedule.values[fused.find("op3.parallel")] = 3;
  EXPECT_TRUE(check_legal(fused, schedule).ok()) << check_legal(fused, schedule).message();
  schedule.values[fused.find("op1.channel_vectors")] = 5;
  EXPECT_THAT(rule(fused, schedule), HasSubstr("rounded up by more than a third"));
}

// Which ops' weights a thread reads a part of follows from the loop that is shared.
TEST(Tiling, ThreadsShareChannelsOrRows) {
  const auto shared = [](const ScheduleSpace& space, const Schedule& schedule) {
    const std::vector<OpRole> roles = op_roles(space.workload);
    return channels_shared(space, roles, resolve(space, roles, schedule));
  };
  const ScheduleSpace conv =
      schedule_space(workload_named("conv1x1", "14x14 112->672"), avx512(), 2);
  EXPECT_THAT(shared(conv, default_schedule(conv)), ElementsAre(false, true));
  EXPECT_THAT(shared(conv, changed(conv, "op1.order", 1)), ElementsAre(false, false));
  EXPECT_THAT(shared(conv, changed(conv, "op1.parallel", 0)), ElementsAre(false, false));

  const ScheduleSpace fused =
      schedule_space(workload_named("conv1x1+depthwise+conv1x1", "14x14 80->200"), avx512(), 2);
  // Slices of channels; then rows, as one block holds all channels of the projection.
  EXPECT_THAT(shared(fused, changed(fused, "op2.slice", 2)), ElementsAre(false, true, true, false));
  // All inside strips of rows.
  Schedule schedule = changed(fused, "op2.slice", 2);
  schedule.values[fused.find("op3.strip")] = 7;
  EXPECT_THAT(shared(fused, schedule), ElementsAre(false, false, false, false));
  // Channels of what is read, so rows of the projection's weights.
  schedule.values[fused.find("op3.strip")] = 0;
  schedule.values[fused.find("op3.parallel")] = 3;
  EXPECT_THAT(shared(fused, schedule), ElementsAre(false, true, true, false));
}

// Rows pass from strip to strip where one thread makes one after the other, channels and all.
TEST(Tiling, OneThreadKeepsTheRowsThatTwoStripsRead) {
  const auto keeps = [](const ScheduleSpace& space, const std::vector<int>& values) {
    Schedule schedule = changed(space, "op1.channel_vectors", 1);
    const char* names[] = {"op2.slice", "op2.order", "op2.strip", "op3.strip", "op2.parallel"};
    for (size_t i = 0; i < values.size(); ++i)
      if (const int field = space.find(names[i]); field >= 0) schedule.values[field] = values[i];
    const std::vector<OpTile> tiles = resolve(space, op_roles(space.workload), schedule);
    return std::ranges::any_of(tiles, &OpTile::keeps_rows);
  };
  for (const int threads : {1, 2}) {
    const ScheduleSpace two =
        schedule_space(workload_named("conv1x1+depthwise", "112x112 16->64"), avx512(), threads);
    EXPECT_FALSE(keeps(two, {1, 0, 0, 0, 1}));            // no strips
    EXPECT_TRUE(keeps(two, {1, 0, 4, 0, 1})) << threads;  // in slices
    EXPECT_FALSE(keeps(two, {1, 1, 4, 0, 1}));            // slices inside
    EXPECT_TRUE(keeps(two, {0, 1, 4, 0, 1})) << threads;  // in runs of strips
    EXPECT_FALSE(keeps(two, {0, 1, 28, 0, 1}));           // a strip needs nearly all
    EXPECT_TRUE(keeps(two, {0, 1, 4, 0, 0})) << threads;  // do not share them
    const ScheduleSpace three = schedule_space(
        workload_named("conv1x1+depthwise+conv1x1", "112x112 16->64"), avx512(), threads);
    EXPECT_TRUE(keeps(three, {4, 0, 0, 4, 1})) << threads;
    EXPECT_FALSE(keeps(three, {4, 0, 0, 56, 1}));  // what is needed at a time is nearly all
    EXPECT_FALSE(keeps(three, {1, 0, 0, 4, 1}));   // slices inside
  }
  // No row is read twice.
  const ScheduleSpace single =
      schedule_space(workload_named("conv3x3", "224x224 3->16"), avx512(), 1);
  EXPECT_FALSE(keeps(single, {0, 0, 0, 0, 0}));
}

TEST(Structured, StripsOtherWidthsAndSharedReductions) {
  const auto texts = [](const char* kind, const char* text, int threads) {
    const ScheduleSpace space = schedule_space(workload_named(kind, text), avx512(), threads);
    std::vector<std::string> changes;
    for (const Schedule& schedule : structured_schedules(space)) {
      EXPECT_TRUE(check_legal(space, schedule).ok());
      std::string change;
      for (size_t i = 0; i < space.fields.size(); ++i)
        if (schedule.values[i] != default_schedule(space).values[i])
          change += fmt::format("{}={} ", space.fields[i].name, schedule.values[i]);
      changes.push_back(change);
    }
    return changes;
  };
  const char* all = "conv1x1+depthwise+conv1x1";
  const std::string half = "op3.vector=8 op3.channel_vectors=2 op3.pixels=14 ";
  const std::string whole = "op3.vector=16 op3.channel_vectors=2 op3.pixels=14 ";
  EXPECT_THAT(texts(all, "112x112 16->64", 1), ElementsAre("op3.strip=4 ", whole));
  EXPECT_THAT(texts(all, "14x14 80->200", 1), ElementsAre("op3.strip=4 ", half));
  EXPECT_THAT(texts("depthwise+conv1x1", "14x14 200->80", 1), ElementsAre("op3.strip=4 ", half));
  EXPECT_THAT(texts(all, "112x112 16->64", 2), ElementsAre("op3.strip=4 ", whole));
  EXPECT_THAT(texts(all, "14x14 80->200", 2), ElementsAre("op3.strip=4 ", half, "op3.parallel=3 "));
  EXPECT_THAT(texts("conv1x1+depthwise", "112x112 16->64", 2),
              ElementsAre("op2.strip=4 ", "op2.order=1 op2.slice=0 op2.strip=4 "));
  EXPECT_THAT(texts("pool+conv1x1+conv1x1", "14x14 480->120", 2),
              ElementsAre("op2.vector=8 op2.channel_vectors=5 op3.vector=8 op3.channel_vectors=4 ",
                          "op1.parallel=3 "));
  EXPECT_THAT(texts("conv1x1", "14x14 112->672", 2), ElementsAre("op1.vector=8 "));
}

// Changes of the default change what every untuned network runs, and must be seen here; changes of
// the fields or their meaning raise kScheduleVersion.
TEST(ScheduleGolden, DefaultsAndSizes) {
  struct Golden {
    std::string kind, text, schedule;
    double points;
  };
  const std::vector<Golden> goldens = {
      {"conv1x1", "14x14 112->672",
       "op1.vector=16 op1.channel_vectors=6 op1.pixels=4 op1.unroll=1 op1.order=0 op1.parallel=1",
       5040},
      {"conv1x1", "14x14 200->80",
       "op2.vector=16 op2.channel_vectors=5 op2.pixels=4 op2.unroll=1 op2.order=0 op2.parallel=1",
       4320},
      {"conv3x3", "224x224 3->16",
       "op1.vector=16 op1.channel_vectors=1 op1.pixels=28 op1.unroll=1 op1.order=0 op1.border=1 "
       "op1.strip=0 op1.parallel=1",
       6480},
      {"depthwise", "28x28 120",
       "op1.vector=16 op1.channel_vectors=1 op1.pixels=14 op1.unroll=0 op1.order=0 op1.border=0 "
       "op1.slice=0 op1.strip=0 op1.parallel=1",
       118272},
      {"conv1x1+depthwise", "112x112 16->64",
       "op1.vector=16 op1.channel_vectors=4 op1.pixels=6 op1.unroll=1 op1.order=0 op1.parallel=1 "
       "op2.channel_vectors=2 op2.pixels=8 op2.unroll=0 op2.order=0 op2.border=0 op2.slice=1 "
       "op2.strip=0 op2.parallel=1",
       2.39501e+08},
      {"conv1x1+depthwise+conv1x1", "14x14 80->200",
       "op1.vector=16 op1.channel_vectors=2 op1.pixels=14 op1.unroll=1 op1.order=0 op1.parallel=1 "
       "op2.channel_vectors=1 op2.pixels=14 op2.unroll=0 op2.order=0 op2.border=0 op2.slice=1 "
       "op2.parallel=1 op3.vector=16 op3.channel_vectors=5 op3.pixels=5 op3.unroll=1 op3.order=0 "
       "op3.strip=0 op3.parallel=1",
       3.792438e+11},
      {"pool+conv1x1+conv1x1", "7x7 960",
       "op1.vector=16 op1.channel_vectors=6 op1.parallel=1 op2.vector=16 op2.channel_vectors=5 "
       "op2.pixels=1 op2.unroll=1 op2.parallel=1 op3.vector=16 op3.channel_vectors=10 op3.pixels=1 "
       "op3.unroll=1 op3.parallel=1",
       2.064384e+06},
      {"scale+conv1x1", "14x14 672->112",
       "op3.vector=16 op3.scale=2 op3.parallel=1 op4.vector=16 op4.channel_vectors=7 op4.pixels=3 "
       "op4.unroll=1 op4.order=0 op4.parallel=1",
       60480},
      {"conv1x1+pool", "7x7 160->960",
       "op1.vector=16 op1.channel_vectors=3 op1.pixels=7 op1.unroll=1 op1.order=0 op1.parallel=1 "
       "op2.channel_vectors=6 op2.slice=0 op2.parallel=1",
       460992},
  };
  for (const Golden& golden : goldens) {
    const ScheduleSpace space =
        schedule_space(workload_named(golden.kind, golden.text), avx512(), 2);
    double points = 1;
    for (const Field& field : space.fields) points *= static_cast<double>(field.choices.size());
    EXPECT_EQ(to_text(space, default_schedule(space)), golden.schedule) << golden.kind;
    EXPECT_NEAR(points, golden.points, 1e-5 * points) << golden.kind;
  }
}

// Half vectors hold two steps where there are two: an even number of channels in, on a CPU.
TEST(Tiling, HalfVectorsHoldTwoStepsOfAReduction) {
  const auto steps = [](const std::string& kind, const std::string& text, const Target& target,
                        int vector) {
    const ScheduleSpace space = schedule_space(workload_named(kind, text), target, 1);
    const int last = static_cast<int>(space.workload.graph.ops.size()) - 1;
    const Schedule schedule = changed(space, fmt::format("op{}.vector", last), vector);
    return resolve(space, op_roles(space.workload), schedule).back().steps;
  };
  EXPECT_EQ(steps("conv1x1", "56x56 64->24", avx512(), 8), 2);
  EXPECT_EQ(steps("conv1x1", "56x56 64->24", avx512(), 16), 1);
  EXPECT_EQ(steps("conv1x1", "56x56 64->24", simulated_target(), 4), 2);
  EXPECT_EQ(steps("conv1x1", "14x14 112->672", avx512(), 8), 2);
  EXPECT_EQ(steps("conv3x3", "224x224 3->16", avx512(), 8), 1);
  EXPECT_EQ(steps("depthwise", "28x28 120", avx512(), 8), 1);
}

// A convolution reads its input where it is if few tiles of a row reach beside the image.
TEST(Default, WideMapsAreNotCopied) {
  const auto border = [](int width, int stride) {
    Graph graph;
    const Shape out{width / stride, width / stride, 40};
    graph.add({.kind = OpKind::kInput, .name = "op0", .inputs = {}, .shape = {width, width, 24}});
    graph.add({.kind = OpKind::kConv2d,
               .name = "op1",
               .inputs = {0},
               .shape = out,
               .kernel = 3,
               .stride = stride});
    const ScheduleSpace space = schedule_space(make_workload(graph, {1}), avx512(), 1);
    return space.value(default_schedule(space), "op1.border");
  };
  EXPECT_EQ(border(112, 2), 0);
  EXPECT_EQ(border(56, 1), 1);  // both ends of a row
  EXPECT_EQ(border(14, 1), 1);
}

// Tiles that fit into the registers; rows outermost, several vectors wide, where the input streams.
TEST(Default, DepthwiseTilesByWindowAndMap) {
  const auto tile = [](Shape in, int kernel, int stride) {
    Graph graph;
    graph.add({.kind = OpKind::kInput, .name = "op0", .inputs = {}, .shape = in});
    graph.add({.kind = OpKind::kDepthwise,
               .name = "op1",
               .inputs = {0},
               .shape = {in.h / stride, in.w / stride, in.c},
               .kernel = kernel,
               .stride = stride});
    const ScheduleSpace space = schedule_space(make_workload(graph, {1}), avx512(), 1);
    const Schedule schedule = default_schedule(space);
    return std::vector{space.value(schedule, "op1.channel_vectors"),
                       space.value(schedule, "op1.pixels"), space.value(schedule, "op1.order")};
  };
  EXPECT_THAT(tile({28, 28, 120}, 5, 1), ElementsAre(1, 14, 0));
  EXPECT_THAT(tile({28, 28, 128}, 3, 1), ElementsAre(2, 7, 0));
  EXPECT_THAT(tile({7, 7, 960}, 5, 1), ElementsAre(2, 7, 0));
  EXPECT_THAT(tile({22, 22, 336}, 5, 1), ElementsAre(1, 12, 0));  // not 22
  EXPECT_THAT(tile({56, 56, 40}, 5, 2), ElementsAre(1, 7, 0));    // not 14
  EXPECT_THAT(tile({112, 112, 64}, 5, 2), ElementsAre(4, 3, 1));
  EXPECT_THAT(tile({112, 112, 96}, 7, 2), ElementsAre(2, 6, 1));
}

// Half vectors where they compute a tenth less and nobody pays for it.
TEST(Default, HalfVectorsWhereWholeOnesAreHalfEmpty) {
  const auto vector = [](const std::string& kind, const std::string& text, const char* field) {
    const ScheduleSpace space = schedule_space(workload_named(kind, text), avx512(), 1);
    return space.value(default_schedule(space), field);
  };
  EXPECT_EQ(vector("conv1x1", "56x56 64->24", "op1.vector"), 8);
  EXPECT_EQ(vector("conv1x1", "14x14 200->80", "op2.vector"), 16);
  EXPECT_EQ(vector("conv1x1", "14x14 112->672", "op1.vector"), 16);
  // The depthwise convolution has the vectors of what makes its input.
  EXPECT_EQ(vector("conv1x1+depthwise+conv1x1", "56x56 24->72", "op1.vector"), 16);
  EXPECT_EQ(vector("conv1x1+depthwise+conv1x1", "56x56 24->72", "op3.vector"), 8);
}

TEST(Tiling, LanesCoverEveryChannel) {
  for (int channels = 1; channels <= 70; ++channels) {
    for (int vector : {1, 2, 4, 8, 16}) {
      if (vector > channels) continue;
      const int lanes = (needed_vectors(channels, vector) + 2) * vector;
      std::vector<int> seen(channels);
      for (int lane = 0; lane < lanes; ++lane) {
        const int channel = lane_channel(channels, vector, lane);
        ASSERT_GE(channel, 0);
        ASSERT_LT(channel, channels);
        ++seen[channel];
        // A vector is a run of neighbours.
        if (lane % vector > 0) {
          ASSERT_EQ(channel, lane_channel(channels, vector, lane - 1) + 1);
        }
      }
      EXPECT_THAT(seen, testing::Each(testing::Ge(1)));
    }
  }
}

// Blocks of 2 and 5 vectors of the convolution and the pool would round 23 vectors up to 30.
TEST(Default, BlocksOfOpsThatShareLanesFitIntoEachOther) {
  Graph graph;
  graph.add({.kind = OpKind::kInput, .name = "op0", .inputs = {}, .shape = {5, 5, 184}});
  graph.add({.kind = OpKind::kConv2d, .name = "op1", .inputs = {0}, .shape = {5, 5, 40}});
  graph.add({.kind = OpKind::kGlobalPool, .name = "op2", .inputs = {1}, .shape = {1, 1, 40}});
  Target target = simulated_target();
  target.vector_floats = 8;
  const ScheduleSpace space = schedule_space(make_workload(graph, {1, 2}), target, 1);
  EXPECT_TRUE(check_legal(space, default_schedule(space)).ok());
}

// Threads and blocks of a GPU are a field of their own; what places producers inside loops is not
// offered there.
TEST(Space, GpuHasBindAndNoSlices) {
  Target target = simulated_target();
  target.triple = "x86-64-linux-cuda-cuda_capability_61";
  for (const Workload& workload : test_workloads()) {
    const ScheduleSpace space = schedule_space(workload, target, 1);
    int binds = 0;
    for (const Field& field : space.fields) {
      binds += field.primitive == Primitive::kBind;
      EXPECT_NE(field.primitive, Primitive::kComputeAt) << field.name;
    }
    EXPECT_EQ(binds, 1) << workload.describe();
    EXPECT_TRUE(check_legal(space, default_schedule(space)).ok());
  }
}

}  // namespace
}  // namespace chanas
