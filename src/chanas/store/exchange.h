#pragma once
// The rows of a latency table as a JSON document, to carry them from one store to another
// ("chanas lut export" and "import").

#include <cstdint>

#include "chanas/base/json.h"
#include "chanas/store/store.h"

namespace chanas {

// {"format": "chanas-lut", "version": 1, "device", "threads", "plan", "schedule_version",
//  "workloads": [{"workload", "records": [{"schedule", "origin", "time_s", "result"}]}]}
// `all`: every record, so that a search can be replayed; otherwise the best and the default record
// of each workload. kNotFound when the store holds no row under the key.
StatusOr<Json> export_rows(Store& store, const RecordKey& key, bool all = false);

struct ImportResult {
  RecordKey key;
  int64_t added = 0;
  int64_t known = 0;  // already in the store: same schedule, time and latency
};
// All or none. kInvalidArgument names what is wrong in the document: another format or version, a
// malformed part, rows of another schedule version, a schedule that is not legal for its workload.
StatusOr<ImportResult> import_rows(Store& store, const Json& document);

}  // namespace chanas
