#include "chanas/schedule/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "chanas/graph/passes.h"
#include "chanas/graph/testing_networks.h"
#include "chanas/schedule/packing.h"
#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

using testing::HasSubstr;

Target wide() {
  Target target = simulated_target();
  target.vector_floats = 16;
  target.vector_registers = 32;
  return target;
}

// A plan with random cuts and schedules.
ExecutionPlan random_plan(const CutNetwork& network, const Target& target, Rng& rng,
                          int threads = 2) {
  std::vector<ElementChoice> choices;
  for (const Element& element : network.elements) {
    const Cut& cut = rng.choose(element.cuts);
    ElementChoice choice{cut.name, {}};
    for (const Group& group : cut.groups)
      choice.schedules.push_back(
          random_schedule(schedule_space(group.workload, target, threads), rng));
    choices.push_back(std::move(choice));
  }
  auto plan = make_plan(network, target, threads, choices);
  CHANAS_CHECK(plan.ok()) << plan.status().message();
  return *plan;
}

// Runs the plan on paper: every byte of the arena knows which buffer wrote it last, and a stage
// must find its inputs whole.
void simulate(const ExecutionPlan& plan) {
  std::vector<int> owner(plan.activation_bytes, -1);
  std::vector<bool> written(plan.buffers.size());
  written[plan.input] = true;
  const auto bytes = [&](int buffer) {
    return plan.buffers[buffer].shape.elements() * static_cast<int64_t>(sizeof(float));
  };
  for (const Stage& stage : plan.stages) {
    const Buffer& output = plan.buffers[stage.output];
    ASSERT_FALSE(written[stage.output]) << stage.name;
    written[stage.output] = true;
    if (stage.output != plan.output) {
      ASSERT_GE(output.offset_bytes, 0);
      ASSERT_EQ(output.offset_bytes % 64, 0);
      ASSERT_LE(output.offset_bytes + bytes(stage.output), plan.activation_bytes);
      for (int64_t i = 0; i < bytes(stage.output); ++i)
        owner[output.offset_bytes + i] = stage.output;
    }
    // After the write: the output must not have taken the place of an input either.
    for (int input : stage.inputs) {
      ASSERT_TRUE(written[input]) << stage.name;
      if (input == plan.input) continue;
      for (int64_t i = 0; i < bytes(input); ++i)
        ASSERT_EQ(owner[plan.buffers[input].offset_bytes + i], input) << stage.name;
    }
  }
  ASSERT_TRUE(written[plan.output]);
}

TEST(Plan, BuffersNeverOverlapWhileTheyLive) {
  Rng rng(1);
  for (int i = 0; i < 40; ++i) {
    const CutNetwork network = cut_network(random_network(rng));
    const ExecutionPlan plan = random_plan(network, wide(), rng);
    simulate(plan);
    if (HasFatalFailure()) return;
    EXPECT_EQ(plan.buffers[plan.input].offset_bytes, -1);
    EXPECT_EQ(plan.buffers[plan.output].offset_bytes, -1);
  }
}

TEST(Plan, ArenaIsNearTheLargestSumOfLiveBuffers) {
  const CutNetwork network = cut_network(*load_network("mobilenet_v3_large"));
  const auto plan = default_plan(network, wide(), 1);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  simulate(*plan);
  // Expanded and depthwise map of the second unit: 112 x 112 x 64 and 56 x 56 x 64 floats.
  const int64_t live = int64_t{4} * 64 * (112 * 112 + 56 * 56);
  EXPECT_LE(plan->activation_bytes, live * 3 / 2);
  EXPECT_GE(plan->activation_bytes, live);
}

