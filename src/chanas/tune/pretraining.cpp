#include "chanas/tune/pretraining.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "chanas/base/file.h"

namespace chanas {

std::vector<std::pair<std::string, std::string>> embedded_pretraining();  // (file name, JSON)

namespace {

// "x86-64" and "arm-64" of their triples.
std::string_view architecture(const Target& target) {
  const std::string_view triple = target.triple;
  return triple.substr(0, triple.find('-', triple.find('-') + 1));
}

bool is_alike(const Target& a, const Target& b) {
  return architecture(a) == architecture(b) && a.vector_floats == b.vector_floats &&
         a.gpu() == b.gpu();
}

// Octaves between the near caches of two machines, which decide most about schedules.
double distance(const Target& a, const Target& b) {
  const auto octaves = [](int64_t x, int64_t y) {
    return std::abs(std::log2(static_cast<double>(x) / static_cast<double>(y)));
  };
  return octaves(a.l1_bytes, b.l1_bytes) + octaves(a.l2_bytes, b.l2_bytes);
}

// As data/make.py writes them. The file is part of the program: a mistake in it is a bug.
template <typename T>
T check_value(StatusOr<T> value) {
  CHANAS_CHECK(value.ok()) << value.status();
  return *std::move(value);
}

Lesson lesson_of(const Workload& workload, const Json& trials, const Target& device, int threads) {
  Lesson lesson{schedule_space(workload, device, threads), {}};
  for (const Json& trial : trials) {
    Record& record = lesson.records.emplace_back();
    record.workload = workload.fingerprint();
    record.key = {.device = device.fingerprint(), .threads = threads, .plan = {}};
    record.result.latency_us = trial.at(0).get<double>();
    for (size_t i = 1; i < trial.size(); ++i) {
      record.schedule.values.push_back(trial.at(i).get<int>());
    }
  }
  return lesson;
}

}  // namespace

std::vector<Lesson> pretraining_lessons(const Target& target, int threads,
                                        std::span<const TuningTask> tasks) {
  std::set<std::string> kinds;
  for (const TuningTask& task : tasks) kinds.insert(task.workload.kind());
  std::vector<Lesson> lessons;
  if (target.simulated) return lessons;
  struct Table {
    Target device;
    int threads;
    double away;
    Json workloads;
  };
  std::vector<Table> tables;
  std::map<int, double> nearest;  // by threads
  for (const auto& [name, text] : embedded_pretraining()) {
    for (Json& json : check_value(parse_json(text))) {
      const Target device = check_value(target_from_json(json.at("device")));
      if (json.at("schedule_version") != kScheduleVersion || !is_alike(device, target)) continue;
      const Table& table =
          tables.emplace_back(device, json.at("threads").get<int>(), distance(device, target),
                              std::move(json.at("workloads")));
      const auto [entry, is_first] = nearest.emplace(table.threads, table.away);
      entry->second = std::min(entry->second, table.away);
    }
  }
  for (const Table& table : tables) {
    if (table.away > nearest.at(table.threads)) continue;
    for (const Json& entry : table.workloads) {
      const Workload workload = check_value(workload_from_json(entry.at("graph")));
      if (!kinds.contains(workload.kind())) continue;
      lessons.push_back(lesson_of(workload, entry.at("trials"), table.device, table.threads));
    }
  }
  std::stable_sort(lessons.begin(), lessons.end(), [&](const Lesson& a, const Lesson& b) {
    return std::abs(a.space.threads - threads) < std::abs(b.space.threads - threads);
  });
  return lessons;
}

StatusOr<std::vector<Lesson>> lessons_of(const std::string& learn, const Target& target,
                                         int threads, std::span<const TuningTask> tasks) {
  std::vector<Lesson> lessons;
  if (learn == "none") return lessons;
  if (learn != "shipped") {
    if (!file_exists(learn)) {
      return absl::NotFoundError(
          "no store '" + learn +
          "' to learn from; expected a store's file, \"shipped\" or \"none\"");
    }
    CHANAS_ASSIGN_OR_RETURN(const auto store, Store::open(learn));
    CHANAS_ASSIGN_OR_RETURN(lessons, read_lessons(*store));
  }
  for (Lesson& lesson : pretraining_lessons(target, threads, tasks)) {
    lessons.push_back(std::move(lesson));
  }
  return lessons;
}

}  // namespace chanas
