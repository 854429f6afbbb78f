#include "chanas/store/store.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <SQLiteCpp/VariadicBind.h>
#include <fmt/format.h>
#include <sqlite3.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "chanas/store/place.h"
#include "chanas/store/schema.h"

namespace chanas {
namespace {

constexpr int kBusyTimeoutMs = 10000;
constexpr char kMemory[] = ":memory:";

Status damaged(const std::string& path, std::string_view reason) {
  return absl::DataLossError(
      fmt::format("store '{}' is damaged ({}); save what can be read with: sqlite3 '{}' .recover | "
                  "sqlite3 rescued.db, or move it away to tune again",
                  path, reason, path));
}

StatusOr<Schedule> read_schedule(const std::string& text) {
  CHANAS_ASSIGN_OR_RETURN(const Json json, parse_json(text));
  return schedule_from_json(json);
}

StatusOr<std::vector<double>> read_samples(const std::string& text) {
  CHANAS_ASSIGN_OR_RETURN(const Json json, parse_json(text));
  return json.get<std::vector<double>>();
}

// Failed trials may carry any numbers; JSON and SQL have neither infinity nor NaN.
std::string write_samples(const std::vector<double>& samples) {
  Json json = Json::array();
  for (const double sample : samples) {
    if (std::isfinite(sample)) json.push_back(sample);
  }
  return json.dump();
}

void bind_finite(SQLite::Statement& statement, int index, double value) {
  if (std::isfinite(value)) {
    statement.bind(index, value);
  } else {
    statement.bind(index);
  }
}

constexpr char kRecordColumns[] =
    "id, schedule, origin, time_s, error, message, latency_us, warm_us, compile_s, relative_error, "
    "samples_us";

StatusOr<Record> read_record(SQLite::Statement& row, const std::string& workload,
                             const RecordKey& key) {
  Record record;
  record.id = row.getColumn(0).getInt64();
  record.workload = workload;
  record.key = key;
  CHANAS_ASSIGN_OR_RETURN(record.schedule, read_schedule(row.getColumn(1).getString()));
  record.origin = row.getColumn(2).getString();
  record.time_s = row.getColumn(3).getInt64();
  MeasureResult& result = record.result;
  CHANAS_ASSIGN_OR_RETURN(result.error, parse_trial_error(row.getColumn(4).getString()));
  result.message = row.getColumn(5).getString();
  result.latency_us = row.getColumn(6).getDouble();
  result.warm_us = row.getColumn(7).getDouble();
  result.compile_s = row.getColumn(8).getDouble();
  result.relative_error = row.getColumn(9).isNull() ? std::numeric_limits<double>::infinity()
                                                    : row.getColumn(9).getDouble();
  CHANAS_ASSIGN_OR_RETURN(result.samples_us, read_samples(row.getColumn(10).getString()));
  return record;
}

}  // namespace

RecordKey record_key(const Target& target, const MeasurePlan& plan) {
  return {.device = target.fingerprint(), .threads = plan.threads, .plan = plan.id()};
}

std::string describe(const RecordKey& key) {
  return fmt::format("device {}, {} thread{}, plan {}, schedules v{}", key.device, key.threads,
                     key.threads == 1 ? "" : "s", key.plan, key.schedule_version);
}

struct Store::Impl {
  std::string path;
  SQLite::Database db;

  explicit Impl(const std::string& file)
      : path(file), db(file, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, kBusyTimeoutMs) {}

  Status failure(std::string_view what, const SQLite::Exception& error) const {
    return to_status(path, what, error, sqlite3_system_errno(db.getHandle()));
  }

