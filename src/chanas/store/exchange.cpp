#include "chanas/store/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace chanas {
namespace {

constexpr char kFormat[] = "chanas-lut";
constexpr int kVersion = 1;

// Whether `known` makes `row` needless: the same trial, or a later one, which counts.
bool covers(const Record& known, const Record& row) {
  if (known.schedule != row.schedule || known.time_s < row.time_s) return false;
  return known.time_s > row.time_s || (known.result.error == row.result.error &&
                                       known.result.latency_us == row.result.latency_us);
}

Status import_workload(Store& store, const Json& json, const Target& target, ImportResult& result,
                       std::vector<Workload>& workloads, std::vector<Record>& added) {
  CHANAS_ASSIGN_OR_RETURN(const Workload workload, workload_from_json(json.at("workload")));
  const std::string fingerprint = workload.fingerprint();
  const ScheduleSpace space = schedule_space(workload, target, result.key.threads);
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Record> known, store.records(fingerprint, result.key));
  for (const Json& row : json.at("records")) {
    Record record;
    record.workload = fingerprint;
    record.key = result.key;
    CHANAS_ASSIGN_OR_RETURN(record.schedule, schedule_from_json(row.at("schedule")));
    CHANAS_RETURN_IF_ERROR(annotate(check_legal(space, record.schedule), workload.describe()));
    record.origin = row.at("origin").get<std::string>();
    record.time_s = row.at("time_s").get<int64_t>();
    CHANAS_ASSIGN_OR_RETURN(record.result, measure_result_from_json(row.at("result")));
    const auto covers_it = [&](const Record& other) { return covers(other, record); };
    if (std::any_of(known.begin(), known.end(), covers_it)) {
      ++result.known;
    } else {
      added.push_back(std::move(record));
    }
  }
  workloads.push_back(workload);
  return absl::OkStatus();
}

StatusOr<ImportResult> import_document(Store& store, const Json& document) {
  if (document.value("format", "") != kFormat) {
    return absl::InvalidArgumentError(
        fmt::format("not a latency table: expected \"format\": \"{}\"", kFormat));
  }
  if (const int version = document.at("version").get<int>(); version != kVersion) {
    return absl::InvalidArgumentError(fmt::format(
        "latency table of format version {}, this program reads {}", version, kVersion));
  }
  CHANAS_ASSIGN_OR_RETURN(const Target target, target_from_json(document.at("device")));
  ImportResult result;
  result.key = {.device = target.fingerprint(),
                .threads = document.at("threads").get<int>(),
                .plan = document.at("plan").get<std::string>(),
                .schedule_version = document.at("schedule_version").get<int>()};
  if (result.key.threads < 1 || result.key.threads > 4096) {
    return absl::InvalidArgumentError(
        fmt::format("\"threads\" is {}, expected 1 to 4096", result.key.threads));
  }
  if (result.key.schedule_version != kScheduleVersion) {
    return absl::InvalidArgumentError(
        fmt::format("rows of schedules v{}, this program makes v{}; tune again instead",
                    result.key.schedule_version, kScheduleVersion));
  }
  std::vector<Workload> workloads;
  std::vector<Record> added;
  for (const Json& workload : document.at("workloads")) {
    CHANAS_RETURN_IF_ERROR(import_workload(store, workload, target, result, workloads, added));
  }
  CHANAS_RETURN_IF_ERROR(store.put_device(target));
  for (const Workload& workload : workloads) {
    CHANAS_RETURN_IF_ERROR(store.put_workload(workload));
  }
  CHANAS_RETURN_IF_ERROR(store.add_records(added));
  result.added = static_cast<int64_t>(added.size());
  return result;
}

}  // namespace

StatusOr<Json> export_rows(Store& store, const RecordKey& key, bool all) {
  CHANAS_ASSIGN_OR_RETURN(const std::vector<TuningSummary> summaries, store.summaries(key));
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Target> devices, store.devices());
  const auto device = std::find_if(devices.begin(), devices.end(), [&](const Target& target) {
    return target.fingerprint() == key.device;
  });
  if (summaries.empty() || device == devices.end()) {
    return absl::NotFoundError(
        fmt::format("store '{}' holds no rows of {}", store.path(), describe(key)));
  }
  Json workloads = Json::array();
  for (const TuningSummary& summary : summaries) {
    CHANAS_ASSIGN_OR_RETURN(const auto workload, store.workload(summary.workload));
    CHANAS_ASSIGN_OR_RETURN(const std::vector<Record> records,
                            store.records(summary.workload, key));
    Json rows = Json::array();
    for (auto record = records.begin(); record != records.end(); ++record) {
      const bool wanted =
          record->schedule == summary.best || record->schedule == summary.default_schedule;
      const bool last = std::none_of(record + 1, records.end(), [&](const Record& later) {
        return later.schedule == record->schedule;
      });
      if (!all && !(wanted && last)) continue;
      rows.push_back({{"schedule", to_json(record->schedule)},
                      {"origin", record->origin},
                      {"time_s", record->time_s},
                      {"result", to_json(record->result)}});
    }
    workloads.push_back({{"workload", to_json(*workload)}, {"records", std::move(rows)}});
  }
  return Json{{"format", kFormat},
              {"version", kVersion},
              {"device", to_json(*device)},
              {"threads", key.threads},
              {"plan", key.plan},
              {"schedule_version", key.schedule_version},
              {"workloads", std::move(workloads)}};
}

StatusOr<ImportResult> import_rows(Store& store, const Json& document) {
  try {
    return import_document(store, document);
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("bad latency table: {}", error.what()));
  }
}

}  // namespace chanas
