#include "chanas/store/schema.h"

#include <array>

#include "chanas/store/store.h"

namespace chanas::internal {
namespace {

constexpr const char* kVersion1 = R"sql(
CREATE TABLE devices(
  fingerprint TEXT PRIMARY KEY,
  json TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE workloads(
  id INTEGER PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  description TEXT NOT NULL,
  json TEXT NOT NULL
);

CREATE TABLE keys(
  id INTEGER PRIMARY KEY,
  device TEXT NOT NULL REFERENCES devices(fingerprint),
  threads INTEGER NOT NULL,
  plan TEXT NOT NULL,
  schedule_version INTEGER NOT NULL,
  UNIQUE(device, threads, plan, schedule_version)
);

-- One measured trial. Never updated: measuring again adds a record.
CREATE TABLE records(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  workload INTEGER NOT NULL REFERENCES workloads(id),
  key INTEGER NOT NULL REFERENCES keys(id),
  schedule TEXT NOT NULL,      -- JSON
  origin TEXT NOT NULL,
  time_s INTEGER NOT NULL,
  error TEXT NOT NULL,         -- "none" or the class of the failure
  message TEXT NOT NULL,
  latency_us REAL,             -- null after a failure
  warm_us REAL NOT NULL,
  compile_s REAL NOT NULL,
  relative_error REAL,         -- null: not finite
  samples_us TEXT NOT NULL,    -- JSON
  CHECK ((error = 'none') = (latency_us IS NOT NULL))
);
CREATE INDEX records_by_schedule ON records(key, workload, schedule, id);

-- The last measurement of each schedule. SQLite takes the other columns from the row of max(id).
CREATE VIEW latest AS
  SELECT max(id) AS id, key, workload, schedule, origin, time_s, error, latency_us
  FROM records GROUP BY key, workload, schedule;

CREATE TABLE state(
  run TEXT NOT NULL,
  name TEXT NOT NULL,
  json TEXT NOT NULL,
  PRIMARY KEY(run, name)
) WITHOUT ROWID;
)sql";

constexpr std::array kMigrations = {kVersion1};
static_assert(kMigrations.size() == kStoreSchemaVersion);

}  // namespace

std::span<const char* const> migrations() { return kMigrations; }

}  // namespace chanas::internal