  static Status to_status(const std::string& path, std::string_view what,
                          const SQLite::Exception& error, int system_error) {
    const int code = error.getErrorCode() & 0xff;
    const auto text = [&](std::string_view reason) {
      return fmt::format("store '{}': {}: {}", path, what, reason);
    };
    switch (code) {
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        return absl::AbortedError(text(fmt::format(
            "another process kept it locked for {} s; try again", kBusyTimeoutMs / 1000)));
      case SQLITE_FULL:
        return absl::ResourceExhaustedError(text("the disk is full; free some space and repeat"));
      case SQLITE_CORRUPT:
      case SQLITE_NOTADB:
        return damaged(path, error.what());
      case SQLITE_IOERR:
        if (error.getExtendedErrorCode() == SQLITE_IOERR_SHORT_READ) {
          return damaged(path, "it ends too early");
        }
        // A quota or a limit on file sizes; SQLite does not keep errno over its roll-back.
        if (error.getExtendedErrorCode() == SQLITE_IOERR_WRITE && system_error != EIO) {
          return absl::ResourceExhaustedError(
              text("the file cannot grow (disk full, quota or limit on file sizes); free some "
                   "space and repeat"));
        }
        return absl::InternalError(
            text(fmt::format("{} ({})", error.what(), std::strerror(system_error))));
      default:
        return absl::InternalError(text(error.what()));
    }
  }

  // Runs `body`, which may throw what SQLite and JSON throw.
  template <typename Body>
  auto guarded(std::string_view what, Body&& body) -> decltype(body()) {
    try {
      return body();
    } catch (const SQLite::Exception& error) {
      return failure(what, error);
    } catch (const Json::exception& error) {
      return damaged(path, error.what());
    }
  }

  int pragma(const std::string& name) { return db.execAndGet("PRAGMA " + name).getInt(); }

  Status check_ours();
  Status check_pages(const char* how);
  Status set_up();
  Status migrate();

  std::optional<int64_t> key_id(const RecordKey& key) {
    SQLite::Statement query(db,
                            "SELECT id FROM keys WHERE device = ? AND threads = ? AND plan = ? AND "
                            "schedule_version = ?");
    SQLite::bind(query, key.device, key.threads, key.plan, key.schedule_version);
    if (!query.executeStep()) return std::nullopt;
    return query.getColumn(0).getInt64();
  }

  StatusOr<int64_t> add_key(const RecordKey& key) {
    if (const auto id = key_id(key)) return *id;
    SQLite::Statement device(db, "SELECT 1 FROM devices WHERE fingerprint = ?");
    device.bind(1, key.device);
    if (!device.executeStep()) {
      return absl::FailedPreconditionError(
          fmt::format("device {} is not in the store; call put_device first", key.device));
    }
    SQLite::Statement insert(
        db, "INSERT INTO keys(device, threads, plan, schedule_version) VALUES(?, ?, ?, ?)");
    SQLite::bind(insert, key.device, key.threads, key.plan, key.schedule_version);
    insert.exec();
    return db.getLastInsertRowid();
  }

