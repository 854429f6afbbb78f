#include "chanas/store/store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <set>

#include "chanas/base/file.h"
#include "chanas/base/rng.h"
#include "chanas/store/testing_records.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<Store> open_store(const std::string& path = ":memory:") {
  auto store = Store::open(path);
  CHANAS_CHECK(store.ok()) << store.status().ToString();
  return *std::move(store);
}

Status add(Store& store, Record record) {
  std::vector<Record> records = {std::move(record)};
  return store.add_records(records);
}

TEST(Store, KeepsARecordAsItWas) {
  TemporaryFolder folder("store");
  const std::string path = join_path(folder.path(), "a.db");
  const Workload workload = small_workload(8, 16);
  std::vector<Record> written = {small_record(workload, {{1, 2, 3}}, 12.5),
                                 small_record(workload, {{3, 2, 1}}, 0, TrialError::kCrash)};
  written[0].result.samples_us = {0.1, 1.0 / 3.0, 12.5};
  written[0].result.compile_s = 0.25;
  written[0].origin = "default";
  written[1].result.message = std::string("signal 11\0 and \xff bytes", 22);
  written[1].result.relative_error = std::numeric_limits<double>::quiet_NaN();
  {
    auto store = open_store(path);
    ASSERT_TRUE(put_small(*store, workload).ok());
    ASSERT_TRUE(store->add_records(written).ok());
    EXPECT_GT(written[0].id, 0);
    EXPECT_GT(written[1].id, written[0].id);
  }
  auto store = open_store(path);
  const auto read = store->records(workload.fingerprint(), small_key());
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const Record &a = written[i], &b = (*read)[i];
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.workload, b.workload);
    EXPECT_EQ(a.key, b.key);
    EXPECT_EQ(a.schedule, b.schedule);
    EXPECT_EQ(a.origin, b.origin);
    EXPECT_EQ(a.time_s, b.time_s);
    EXPECT_EQ(a.result.error, b.result.error);
    EXPECT_EQ(a.result.message, b.result.message);
    EXPECT_EQ(a.result.latency_us, b.result.latency_us);
    EXPECT_EQ(a.result.samples_us, b.result.samples_us);
    EXPECT_EQ(a.result.warm_us, b.result.warm_us);
    EXPECT_EQ(a.result.compile_s, b.result.compile_s);
  }
  EXPECT_EQ((*read)[0].result.relative_error, 1e-7);
  EXPECT_TRUE(std::isinf((*read)[1].result.relative_error));
  EXPECT_TRUE(store->check().ok());
}

TEST(Store, KeepsDevicesAndWorkloads) {
  auto store = open_store();
  const Workload workload = small_workload(8, 16);
  ASSERT_TRUE(put_small(*store, workload).ok());
  ASSERT_TRUE(put_small(*store, workload).ok());  // again: nothing changes
  Target renamed = simulated_target();
  renamed.name = "another name";
  ASSERT_EQ(renamed.fingerprint(), simulated_target().fingerprint());
  ASSERT_TRUE(store->put_device(renamed).ok());
  const auto devices = store->devices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ((*devices)[0].name, "another name");
  const auto read = store->workload(workload.fingerprint());
  ASSERT_TRUE(read.ok() && read->has_value()) << read.status();
  EXPECT_EQ((*read)->fingerprint(), workload.fingerprint());
  EXPECT_EQ((*read)->graph, workload.graph);
  const auto none = store->workload("0000000000000000");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
}

TEST(Store, BestIsTheFastestLastMeasurement) {
  auto store = open_store();
  const Workload workload = small_workload(8, 16);
  const std::string name = workload.fingerprint();
  ASSERT_TRUE(put_small(*store, workload).ok());
  const auto best_us = [&] {
    const auto best = store->best(name, small_key());
    CHANAS_CHECK(best.ok()) << best.status().ToString();
    return best->has_value() ? (*best)->result.latency_us : -1;
  };
  EXPECT_EQ(best_us(), -1);
  ASSERT_TRUE(add(*store, small_record(workload, {{1}}, 0, TrialError::kTimeout)).ok());
  EXPECT_EQ(best_us(), -1);
  ASSERT_TRUE(add(*store, small_record(workload, {{2}}, 20)).ok());
  ASSERT_TRUE(add(*store, small_record(workload, {{3}}, 10)).ok());
  ASSERT_TRUE(add(*store, small_record(workload, {{4}}, 15)).ok());
  EXPECT_EQ(best_us(), 10);
  // Measured again: a lucky sample does not stay the best for ever.
  ASSERT_TRUE(add(*store, small_record(workload, {{3}}, 18)).ok());
  EXPECT_EQ(best_us(), 15);
  ASSERT_TRUE(add(*store, small_record(workload, {{4}}, 0, TrialError::kUnstable)).ok());
  EXPECT_EQ(best_us(), 18);
  ASSERT_TRUE(add(*store, small_record(workload, {{5}}, 18)).ok());
  EXPECT_EQ((*store->best(name, small_key()))->schedule, (Schedule{{3}}));  // tie: the earlier one
  EXPECT_EQ(store->records(name, small_key())->size(), 7u);
}