// One thread: no byte twice, none before its stage's own weights or behind the arena, and never
// further ahead of the computing than a quarter of the second cache holds.
TEST(Plan, PrefetchesRunAheadByAQuarterOfTheSecondCacheAtMost) {
  Rng rng(2);
  for (const char* name : {"mobilenet_v3_large", "proxyless_gpu"}) {
    const ExecutionPlan plan = random_plan(cut_network(*load_network(name)), wide(), rng, 1);
    const int64_t ahead = plan.target.l2_bytes / 4;
    int64_t fetched = 0, own = 0, others = 0, of_maps = 0;  // weights of convolutions of whole maps
    for (size_t i = 0; i < plan.stages.size(); ++i) {
      const Graph& graph = plan.stages[i].workload.graph;
      for (const Op& op : graph.ops)
        if (op.kind == OpKind::kConv2d && op.shape.h > 1)
          of_maps +=
              int64_t{4} * op.kernel * op.kernel * graph.ops[op.inputs[0]].shape.c * op.shape.c;
      if (plan.stages[i].prefetch.empty()) continue;
      ASSERT_EQ(plan.stages[i].prefetch.size(), 1u);
      const auto& [begin, bytes, stride] = plan.stages[i].prefetch[0];
      const int64_t weights = plan.stages[i].weight_offset * 4;
      const int64_t next =
          (i + 1 < plan.stages.size() ? plan.stages[i + 1].weight_offset : plan.weight_floats) * 4;
      const int64_t from = weights + begin, to = from + bytes;
      EXPECT_GE(begin, 0) << plan.stages[i].name;
      EXPECT_GE(from, fetched) << plan.stages[i].name;
      EXPECT_LE(from, next) << plan.stages[i].name;
      EXPECT_LE(to, std::min(next + ahead, plan.weight_floats * 4)) << plan.stages[i].name;
      own += std::max<int64_t>(0, std::min(to, next) - from);
      others += std::max<int64_t>(0, to - next);
      fetched = to;
    }
    EXPECT_GT(others, 0) << name;
    // Fully connected layers have no time to fetch anything.
    EXPECT_GT(own + others, of_maps / 2) << name;
    if (name == std::string_view("proxyless_gpu")) {
      EXPECT_GT(own, 0);  // weights of a stage beyond a quarter of the second cache
    }
  }
}

// Several threads: each what it uses itself, inside the weights of the stages that follow, and no
// more than half its second cache.
TEST(Plan, ThreadsPrefetchWhatTheyUse) {
  Rng rng(2);
  int parts = 0, whole = 0;
  for (const int threads : {2, 3}) {
    const ExecutionPlan plan =
        random_plan(cut_network(*load_network("mobilenet_v3_large")), wide(), rng, threads);
    for (size_t i = 0; i < plan.stages.size(); ++i) {
      const int64_t weights = plan.stages[i].weight_offset * 4;
      int64_t to = i + 1 < plan.stages.size() ? plan.stages[i + 1].weight_offset * 4 : 0, bytes = 0;
      for (const PrefetchRange& range : plan.stages[i].prefetch) {
        const int64_t from = weights + range.begin;
        EXPECT_GE(from, to) << plan.stages[i].name;
        EXPECT_TRUE(range.stride == 0 || range.bytes <= range.stride) << plan.stages[i].name;
        bytes += range.bytes;
        to = from + range.bytes + range.stride * (threads - 1);
        EXPECT_LE(to, plan.weight_floats * 4) << plan.stages[i].name;
        ++(range.stride > 0 ? parts : whole);
      }
      EXPECT_LE(bytes, plan.target.l2_bytes / 2) << plan.stages[i].name;
    }
  }
  EXPECT_GT(parts, 20);
  EXPECT_GT(whole, 10);
}

