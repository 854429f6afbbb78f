#include "chanas/tune/latency_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "chanas/tune/testing_tune.h"

namespace chanas {
namespace {

using ::testing::HasSubstr;

ArchSpace space_named(const std::string& name) {
  auto space = load_space(name);
  CHANAS_CHECK(space.ok()) << space.status().ToString();
  return *std::move(space);
}

double best_us(Store& store, const Workload& workload) {
  return (*store.best(workload.fingerprint(), testing_key()))->result.latency_us;
}

double default_us(Store& store, const Workload& workload) {
  for (const Record& record : records_of(store, workload)) {
    if (record.origin == "default") return record.result.latency_us;
  }
  return 0;
}

TEST(LatencyTable, RowsAreTheBestCuts) {
  auto store = *Store::open(":memory:");
  const std::vector<Element> elements = space_elements(tiny_space());
  const LatencyTable table = tuned_table(*store, elements, 10);
  EXPECT_EQ(table.rows().size(), elements.size());
  EXPECT_EQ(table.find("no such row"), nullptr);
  int fused = 0;
  for (const Element& element : elements) {
    const TableRow* row = table.find(element.key);
    ASSERT_NE(row, nullptr);
    double best = 1e30;
    for (const Cut& cut : element.cuts) {
      double sum = 0, default_sum = 0;
      for (const Group& group : cut.groups) {
        sum += best_us(*store, group.workload);
        default_sum += default_us(*store, group.workload);
      }
      best = std::min(best, sum);
      if (cut.name == row->choice.cut) {
        EXPECT_DOUBLE_EQ(row->latency_us, sum);
        ASSERT_EQ(row->choice.schedules.size(), cut.groups.size());
        ASSERT_EQ(row->stages.size(), cut.groups.size());
        for (size_t i = 0; i < cut.groups.size(); ++i) {
          const Workload& workload = cut.groups[i].workload;
          EXPECT_EQ(row->stages[i].workload, workload.fingerprint());
          EXPECT_EQ(row->stages[i].kind, workload.kind());
          EXPECT_DOUBLE_EQ(row->stages[i].us, best_us(*store, workload));
          EXPECT_EQ(row->choice.schedules[i],
                    (*store->best(workload.fingerprint(), testing_key()))->schedule);
        }
      }
      if (cut.name == row->default_cut) {
        EXPECT_DOUBLE_EQ(row->default_us, default_sum);
        ASSERT_EQ(row->default_stages.size(), cut.groups.size());
        for (size_t i = 0; i < cut.groups.size(); ++i) {
          EXPECT_EQ(row->default_stages[i].kind, cut.groups[i].workload.kind());
          EXPECT_DOUBLE_EQ(row->default_stages[i].us, default_us(*store, cut.groups[i].workload));
          EXPECT_EQ(
              row->default_choice.schedules[i],
              default_schedule(schedule_space(cut.groups[i].workload, simulated_target(), 1)));
        }
      }
    }
    EXPECT_DOUBLE_EQ(row->latency_us, best);
    EXPECT_EQ(row->default_cut, element.cuts.front().name);
    EXPECT_EQ(row->default_choice.cut, row->default_cut);
    EXPECT_LE(row->latency_us, row->default_us);
    EXPECT_GT(row->oldest_s, 1700000000);
    EXPECT_GT(row->trials, 0);
    fused += row->choice.cut != "unfused";
  }
  EXPECT_GT(fused, 0);
}

TEST(LatencyTable, NamesWhatIsNotTuned) {
  auto store = *Store::open(":memory:");
  const std::vector<Element> elements = space_elements(tiny_space());
  tune_elements(*store, {elements[0]}, 1);
  const auto table = LatencyTable::build(*store, testing_key(), simulated_target(), elements);
  EXPECT_EQ(table.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message(table.status())), HasSubstr(elements[1].key));
  EXPECT_THAT(std::string(message(table.status())), HasSubstr("chanas tune"));
  // Rows of another key are not used.
  RecordKey other = testing_key();
  other.threads = 2;
  EXPECT_EQ(LatencyTable::build(*store, other, simulated_target(), {elements[0]}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(LatencyTable, IsExtended) {
  auto store = *Store::open(":memory:");
  const std::vector<Element> elements = space_elements(tiny_space());
  LatencyTable table = tuned_table(*store, {elements[0], elements[1]}, 2);
  EXPECT_EQ(table.extend(*store, elements).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table.rows().size(), 2u);
  tune_elements(*store, elements, 2);
  ASSERT_TRUE(table.extend(*store, elements).ok());
  EXPECT_EQ(table.rows().size(), elements.size());
}

TEST(LatencyTable, LeavesOutCutsThatCannotRun) {
  auto store = *Store::open(":memory:");
  const std::vector<Element> elements = space_elements(tiny_space());
  const auto element = std::find_if(elements.begin(), elements.end(),
                                    [](const Element& e) { return e.cuts.size() > 1; });
  ASSERT_NE(element, elements.end());
  // All workloads of the fused cuts fail, then one of the unfused one too.
  std::set<std::string> unfused;
  for (const Group& group : element->cuts[0].groups) unfused.insert(group.workload.fingerprint());
  const auto add = [&](const TuningTask& task, TrialError error) {
    Record record;
    record.workload = task.workload.fingerprint();
    record.key = testing_key();
    record.schedule = default_schedule(schedule_space(task.workload, simulated_target(), 1));
    record.origin = "default";
    record.result.error = error;
    record.result.latency_us = 3;
    record.result.message = "made up";
    std::vector<Record> records = {record};
    ASSERT_TRUE(store->put_device(simulated_target()).ok());
    ASSERT_TRUE(store->put_workload(task.workload).ok());
    ASSERT_TRUE(store->add_records(records).ok());
  };
  for (const TuningTask& task : tuning_tasks({*element})) {
    add(task, unfused.contains(task.workload.fingerprint()) ? TrialError::kNone
                                                            : TrialError::kWrongResult);
  }
  auto table = LatencyTable::build(*store, testing_key(), simulated_target(), {*element});
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->find(element->key)->choice.cut, element->cuts[0].name);
  add({element->cuts[0].groups[0].workload}, TrialError::kCrash);
  table = LatencyTable::build(*store, testing_key(), simulated_target(), {*element});
  EXPECT_EQ(table.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message(table.status())), HasSubstr("made up"));
}

TEST(LatencyTable, PlansNetworks) {
  auto store = *Store::open(":memory:");
  const ArchSpace space = tiny_space();
  const LatencyTable table = tuned_table(*store, space_elements(space), 6);
  Rng rng(5);
  for (int i = 0; i < 5; ++i) {
    const Network network = to_network(space, sample(space, rng.choose(space.cells()), rng));
    for (const bool tuned : {true, false}) {
      const auto plan = table.plan(network, tuned);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_EQ(plan->threads, testing_plan().threads);
      EXPECT_EQ(plan->network, network.name);
      double us = 0;
      size_t stages = 0;
      for (const Element& element : elements(network)) {
        const TableRow* row = table.find(element.key);
        us += tuned ? row->latency_us : row->default_us;
        stages += (tuned ? row->choice : row->default_choice).schedules.size();
      }
      ASSERT_EQ(plan->stages.size(), stages);
      // The stages are those whose records make up the rows.
      double stage_us = 0;
      for (const Stage& stage : plan->stages) {
        double last_us = 0;  // a winner was measured twice
        for (const Record& record : records_of(*store, stage.workload)) {
          if (record.schedule == stage.schedule) last_us = record.result.latency_us;
        }
        stage_us += last_us;
      }
      EXPECT_NEAR(stage_us, us, 1e-9 * us);
    }
  }
  Network other = to_network(space, smallest(space));
  other.units[1].c_mid += 8;
  EXPECT_EQ(table.plan(other).status().code(), absl::StatusCode::kNotFound);
}

TEST(SpaceElements, HoldEveryNetworkOnce) {
  for (const std::string name : {"demo", "cifar"}) {
    const ArchSpace space = space_named(name);
    std::set<std::string> keys, workloads;
    for (const Element& element : space_elements(space)) {
      EXPECT_TRUE(keys.insert(element.key).second) << element.key;
      EXPECT_EQ(element.cuts[0].name, "unfused");
    }
    Rng rng(3);
    for (int i = 0; i < 30; ++i) {
      const Network network = to_network(space, sample(space, rng.choose(space.cells()), rng));
      for (const Element& element : elements(network)) {
        EXPECT_TRUE(keys.contains(element.key)) << element.key;
      }
    }
  }
}

TEST(SpaceElements, CountsOfThePaper) {
  // 1,503 elastic units over all 20 cells, and per cell at most a stem, a first unit and a head.
  const ArchSpace space = space_named("paper");
  int units = 0, others = 0;
  for (const Element& element : space_elements(space)) {
    (element.name == "unit" ? units : others) += 1;
  }
  EXPECT_GE(units, 1503);
  EXPECT_LE(units, 1503 + 20);
  EXPECT_LE(others, 40);
}

TEST(TypicalWeightBytes, LiesBetweenSmallestAndLargest) {
  const ArchSpace space = space_named("demo");
  const int64_t bytes = typical_weight_bytes(space);
  EXPECT_GT(bytes, 4 * params(to_network(space, smallest(space))));
  EXPECT_LT(bytes, 4 * params(to_network(space, largest(space))));
}

}  // namespace
}  // namespace chanas