TEST(Store, NeverMixesKeys) {
  auto store = open_store();
  const Workload workload = small_workload(8, 16), other = small_workload(16, 8);
  ASSERT_TRUE(put_small(*store, workload).ok());
  ASSERT_TRUE(put_small(*store, other).ok());
  Record record = small_record(workload, {{1}}, 10);
  ASSERT_TRUE(add(*store, record).ok());
  std::vector<RecordKey> keys(3, small_key());
  keys[0].threads = 2;
  keys[1].plan += "x";
  keys[2].schedule_version += 1;
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT_TRUE(store->records(record.workload, keys[i])->empty());
    record.key = keys[i];
    record.result.latency_us = 1.0 + static_cast<double>(i);
    ASSERT_TRUE(add(*store, record).ok());
  }
  EXPECT_EQ((*store->best(record.workload, small_key()))->result.latency_us, 10);
  EXPECT_EQ((*store->best(record.workload, keys[1]))->result.latency_us, 2);
  EXPECT_FALSE(store->best(other.fingerprint(), small_key())->has_value());
  EXPECT_EQ(store->summaries(small_key())->size(), 1u);
  const auto all = store->keys();
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->size(), 4u);
  for (const auto& [key, count] : *all) EXPECT_EQ(count, 1);
}

TEST(Store, SummarisesTheLastMeasurements) {
  auto store = open_store();
  const Workload workload = small_workload(8, 16), failing = small_workload(16, 8);
  ASSERT_TRUE(put_small(*store, workload).ok());
  ASSERT_TRUE(put_small(*store, failing).ok());
  Record first = small_record(workload, {{1}}, 30);
  first.origin = "default";
  std::vector<Record> records = {first, small_record(workload, {{2}}, 0, TrialError::kCompile),
                                 small_record(workload, {{3}}, 10),
                                 small_record(workload, {{4}}, 20),
                                 small_record(failing, {{1}}, 0, TrialError::kCrash)};
  records.push_back(records[2]);
  records.back().result.latency_us = 25;
  records.back().time_s += 60;
  ASSERT_TRUE(store->add_records(records).ok());
  const auto summaries = store->summaries(small_key());
  ASSERT_TRUE(summaries.ok()) << summaries.status();
  ASSERT_EQ(summaries->size(), 2u);
  for (const TuningSummary& summary : *summaries) {
    if (summary.workload == workload.fingerprint()) {
      EXPECT_EQ(summary.kind, workload.kind());
      EXPECT_EQ(summary.description, workload.describe());
      EXPECT_EQ(summary.trials, 4);
      EXPECT_EQ(summary.failures, 1);
      EXPECT_EQ(summary.best_us, 20);
      EXPECT_EQ(summary.best, (Schedule{{4}}));
      EXPECT_EQ(summary.default_us, 30);
      EXPECT_EQ(summary.default_schedule, (Schedule{{1}}));
    } else {
      EXPECT_EQ(summary.workload, failing.fingerprint());
      EXPECT_EQ(summary.trials, 1);
      EXPECT_EQ(summary.failures, 1);
      EXPECT_EQ(summary.best_us, 0);
      EXPECT_THAT(summary.failure, HasSubstr("crash: made up"));
    }
  }
}

TEST(Store, AddsAllOrNone) {
  auto store = open_store();
  const Workload workload = small_workload(8, 16), unknown = small_workload(16, 8);
  std::vector<Record> records = {small_record(workload, {{1}}, 10)};
  ASSERT_TRUE(store->put_workload(workload).ok());
  Status status = store->add_records(records);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr("put_device"));
  ASSERT_TRUE(put_small(*store, workload).ok());
  records.push_back(small_record(unknown, {{1}}, 10));
  status = store->add_records(records);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr(unknown.fingerprint()));
  for (const double us : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    records[1] = small_record(workload, {{2}}, us);
    EXPECT_EQ(store->add_records(records).code(), absl::StatusCode::kInvalidArgument) << us;
  }
  EXPECT_TRUE(store->records(workload.fingerprint(), small_key())->empty());
  EXPECT_EQ(records[0].id, 0);
  records.pop_back();
  EXPECT_TRUE(store->add_records(records).ok());
  EXPECT_EQ(store->records(workload.fingerprint(), small_key())->size(), 1u);
}

