#include "chanas/tune/testing_tune.h"

#include <fmt/ranges.h>

namespace chanas {

MeasurePlan testing_plan() { return {.threads = 1, .cold_bytes = 1 << 20}; }

RecordKey testing_key() { return record_key(simulated_target(), testing_plan()); }

ArchSpace tiny_space() {
  ArchSpace space;
  space.name = "tiny";
  space.classes = 10;
  space.resolutions = {24, 32};
  space.widths = {1.0};
  space.kernels = {3, 5};
  space.expands = {2, 3};
  space.depths = {1, 2};
  space.blocks = {{.channels = 24, .stride = 2}, {.channels = 32, .stride = 2, .se = true}};
  space.head_channels = 64;
  space.mix_channels = 0;
  const Status status = validate(space);
  CHANAS_CHECK(status.ok()) << status.ToString();
  return space;
}

void tune_elements(Store& store, const std::vector<Element>& elements, int trials) {
  WatchedRunner runner;
  const Status status = tune(runner, store, tuning_tasks(elements), testing_plan(),
                             {.strategy = "evolution", .trials = trials}, nullptr);
  CHANAS_CHECK(status.ok()) << status.ToString();
}

LatencyTable tuned_table(Store& store, const std::vector<Element>& elements, int trials) {
  tune_elements(store, elements, trials);
  auto table = LatencyTable::build(store, testing_key(), simulated_target(), elements);
  CHANAS_CHECK(table.ok()) << table.status().ToString();
  return *std::move(table);
}

std::vector<Record> records_of(Store& store, const Workload& workload) {
  auto records = store.records(workload.fingerprint(), testing_key());
  CHANAS_CHECK(records.ok()) << records.status().ToString();
  return *std::move(records);
}

std::vector<std::string> record_lines(Store& store, const std::vector<TuningTask>& tasks) {
  std::vector<std::pair<int64_t, std::string>> lines;
  for (const TuningTask& task : tasks) {
    for (const Record& record : records_of(store, task.workload)) {
      lines.emplace_back(
          record.id, fmt::format("{} [{}] {} {} {}", record.workload,
                                 fmt::join(record.schedule.values, " "), record.origin,
                                 trial_error_name(record.result.error), record.result.latency_us));
    }
  }
  std::sort(lines.begin(), lines.end());
  std::vector<std::string> texts;
  for (auto& [id, text] : lines) texts.push_back(std::move(text));
  return texts;
}

}  // namespace chanas
