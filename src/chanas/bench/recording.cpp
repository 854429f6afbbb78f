#include "chanas/bench/recording.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/file.h"
#include "chanas/base/stats.h"
#include "chanas/store/exchange.h"

namespace chanas {
namespace {

constexpr int kGzip = 15 + 16;  // window bits of zlib for a gzip wrapper

std::string compress(const std::string& text) {
  z_stream stream{};
  CHANAS_CHECK(deflateInit2(&stream, 9, Z_DEFLATED, kGzip, 9, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int result = deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  CHANAS_CHECK(result == Z_STREAM_END) << result;
  return out;
}

StatusOr<std::string> decompress(const std::string& data, const std::string& path) {
  z_stream stream{};
  CHANAS_CHECK(inflateInit2(&stream, kGzip) == Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  std::string out, part(1 << 16, '\0');
  int result = Z_OK;
  while (result == Z_OK) {
    stream.next_out = reinterpret_cast<Bytef*>(part.data());
    stream.avail_out = static_cast<uInt>(part.size());
    result = inflate(&stream, Z_NO_FLUSH);
    out.append(part, 0, part.size() - stream.avail_out);
  }
  inflateEnd(&stream);
  if (result == Z_STREAM_END) return out;
  return absl::DataLossError(
      fmt::format("{}: not a gzip file, or cut short; fetch it again, or measure again", path));
}

// How much a field is missed: of two lists of one length the less important one is cut first.
int importance(Primitive primitive) {
  switch (primitive) {
    case Primitive::kUnroll:
    case Primitive::kVectorize:
    case Primitive::kInline:
      return 0;
    case Primitive::kSplit:
      return 2;
    default:
      return 1;
  }
}

// Every second choice, and the default.
void thin(Field& field, int default_value) {
  std::vector<int> kept;
  const auto at = std::ranges::find(field.choices, default_value) - field.choices.begin();
  const bool two = field.choices.size() == 2;
  for (size_t i = 0; i < field.choices.size(); ++i) {
    const bool even = (static_cast<std::ptrdiff_t>(i) - at) % 2 == 0;
    if (field.choices[i] == default_value || (even && !two)) kept.push_back(field.choices[i]);
  }
  field.choices = kept;
}

double rounded(double us) { return std::round(us * 1000) / 1000; }

}  // namespace

std::vector<Record> merge_passes(const std::vector<Record>& records) {
  std::map<Schedule, std::vector<const Record*>> passes;
  std::vector<Record> merged;
  for (const Record& record : records) {
    std::vector<const Record*>& of_point = passes[record.schedule];
    if (of_point.empty()) merged.push_back(record);
    of_point.push_back(&record);
  }
  for (Record& point : merged) {
    std::vector<double> cold, warm;
    for (const Record* record : passes[point.schedule]) {
      if (!record->result.ok()) continue;
      cold.push_back(record->result.latency_us);
      warm.push_back(record->result.warm_us);
    }
    const MeasureResult& last = passes[point.schedule].back()->result;
    MeasureResult result;
    if (cold.empty()) {
      result.error = last.error;
    } else {
      result.latency_us = rounded(percentile(cold, kUndisturbed));
      result.warm_us = rounded(percentile(warm, kUndisturbed));
    }
    point.result = result;
    point.time_s = 0;
  }
  return merged;
}

std::vector<Schedule> legal_points(const ScheduleSpace& space) {
  std::vector<Schedule> points;
  Schedule schedule;
  std::vector<size_t> at(space.fields.size(), 0);
  for (const Field& field : space.fields) schedule.values.push_back(field.choices[0]);
  for (;;) {
    if (check_legal(space, schedule).ok()) points.push_back(schedule);
    size_t f = 0;
    for (; f < at.size(); ++f) {
      at[f] = at[f] + 1 < space.fields[f].choices.size() ? at[f] + 1 : 0;
      schedule.values[f] = space.fields[f].choices[at[f]];
      if (at[f] != 0) break;
    }
    if (f == at.size()) return points;
  }
}

ScheduleSpace cut_down(const ScheduleSpace& space, size_t limit) {
  constexpr double kCountable = 2e5;
  const Schedule defaults = default_schedule(space);
  ScheduleSpace cut = space;
  for (;;) {
    double points = 1;
    for (const Field& field : cut.fields) points *= static_cast<double>(field.choices.size());
    if (points < kCountable && legal_points(cut).size() <= limit) return cut;
    size_t longest = 0;
    const auto rank = [&](size_t f) {
      return std::pair(cut.fields[f].choices.size(), -importance(cut.fields[f].primitive));
    };
    for (size_t f = 1; f < cut.fields.size(); ++f) {
      if (rank(f) > rank(longest)) longest = f;
    }
    thin(cut.fields[longest], defaults.values[longest]);
  }
}

bool is_exhaustive(const Lesson& lesson) {
  std::set<Schedule> measured;
  for (const Record& record : lesson.records) measured.insert(record.schedule);
  return std::ranges::all_of(legal_points(lesson.space),
                             [&](const Schedule& point) { return measured.contains(point); });
}

std::vector<MeasureResult> replay(const Lesson& lesson, std::span<const Candidate> candidates) {
  std::map<Schedule, const MeasureResult*> known;
  for (const Record& record : lesson.records) known[record.schedule] = &record.result;
  std::vector<MeasureResult> results;
  for (const Candidate& candidate : candidates) {
    const auto found = known.find(candidate.schedule);
    if (found != known.end()) {
      results.push_back(*found->second);
    } else {
      MeasureResult& result = results.emplace_back();
      result.error = TrialError::kIllegal;
      result.message = "not recorded";
    }
  }
  return results;
}

StatusOr<std::vector<Lesson>> read_recording(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(const std::string data, read_file(path));
  CHANAS_ASSIGN_OR_RETURN(const std::string text, decompress(data, path));
  CHANAS_ASSIGN_OR_RETURN(const Json document, parse_json(text));
  const int version = document.is_object() ? document.value("schedule_version", 0) : 0;
  if (version != 0 && version != kScheduleVersion) {
    return absl::FailedPreconditionError(
        fmt::format("{}: recorded with schedules v{}, this program makes v{}; measure again with: "
                    "chanas-bench-search measure",
                    path, version, kScheduleVersion));
  }
  CHANAS_ASSIGN_OR_RETURN(const auto store, Store::open(":memory:"));
  if (const auto imported = import_rows(*store, document); !imported.ok()) {
    return annotate(imported.status(), path);
  }
  CHANAS_ASSIGN_OR_RETURN(std::vector<Lesson> lessons, read_lessons(*store));
  for (Lesson& lesson : lessons) {
    for (size_t f = 0; f < lesson.space.fields.size(); ++f) {
      std::set<int> values;
      for (const Record& record : lesson.records) values.insert(record.schedule.values[f]);
      lesson.space.fields[f].choices.assign(values.begin(), values.end());
    }
  }
  return lessons;
}

Status write_recording(const std::string& path, Store& store, const RecordKey& key) {
  CHANAS_ASSIGN_OR_RETURN(const auto merged, Store::open(":memory:"));
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Target> devices, store.devices());
  for (const Target& device : devices) {
    if (device.fingerprint() == key.device) CHANAS_RETURN_IF_ERROR(merged->put_device(device));
  }
  CHANAS_ASSIGN_OR_RETURN(const std::vector<TuningSummary> summaries, store.summaries(key));
  for (const TuningSummary& summary : summaries) {
    CHANAS_ASSIGN_OR_RETURN(const auto workload, store.workload(summary.workload));
    CHANAS_ASSIGN_OR_RETURN(const std::vector<Record> records,
                            store.records(summary.workload, key));
    CHANAS_RETURN_IF_ERROR(merged->put_workload(*workload));
    std::vector<Record> points = merge_passes(records);
    CHANAS_RETURN_IF_ERROR(merged->add_records(points));
  }
  CHANAS_ASSIGN_OR_RETURN(const Json document, export_rows(*merged, key, true));
  return write_file_atomic(path, compress(document.dump()));
}

}  // namespace chanas
