#include "chanas/graph/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "chanas/graph/passes.h"
#include "chanas/graph/testing_networks.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Unit kPlain = {.h_in = 56,
                         .c_in = 24,
                         .c_mid = 72,
                         .c_out = 40,
                         .kernel = 5,
                         .stride = 2,
                         .act = Activation::kRelu};
constexpr Unit kSe = {.h_in = 14,
                      .c_in = 80,
                      .c_mid = 480,
                      .c_out = 80,
                      .se_channels = 120,
                      .se_gate = Activation::kHSigmoid,
                      .act = Activation::kHSwish,
                      .residual = true};

const Workload& workload(const Element& element, size_t cut, size_t group) {
  return element.cuts.at(cut).groups.at(group).workload;
}

TEST(Workload, IsCanonical) {
  const Workload project = workload(unit_element(kSe), 0, 3);
  EXPECT_EQ(to_text(project.graph),
            "%0 = input op0 [14x14x480]\n"
            "%1 = input op1 [1x1x480]\n"
            "%2 = input op2 [14x14x80]\n"
            "%3 = scale op3 [14x14x480] of %0, %1\n"
            "%4 = conv2d op4 [14x14x80] of %3, %2 k1 s1 bias residual\n");
}

TEST(Workload, DescribesItself) {
  const Element plain = unit_element(kPlain), se = unit_element(kSe);
  EXPECT_EQ(workload(plain, 0, 0).describe(), "conv1x1 56x56 24->72 relu");
  EXPECT_EQ(workload(plain, 0, 1).describe(), "depthwise 56x56 72 k5 s2 relu");
  EXPECT_EQ(workload(plain, 0, 2).describe(), "conv1x1 28x28 72->40");
  EXPECT_EQ(workload(plain, 3, 0).describe(),
            "conv1x1+depthwise+conv1x1 56x56 24->72->40 relu k5 s2 relu");
  EXPECT_EQ(workload(se, 0, 2).describe(),
            "pool+conv1x1+conv1x1 14x14 480->120->480 relu hsigmoid");
  EXPECT_EQ(workload(se, 0, 3).describe(), "scale+conv1x1 14x14 480->80 residual");
}

// Keys of every stored measurement: a change here makes all of them worthless. If a fingerprint
// must change, so must kScheduleVersion's meaning of "same work", and stores need a migration.
TEST(Fingerprint, GoldenValuesNeverChange) {
  const Element plain = unit_element(kPlain), se = unit_element(kSe);
  Network network;
  network.units = {kPlain};
  EXPECT_EQ(workload(plain, 0, 0).fingerprint(), "2ee564d5ccafd61e");
  EXPECT_EQ(workload(plain, 0, 1).fingerprint(), "dbf3ef4cb3f9608b");
  EXPECT_EQ(workload(plain, 1, 1).fingerprint(), "53ba6381699664d3");
  EXPECT_EQ(workload(plain, 2, 0).fingerprint(), "f3d5fd938c068e74");
  EXPECT_EQ(workload(plain, 3, 0).fingerprint(), "ad3679644375b451");
  EXPECT_EQ(workload(se, 0, 2).fingerprint(), "0d29965f3f5fff8f");
  EXPECT_EQ(workload(se, 0, 3).fingerprint(), "666b56ebc04cbc98");
  EXPECT_EQ(workload(stem_element(network), 0, 0).fingerprint(), "a3cbe5b2d05f08e1");
}

TEST(Fingerprint, DoesNotDependOnNames) {
  const Workload a = make_workload(fused_graph(kPlain), {2, 3});
  Graph renamed = fused_graph(kPlain);
  for (Op& op : renamed.ops) op.name = "other " + op.name;
  EXPECT_EQ(make_workload(renamed, {2, 3}).fingerprint(), a.fingerprint());
  Workload same = a;
  for (Op& op : same.graph.ops) op.name += "x";
  EXPECT_EQ(same.fingerprint(), a.fingerprint());
}

TEST(Fingerprint, DependsOnEverythingElse) {
  std::set<std::string> seen;
  auto expect_new = [&](const Workload& workload) {
    EXPECT_TRUE(seen.insert(workload.fingerprint()).second) << to_text(workload.graph);
  };
  const Workload base = workload(unit_element(kPlain), 1, 1);
  expect_new(base);
  auto changed = [&](auto change) {
    Workload other = base;
    change(other.graph);
    expect_new(other);
  };
  changed([](Graph& g) { g.ops[0].shape.h += 1; });
  changed([](Graph& g) { g.ops[0].shape.w += 1; });
  changed([](Graph& g) { g.ops[0].shape.c += 1; });
  changed([](Graph& g) { g.ops[1].kind = OpKind::kConv2d; });
  changed([](Graph& g) { g.ops[1].kernel = 3; });
  changed([](Graph& g) { g.ops[1].stride = 1; });
  changed([](Graph& g) { g.ops[1].bias = false; });
  changed([](Graph& g) { g.ops[1].act = Activation::kHSwish; });
  changed([](Graph& g) { g.ops[2].residual = true; });
  changed([](Graph& g) { g.ops[2].inputs = {0}; });
  changed([](Graph& g) { g.ops[2].inputs = {1, 0}; });
  Graph unfused = lower(kPlain);
  expect_new(make_workload(unfused, {2}));
  unfused.ops[2].epsilon = 1e-3;
  expect_new(make_workload(unfused, {2}));
}

TEST(WorkloadJson, RoundTrips) {
  Rng rng(23);
  for (int i = 0; i < 40; ++i) {
    for (const Element& element : elements(random_network(rng))) {
      for (const Cut& cut : element.cuts) {
        for (const Group& group : cut.groups) {
          const StatusOr<Json> json = parse_json(to_json(group.workload).dump());
          ASSERT_TRUE(json.ok());
          const StatusOr<Workload> back = workload_from_json(*json);
          ASSERT_TRUE(back.ok()) << back.status();
          EXPECT_EQ(back->graph, group.workload.graph);
          EXPECT_EQ(back->fingerprint(), group.workload.fingerprint());
        }
      }
    }
  }
}

TEST(WorkloadJson, RefusesWhatIsNotCanonical) {
  const Graph good = workload(unit_element(kSe), 0, 3).graph;
  auto refused = [&](auto spoil, const char* message) {
    Graph graph = good;
    spoil(graph);
    const StatusOr<Workload> result = workload_from_json(to_json(graph));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(message));
  };
  refused([](Graph& g) { g.ops[3].name = "scale"; }, "not canonical");
  refused(  // inputs out of the order of first use
      [](Graph& g) {
        std::swap(g.ops[0].shape, g.ops[1].shape);
        g.ops[3].inputs = {1, 0};
      },
      "not canonical");
  refused(  // an input that nothing reads
      [](Graph& g) {
        g.ops[4].inputs.pop_back();
        g.ops[4].residual = false;
      },
      "not canonical");
  refused(  // a value that nothing reads
      [](Graph& g) { g.ops[4].inputs[0] = 0; }, "not used by the group alone");
  refused([](Graph& g) { g.ops[4].stride = 9; }, "stride 9");
}

TEST(MakeWorkloadDeath, ValueUsedOutsideIsABug) {
  const Graph graph = fused_graph(kSe);  // the depthwise value feeds the pool and the scale
  EXPECT_DEATH(make_workload(graph, {1, 2, 3}), "only its last op makes an output");
}

}  // namespace
}  // namespace chanas