// Candidates are measured as if they ran between stages like themselves; here they do.
TEST(Plan, CandidatesFetchAsBetweenStagesLikeThem) {
  Network network;
  network.name = "equals";
  network.resolution = 14;
  network.stem.c_out = 192;
  network.units.assign(
      4, {.h_in = 7, .c_in = 192, .c_mid = 1152, .c_out = 192, .kernel = 5, .residual = true});
  network.head = {.conv_channels = 96, .classes = 10};
  ASSERT_TRUE(validate(network).ok()) << validate(network);
  const CutNetwork cut = cut_network(network);
  Rng rng(3);
  int own = 0;
  for (const int threads : {1, 1, 1, 2, 2, 2}) {
    std::map<std::string, ElementChoice> choice_of;
    std::vector<ElementChoice> choices;
    for (const Element& element : cut.elements) {
      const Cut& fused =
          *std::ranges::min_element(element.cuts, {}, [](const Cut& c) { return c.groups.size(); });
      ElementChoice& choice = choice_of[element.key];
      choice.cut = fused.name;
      if (choice.schedules.empty())
        for (const Group& group : fused.groups)
          choice.schedules.push_back(
              random_schedule(schedule_space(group.workload, wide(), threads), rng));
      choices.push_back(choice);
    }
    const auto plan = make_plan(cut, wide(), threads, choices);
    ASSERT_TRUE(plan.ok()) << plan.status();
    int between = 0;
    for (size_t i = 1; i + 1 < plan->stages.size(); ++i) {
      const Stage &before = plan->stages[i - 1], &stage = plan->stages[i];
      const std::string workload = stage.workload.fingerprint();
      if (before.workload.fingerprint() != workload ||
          plan->stages[i + 1].workload.fingerprint() != workload)
        continue;
      ++between;
      const Fetching usual =
          usual_fetching(schedule_space(stage.workload, wide(), threads), stage.schedule);
      EXPECT_EQ(stage.prefetch, usual.prefetch);
      const int64_t weights = (stage.weight_offset - before.weight_offset) * 4;
      std::vector<PrefetchRange> fetched = before.prefetch;
      for (PrefetchRange& range : fetched) {
        range.bytes += range.begin - std::max(range.begin, weights);
        range.begin = std::max(range.begin, weights) - weights;
      }
      EXPECT_EQ(fetched, usual.fetched);
      own += usual.prefetch[0].begin < weights;
    }
    EXPECT_EQ(between, 2);
  }
  EXPECT_GT(own, 0);
}

TEST(Plan, StagesAreNamedAfterTheirOps) {
  const CutNetwork network = cut_network(*load_network("mobilenet_v3_large"));
  const auto plan = default_plan(network, wide(), 1);
  ASSERT_TRUE(plan.ok());
  std::vector<std::string> names;
  for (const Stage& stage : plan->stages) names.push_back(stage.name);
  EXPECT_THAT(names, testing::IsSupersetOf(
                         {"stem/conv", "units.1/expand", "units.3/se.pool+se.reduce+se.expand",
                          "units.3/se.scale+project", "head/conv", "head/classifier"}));
}

// Packed buffers against a walk over every weight by its definition.
TEST(Packing, HoldsEveryWeightWhereTheHeaderSays) {
  Rng rng(2);
  for (int i = 0; i < 20; ++i) {
    const CutNetwork network = cut_network(random_network(rng));
    const Parameters parameters = random_parameters(network.graph, i);
    const ExecutionPlan plan = random_plan(network, wide(), rng);
    const auto weights = pack_plan(plan, parameters);
    ASSERT_TRUE(weights.ok()) << weights.status().message();
    ASSERT_EQ(static_cast<int64_t>(weights->size()), plan.weight_floats);
    int64_t used = 0;
    for (const Stage& stage : plan.stages) {
      ASSERT_EQ(stage.weight_offset % 16, 0);
      ASSERT_EQ(stage.weight_offset, used);
      const ScheduleSpace space = schedule_space(stage.workload, plan.target, plan.threads);
      const Packing layout = packing(space, stage.schedule);
      used += layout.size;
      for (const PackedOp& packed : layout.ops) {
        const Op& op = stage.workload.graph.ops[packed.op];
        const Tensor& weight = *parameters.find(stage.names[packed.op] + ".weight");
        const int64_t c_in = weight.shape[1], k = op.kernel, block = packed.block;
        const int64_t steps = packed.steps;
        ASSERT_EQ(packed.lanes % packed.block, 0);
        ASSERT_EQ(packed.weight_size, packed.lanes * c_in * k * k);
        const float* base = weights->data() + stage.weight_offset + packed.weight_offset;
        for (int64_t lane = 0; lane < packed.lanes; ++lane) {
          const int64_t o = lane_channel(op.shape.c, packed.vector, static_cast<int>(lane));
          for (int64_t c = 0; c < c_in; ++c)
            for (int64_t y = 0; y < k; ++y)
              for (int64_t x = 0; x < k; ++x)
                ASSERT_EQ(
                    base[((((lane / block * k + y) * k + x) * (c_in / steps) + c / steps) * block +
                          lane % block) *
                             steps +
                         c % steps],
                    weight.data[((o * c_in + c) * k + y) * k + x]);
          if (op.bias) {
            ASSERT_EQ(base[packed.bias_offset - packed.weight_offset + lane],
                      parameters.find(stage.names[packed.op] + ".bias")->data[o]);
          }
        }
      }
    }
    ASSERT_EQ(used, plan.weight_floats);
  }
}

