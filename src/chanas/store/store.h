#pragma once
// Devices, workloads and tuning records in one SQLite file (WAL). The latency table is a view of
// the records. What add_records acknowledged survives kill -9.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chanas/measure/measure.h"

namespace chanas {

inline constexpr int kStoreSchemaVersion = 1;

// What a latency depends on besides (workload, schedule). A row measured under another key is never
// used silently.
struct RecordKey {
  std::string device;  // Target::fingerprint()
  int threads = 1;
  std::string plan;  // MeasurePlan::id()
  int schedule_version = kScheduleVersion;
  friend bool operator==(const RecordKey&, const RecordKey&) = default;
};
RecordKey record_key(const Target& target, const MeasurePlan& plan);
// "device 3f2a..., 2 threads, plan t2-c8388608, schedules v1", for messages.
std::string describe(const RecordKey& key);

// One measured trial. The same (workload, key, schedule) may be recorded again (re-measured, with
// the origin it had): every record is kept, and the last one is what counts.
struct Record {
  int64_t id = 0;        // given by the store, ascending
  std::string workload;  // fingerprint
  RecordKey key;
  Schedule schedule;
  std::string origin;    // who proposed it: "default", "random", "mutation", ... (tune/tuner.h)
  MeasureResult result;  // latency_us is 0 after a failure; relative_error inf when not finite
  int64_t time_s = 0;    // Unix time of measurement
};

// Counters of one (workload, key), over the last measurement of each schedule.
struct TuningSummary {
  std::string workload;
  std::string kind, description;  // of the workload
  int trials = 0, failures = 0;
  double best_us = 0, default_us = 0;      // 0: none yet
  Schedule best;                           // empty: none yet
  Schedule default_schedule;               // that of default_us; empty: none yet
  int64_t time_s = 0, default_time_s = 0;  // when best and default were measured
  std::string failure;                     // class and message of the last failed trial
};

// Not thread safe, and not to be used across fork(); several processes may open one file (writers
// wait up to 10 s, then kAborted: try again). Every call may return kAborted, kResourceExhausted
// (disk full, file size limit; nothing of the call was stored, and it may be repeated), kDataLoss
// (the file is damaged) or kInternal (the system's reason).
class Store {
 public:
  // Opens or creates; the folder must exist. Migrates older schemas, one transaction per version.
  // kInvalidArgument for a store from a newer version (names both versions), a file that is no
  // store, a folder or file that cannot be written, and a network file system; kNotFound when there
  // is no such folder; kDataLoss when damaged (says what to do). ":memory:" for tests.
  static StatusOr<std::unique_ptr<Store>> open(const std::string& path);
  ~Store();
  const std::string& path() const;

  // Adds, or replaces the description of an equal fingerprint.
  Status put_device(const Target& target);
  // Adds when it is not there.
  Status put_workload(const Workload& workload);
  // All or none, one transaction; fills the ids. kFailedPrecondition when the device or a workload
  // was not put before; kInvalidArgument for a valid result without a positive finite latency.
  Status add_records(std::vector<Record>& records);

  // In the order they were added.
  StatusOr<std::vector<Record>> records(const std::string& workload, const RecordKey& key);
  // The fastest valid record of the workload under the key; the earlier one on a tie.
  StatusOr<std::optional<Record>> best(const std::string& workload, const RecordKey& key);
  // The latency table's rows under a key, by workload fingerprint.
  StatusOr<std::vector<TuningSummary>> summaries(const RecordKey& key);
  // By fingerprint.
  StatusOr<std::vector<Target>> devices();
  StatusOr<std::optional<Workload>> workload(const std::string& fingerprint);
  // Every key that has records, with its count.
  StatusOr<std::vector<std::pair<RecordKey, int64_t>>> keys();

  // OK when the file is sound (PRAGMA integrity_check and foreign_key_check), else kDataLoss with
  // the first finding.
  Status check();

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace chanas