// Children that open one new file at the same moment and write to it.
TEST(Store, ServesSeveralProcesses) {
  constexpr int kFiles = 20, kProcesses = 6, kRounds = 5;
  TemporaryFolder folder("store");
  const Workload workload = small_workload(8, 16);
  for (int file = 0; file < kFiles; ++file) {
    const std::string path = join_path(folder.path(), fmt::format("{}.db", file));
    int gate[2];
    ASSERT_EQ(::pipe(gate), 0);
    std::vector<pid_t> children;
    for (int child = 0; child < kProcesses; ++child) {
      const pid_t pid = ::fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) {
        ::close(gate[1]);
        char nothing;
        if (::read(gate[0], &nothing, 1) != 0) ::_exit(1);  // until the gate is closed
        const Status status = [&]() -> Status {
          CHANAS_ASSIGN_OR_RETURN(auto store, Store::open(path));
          CHANAS_RETURN_IF_ERROR(put_small(*store, workload));
          for (int i = 0; i < kRounds; ++i) {
            CHANAS_RETURN_IF_ERROR(add(*store, small_record(workload, {{child, i}}, 1 + i)));
          }
          return absl::OkStatus();
        }();
        if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
        ::_exit(status.ok() ? 0 : 1);
      }
      children.push_back(pid);
    }
    ::close(gate[0]);
    ::close(gate[1]);
    for (const pid_t pid : children) {
      int status = 0;
      ASSERT_EQ(::waitpid(pid, &status, 0), pid);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    auto store = open_store(path);
    const auto records = store->records(workload.fingerprint(), small_key());
    ASSERT_TRUE(records.ok());
    std::set<Schedule> seen;
    for (const Record& record : *records) seen.insert(record.schedule);
    EXPECT_EQ(seen.size(), size_t{kProcesses * kRounds});
    EXPECT_EQ(records->size(), seen.size());
    EXPECT_TRUE(store->check().ok());
  }
}

// A writer killed at random moments: what it was told to be stored is stored, and half a
// transaction never is.
TEST(Store, SurvivesKills) {
  TemporaryFolder folder("store");
  const std::string path = join_path(folder.path(), "a.db");
  const Workload workload = small_workload(8, 16);
  constexpr int kBatch = 3;
  Rng rng(7);
  std::set<int> acknowledged;
  int next = 0;
  // At least 20 kills; on a machine so busy that writers hardly come to write, more and later ones.
  for (int kill = 0; kill < 20 || acknowledged.size() <= 20; ++kill) {
    ASSERT_LT(kill, 200);
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      ::close(pipe_ends[0]);
      auto store = Store::open(path);
      if (!store.ok() || !put_small(**store, workload).ok()) ::_exit(1);
      for (int batch = next;; ++batch) {
        std::vector<Record> records;
        for (int i = 0; i < kBatch; ++i) {
          records.push_back(small_record(workload, {{batch, i}}, 1 + batch));
        }
        if (!(*store)->add_records(records).ok()) ::_exit(2);
        if (::write(pipe_ends[1], &batch, sizeof batch) != sizeof batch) ::_exit(3);
      }
    }
    ::close(pipe_ends[1]);
    // Some die before they have opened the file, some in the middle of writing.
    ::usleep(static_cast<useconds_t>(rng.uniform(60000 * (1 + kill / 20))));
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    int batch = 0;
    while (::read(pipe_ends[0], &batch, sizeof batch) == sizeof batch) {
      acknowledged.insert(batch);
      next = std::max(next, batch + 1);
    }
    ::close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer gave up with " << WEXITSTATUS(status);

    auto store = open_store(path);
    ASSERT_TRUE(store->check().ok());
    std::map<int, int> stored;
    const auto records = store->records(workload.fingerprint(), small_key());
    ASSERT_TRUE(records.ok()) << records.status();
    for (const Record& record : *records) {
      ++stored[record.schedule.values[0]];
    }
    for (const int number : acknowledged) {
      EXPECT_EQ(stored[number] % kBatch, 0);
      EXPECT_GE(stored[number], kBatch) << "batch " << number << " is lost";
    }
    for (const auto& [number, count] : stored) EXPECT_EQ(count % kBatch, 0) << number;
  }
}

}  // namespace
}  // namespace chanas