TEST(Plan, MissingParameterIsNamed) {
  const CutNetwork network = cut_network(*load_network("mobilenet_v3_large"));
  const auto plan = default_plan(network, wide(), 1);
  Parameters parameters = random_parameters(network.graph, 1);
  parameters.erase("units.4.depthwise.conv.weight");
  const auto weights = pack_plan(*plan, parameters);
  ASSERT_FALSE(weights.ok());
  EXPECT_THAT(std::string(message(weights.status())), HasSubstr("units.4.depthwise.conv.weight"));
}

TEST(Plan, JsonRoundTrip) {
  Rng rng(3);
  for (int i = 0; i < 5; ++i) {
    ExecutionPlan plan = random_plan(cut_network(random_network(rng)), wide(), rng);
    plan.network = "tiny";
    const Json json = to_json(plan);
    const auto read = plan_from_json(json);
    ASSERT_TRUE(read.ok()) << read.status().message();
    EXPECT_EQ(to_json(*read), json);
    EXPECT_EQ(read->activation_bytes, plan.activation_bytes);
    EXPECT_EQ(read->weight_floats, plan.weight_floats);
    for (size_t b = 0; b < plan.buffers.size(); ++b)
      EXPECT_EQ(read->buffers[b].offset_bytes, plan.buffers[b].offset_bytes);
  }
}

TEST(Plan, BadJsonIsRefused) {
  Rng rng(4);
  const Json good = to_json(random_plan(cut_network(random_network(rng)), wide(), rng));
  const auto refused = [](const Json& json) {
    const auto plan = plan_from_json(json);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(message(plan.status()));
  };
  Json bad = good;
  bad["schedule_version"] = kScheduleVersion + 1;
  EXPECT_THAT(refused(bad), HasSubstr("tune again"));
  bad = good;
  bad.erase("stages");
  EXPECT_THAT(refused(bad), HasSubstr("stages"));
  bad = good;
  bad["stages"][1]["inputs"][0] = 99;
  EXPECT_THAT(refused(bad), HasSubstr("do not fit"));
  bad = good;
  bad["stages"][1]["inputs"][0] = bad["stages"][1]["output"];  // read before written
  EXPECT_THAT(refused(bad), HasSubstr("do not fit"));
  bad = good;
  bad["stages"][0]["schedule"][0] = 3;
  EXPECT_THAT(refused(bad), HasSubstr("value not offered"));
  bad = good;
  bad["threads"] = "two";
  refused(bad);
}

TEST(Plan, WrongChoicesAreNamed) {
  const CutNetwork network = cut_network(*load_network("mobilenet_v3_large"));
  std::vector<ElementChoice> choices;
  for (const Element& element : network.elements) {
    choices.push_back({element.cuts[0].name, {}});
    for (const Group& group : element.cuts[0].groups)
      choices.back().schedules.push_back(
          default_schedule(schedule_space(group.workload, wide(), 1)));
  }
  ASSERT_TRUE(make_plan(network, wide(), 1, choices).ok());
  const auto refused = [&](std::vector<ElementChoice> wrong) {
    const auto plan = make_plan(network, wide(), 1, wrong);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(message(plan.status()));
  };
  auto wrong = choices;
  wrong.pop_back();
  EXPECT_THAT(refused(wrong), HasSubstr("elements"));
  wrong = choices;
  wrong[2].cut = "sideways";
  EXPECT_THAT(refused(wrong), HasSubstr("units.1: there is no cut \"sideways\""));
  wrong = choices;
  wrong[2].schedules.pop_back();
  EXPECT_THAT(refused(wrong), HasSubstr("got 2 schedules"));
  wrong = choices;
  wrong[2].schedules[0].values[0] = -1;
  EXPECT_THAT(refused(wrong), HasSubstr("value not offered"));
}

}  // namespace
}  // namespace chanas
