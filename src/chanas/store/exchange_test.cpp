#include "chanas/store/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/store/testing_records.h"

namespace chanas {
namespace {

class Exchange : public ::testing::Test {
 protected:
  void SetUp() override {
    from = *Store::open(":memory:");
    to = *Store::open(":memory:");
    const ScheduleSpace space = schedule_space(workload, simulated_target(), 1);
    ASSERT_TRUE(put_small(*from, workload).ok());
    Rng rng(1);
    std::vector<Record> records = {small_record(workload, default_schedule(space), 50)};
    records[0].origin = "default";
    Schedule schedule = records[0].schedule;
    std::set<Schedule> seen = {schedule};
    while (seen.size() < 5) {
      schedule = mutate(space, schedule, rng);
      if (!seen.insert(schedule).second) continue;
      records.push_back(small_record(workload, schedule, 40 - static_cast<double>(seen.size())));
    }
    records.push_back(records[2]);
    records.back().result.latency_us = 20;
    records.back().time_s += 5;
    ASSERT_TRUE(from->add_records(records).ok());
  }

  Workload workload = small_workload(16, 32);
  std::unique_ptr<Store> from, to;
};

TEST_F(Exchange, CarriesTheTable) {
  const auto document = export_rows(*from, small_key());
  ASSERT_TRUE(document.ok()) << document.status();
  const auto result = import_rows(*to, Json::parse(document->dump()));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->key, small_key());
  EXPECT_EQ(result->added, 2);
  const auto a = from->summaries(small_key()), b = to->summaries(small_key());
  ASSERT_EQ(b->size(), 1u);
  EXPECT_EQ((*a)[0].best, (*b)[0].best);
  EXPECT_EQ((*a)[0].best_us, (*b)[0].best_us);
  EXPECT_EQ((*b)[0].best_us, 20);
  EXPECT_EQ((*a)[0].default_us, (*b)[0].default_us);
  EXPECT_EQ((*a)[0].default_schedule, (*b)[0].default_schedule);
  const auto again = import_rows(*to, *document);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->added, 0);
  EXPECT_EQ(again->known, 2);
}

TEST_F(Exchange, CarriesEveryRecord) {
  const auto document = export_rows(*from, small_key(), true);
  ASSERT_TRUE(document.ok());
  ASSERT_TRUE(import_rows(*to, *document).ok());
  EXPECT_EQ(*export_rows(*to, small_key(), true), *document);
  EXPECT_EQ(to->records(workload.fingerprint(), small_key())->size(), 6u);
}

// What came in last would count, were it not known to be older.
TEST_F(Exchange, OlderTimesDoNotReplaceLaterOnes) {
  const auto all = export_rows(*from, small_key(), true), last = export_rows(*from, small_key());
  ASSERT_TRUE(all.ok() && last.ok());
  ASSERT_TRUE(import_rows(*to, *last).ok());
  const auto result = import_rows(*to, *all);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->added, 3);  // the schedules that were not the best, nor the default
  EXPECT_EQ((*to->summaries(small_key()))[0].best_us, 20);
  EXPECT_EQ((*to->summaries(small_key()))[0].trials, 5);
}

TEST_F(Exchange, RefusesWhatDoesNotFit) {
  EXPECT_EQ(export_rows(*to, small_key()).status().code(), absl::StatusCode::kNotFound);
  const Json good = *export_rows(*from, small_key(), true);
  const std::vector<std::function<void(Json&)>> breakages = {
      [](Json& json) { json = Json::array(); },
      [](Json& json) { json["format"] = "other"; },
      [](Json& json) { json["version"] = 2; },
      [](Json& json) { json["threads"] = 0; },
      [](Json& json) { json["threads"] = "two"; },
      [](Json& json) { json["schedule_version"] = kScheduleVersion + 1; },
      [](Json& json) { json.erase("device"); },
      [](Json& json) { json["workloads"][0]["workload"] = 3; },
      [](Json& json) { json["workloads"][0]["records"][1]["result"] = nullptr; },
      [](Json& json) {
        json["workloads"][0]["records"][1]["schedule"] = to_json(Schedule{{12345}});
      },
  };
  for (size_t i = 0; i < breakages.size(); ++i) {
    Json json = good;
    breakages[i](json);
    const auto result = import_rows(*to, json);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument)
        << i << ": " << result.status();
    EXPECT_TRUE(to->keys()->empty()) << i;
    EXPECT_TRUE(to->devices()->empty()) << i;
    EXPECT_FALSE(to->workload(workload.fingerprint())->has_value()) << i;
  }
}

}  // namespace
}  // namespace chanas