  std::optional<int64_t> workload_id(const std::string& fingerprint) {
    SQLite::Statement query(db, "SELECT id FROM workloads WHERE fingerprint = ?");
    query.bind(1, fingerprint);
    if (!query.executeStep()) return std::nullopt;
    return query.getColumn(0).getInt64();
  }
};

// Before anything is written: the file is empty or one of ours, and of a version that we know.
Status Store::Impl::check_ours() {
  const int application = pragma("application_id"), version = pragma("user_version");
  if (application != internal::kApplicationId) {
    const bool empty = application == 0 && version == 0 &&
                       db.execAndGet("SELECT count(*) FROM sqlite_master").getInt() == 0;
    if (empty) return absl::OkStatus();
    return absl::InvalidArgumentError(fmt::format(
        "'{}' is not a store but another program's SQLite file (application id {}); name another "
        "file",
        path, application));
  }
  if (version > kStoreSchemaVersion) {
    return absl::InvalidArgumentError(fmt::format(
        "store '{}' has schema version {}, this program knows up to {}; use a newer program, or "
        "another file",
        path, version, kStoreSchemaVersion));
  }
  return absl::OkStatus();
}

Status Store::Impl::check_pages(const char* how) {
  const std::string finding = db.execAndGet(fmt::format("PRAGMA {}(1)", how)).getString();
  return finding == "ok" ? absl::OkStatus() : damaged(path, finding);
}

Status Store::Impl::set_up() {
  {
    // One transaction, so that a file is seen before or after another process makes it a store.
    SQLite::Transaction snapshot(db);
    CHANAS_RETURN_IF_ERROR(check_ours());
  }
  CHANAS_RETURN_IF_ERROR(check_pages("quick_check"));
  if (path != kMemory) {
    // Changing the mode takes a lock for which SQLite does not always wait.
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(kBusyTimeoutMs);
    for (;;) {
      try {
        const std::string mode = db.execAndGet("PRAGMA journal_mode = WAL").getString();
        if (mode == "wal") break;
        return absl::InvalidArgumentError(
            fmt::format("store '{}': its file system does not offer what SQLite's write-ahead log "
                        "needs (journal mode stays {}); put it on a local disk",
                        path, mode));
      } catch (const SQLite::Exception& error) {
        if ((error.getErrorCode() & 0xff) != SQLITE_BUSY) throw;
        if (std::chrono::steady_clock::now() > deadline) throw;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    }
  }
  db.exec("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON");
  return migrate();
}

Status Store::Impl::migrate() {
  const auto steps = internal::migrations();
  while (pragma("user_version") < kStoreSchemaVersion) {
    SQLite::Transaction transaction(db, SQLite::TransactionBehavior::IMMEDIATE);
    // Read again under the lock: another process may have been faster.
    const int version = pragma("user_version");
    if (version >= kStoreSchemaVersion) break;
    db.exec(steps[static_cast<size_t>(version)]);
    db.exec(fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {}",
                        internal::kApplicationId, version + 1));
    transaction.commit();
  }
  return absl::OkStatus();
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;
const std::string& Store::path() const { return impl_->path; }

StatusOr<std::unique_ptr<Store>> Store::open(const std::string& path) {
  if (path != kMemory) CHANAS_RETURN_IF_ERROR(internal::check_place(path));
  std::unique_ptr<Impl> impl;
  try {
    impl = std::make_unique<Impl>(path);
  } catch (const SQLite::Exception& error) {
    return Impl::to_status(path, "opening", error, errno);
  }
  CHANAS_RETURN_IF_ERROR(impl->guarded("opening", [&] { return impl->set_up(); }));
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

Status Store::put_device(const Target& target) {
  return impl_->guarded("adding a device", [&]() -> Status {
    SQLite::Statement insert(impl_->db,
                             "INSERT INTO devices(fingerprint, json) VALUES(?, ?) ON CONFLICT DO "
                             "UPDATE SET json = excluded.json WHERE json <> excluded.json");
    SQLite::bind(insert, target.fingerprint(), to_json(target).dump());
    insert.exec();
    return absl::OkStatus();
  });
}

Status Store::put_workload(const Workload& workload) {
  return impl_->guarded("adding a workload", [&]() -> Status {
    const std::string fingerprint = workload.fingerprint();
    // A look first: most are there already, and reading needs no lock.
    SQLite::Statement query(impl_->db, "SELECT 1 FROM workloads WHERE fingerprint = ?");
    query.bind(1, fingerprint);
    if (query.executeStep()) return absl::OkStatus();
    query.reset();
    SQLite::Statement insert(impl_->db,
                             "INSERT OR IGNORE INTO workloads(fingerprint, kind, description, "
                             "json) VALUES(?, ?, ?, ?)");
    SQLite::bind(insert, fingerprint, workload.kind(), workload.describe(),
                 to_json(workload).dump());
    insert.exec();
    return absl::OkStatus();
  });
}

Status Store::add_records(std::vector<Record>& records) {
  for (const Record& record : records) {
    const double us = record.result.latency_us;
    if (record.result.ok() && !(std::isfinite(us) && us > 0)) {
      return absl::InvalidArgumentError(
          fmt::format("record of workload {}: valid, but with a latency of {} us, expected > 0",
                      record.workload, us));
    }
  }
  return impl_->guarded("adding records", [&]() -> Status {
    SQLite::Transaction transaction(impl_->db, SQLite::TransactionBehavior::IMMEDIATE);
    SQLite::Statement insert(
        impl_->db,
        "INSERT INTO records(workload, key, schedule, origin, time_s, error, message, latency_us, "
        "warm_us, compile_s, relative_error, samples_us) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
        "?)");
    std::vector<int64_t> ids;
    for (const Record& record : records) {
      const MeasureResult& result = record.result;
      const auto workload = impl_->workload_id(record.workload);
      if (!workload) {
        return absl::FailedPreconditionError(fmt::format(
            "workload {} is not in the store; call put_workload first", record.workload));
      }
      CHANAS_ASSIGN_OR_RETURN(const int64_t key, impl_->add_key(record.key));
      insert.bind(1, *workload);
      insert.bind(2, key);
      insert.bind(3, to_json(record.schedule).dump());
      insert.bind(4, record.origin);
      insert.bind(5, record.time_s);
      insert.bind(6, std::string(trial_error_name(result.error)));
      insert.bind(7, result.message);
      if (result.ok()) insert.bind(8, result.latency_us);
      insert.bind(9, std::isfinite(result.warm_us) ? result.warm_us : 0);
      insert.bind(10, std::isfinite(result.compile_s) ? result.compile_s : 0);
      bind_finite(insert, 11, result.relative_error);
      insert.bind(12, write_samples(result.samples_us));
      insert.exec();
      ids.push_back(impl_->db.getLastInsertRowid());
      insert.reset();
      insert.clearBindings();
    }
    transaction.commit();
    for (size_t i = 0; i < ids.size(); ++i) records[i].id = ids[i];
    return absl::OkStatus();
  });
}

StatusOr<std::vector<Record>> Store::records(const std::string& workload, const RecordKey& key) {
  return impl_->guarded("reading records", [&]() -> StatusOr<std::vector<Record>> {
    std::vector<Record> records;
    const auto key_id = impl_->key_id(key), workload_id = impl_->workload_id(workload);
    if (!key_id || !workload_id) return records;
    SQLite::Statement query(
        impl_->db, fmt::format("SELECT {} FROM records WHERE key = ? AND workload = ? ORDER BY id",
                               kRecordColumns));
    SQLite::bind(query, *key_id, *workload_id);
    while (query.executeStep()) {
      StatusOr<Record> record = read_record(query, workload, key);
      if (!record.ok()) return damaged(impl_->path, message(record.status()));
      records.push_back(*std::move(record));
    }
    return records;
  });
}

StatusOr<std::optional<Record>> Store::best(const std::string& workload, const RecordKey& key) {
  return impl_->guarded("reading records", [&]() -> StatusOr<std::optional<Record>> {
    const auto key_id = impl_->key_id(key), workload_id = impl_->workload_id(workload);
    if (!key_id || !workload_id) return std::nullopt;
    // Plain conditions inside a subquery reach into the view; those of a join would not, and every
    // record of the key would be read.
    SQLite::Statement query(
        impl_->db,
        fmt::format("SELECT {} FROM records WHERE id = (SELECT id FROM latest WHERE key = ? AND "
                    "workload = ? AND error = 'none' ORDER BY latency_us, id LIMIT 1)",
                    kRecordColumns));
    SQLite::bind(query, *key_id, *workload_id);
    if (!query.executeStep()) return std::nullopt;
    StatusOr<Record> record = read_record(query, workload, key);
    if (!record.ok()) return damaged(impl_->path, message(record.status()));
    return *std::move(record);
  });
}

StatusOr<std::vector<TuningSummary>> Store::summaries(const RecordKey& key) {
  return impl_->guarded("reading records", [&]() -> StatusOr<std::vector<TuningSummary>> {
    std::vector<TuningSummary> summaries;
    const auto key_id = impl_->key_id(key);
    if (!key_id) return summaries;
    SQLite::Statement query(
        impl_->db,
        "SELECT fingerprint, kind, description, latest.schedule, latest.origin, latest.time_s, "
        "latest.error, latest.latency_us, records.message FROM latest JOIN workloads ON "
        "workloads.id = latest.workload JOIN records ON records.id = latest.id WHERE latest.key = "
        "? "
        "ORDER BY fingerprint, latest.id");
    query.bind(1, *key_id);
    while (query.executeStep()) {
      const std::string fingerprint = query.getColumn(0).getString();
      if (summaries.empty() || summaries.back().workload != fingerprint) {
        TuningSummary& added = summaries.emplace_back();
        added.workload = fingerprint;
        added.kind = query.getColumn(1).getString();
        added.description = query.getColumn(2).getString();
      }
      TuningSummary& summary = summaries.back();
      ++summary.trials;
      if (const std::string error = query.getColumn(6).getString(); error != "none") {
        ++summary.failures;
        summary.failure = fmt::format("{}: {}", error, query.getColumn(8).getString());
        continue;
      }
      const double us = query.getColumn(7).getDouble();
      const bool is_default = query.getColumn(4).getString() == "default";
      const bool is_best = summary.best_us == 0 || us < summary.best_us;
      if (!is_default && !is_best) continue;
      StatusOr<Schedule> schedule = read_schedule(query.getColumn(3).getString());
      if (!schedule.ok()) return damaged(impl_->path, message(schedule.status()));
      if (is_default) {
        summary.default_us = us;
        summary.default_schedule = *schedule;
        summary.default_time_s = query.getColumn(5).getInt64();
      }
      if (is_best) {
        summary.best_us = us;
        summary.best = *std::move(schedule);
        summary.time_s = query.getColumn(5).getInt64();
      }
    }
    return summaries;
  });
}

StatusOr<std::vector<Target>> Store::devices() {
  return impl_->guarded("reading devices", [&]() -> StatusOr<std::vector<Target>> {
    std::vector<Target> targets;
    SQLite::Statement query(impl_->db, "SELECT json FROM devices ORDER BY fingerprint");
    while (query.executeStep()) {
      StatusOr<Target> target = target_from_json(Json::parse(query.getColumn(0).getString()));
      if (!target.ok()) return damaged(impl_->path, message(target.status()));
      targets.push_back(*std::move(target));
    }
    return targets;
  });
}

StatusOr<std::optional<Workload>> Store::workload(const std::string& fingerprint) {
  return impl_->guarded("reading a workload", [&]() -> StatusOr<std::optional<Workload>> {
    SQLite::Statement query(impl_->db, "SELECT json FROM workloads WHERE fingerprint = ?");
    query.bind(1, fingerprint);
    if (!query.executeStep()) return std::nullopt;
    StatusOr<Workload> workload = workload_from_json(Json::parse(query.getColumn(0).getString()));
    if (!workload.ok()) return damaged(impl_->path, message(workload.status()));
    return *std::move(workload);
  });
}

StatusOr<std::vector<std::pair<RecordKey, int64_t>>> Store::keys() {
  using Keys = std::vector<std::pair<RecordKey, int64_t>>;
  return impl_->guarded("reading keys", [&]() -> StatusOr<Keys> {
    Keys keys;
    SQLite::Statement query(impl_->db,
                            "SELECT device, threads, plan, schedule_version, count(*) FROM keys "
                            "JOIN records ON records.key = keys.id GROUP BY keys.id ORDER BY 1, 2, "
                            "3, 4");
    while (query.executeStep()) {
      keys.emplace_back(RecordKey{.device = query.getColumn(0).getString(),
                                  .threads = query.getColumn(1).getInt(),
                                  .plan = query.getColumn(2).getString(),
                                  .schedule_version = query.getColumn(3).getInt()},
                        query.getColumn(4).getInt64());
    }
    return keys;
  });
}

Status Store::check() {
  return impl_->guarded("checking", [&]() -> Status {
    CHANAS_RETURN_IF_ERROR(impl_->check_pages("integrity_check"));
    SQLite::Statement query(impl_->db, "PRAGMA foreign_key_check");
    if (!query.executeStep()) return absl::OkStatus();
    return damaged(impl_->path,
                   fmt::format("a row of table {} refers to a missing row of {}",
                               query.getColumn(0).getString(), query.getColumn(2).getString()));
  });
}

}  // namespace chanas
