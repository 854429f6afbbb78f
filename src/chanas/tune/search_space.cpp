#include <utility>

#include "chanas/tune/strategy.h"
#include "chanas/tune/tuner.h"

namespace chanas {

Status search_space(
    const ScheduleSpace& space, const TuneOptions& options, int batch,
    const std::function<StatusOr<std::vector<MeasureResult>>(std::span<const Candidate>)>& measure,
    std::vector<Record>& records) {
  CHANAS_ASSIGN_OR_RETURN(const auto strategy, internal::make_strategy(options.strategy));
  internal::Experience experience;
  experience.know(space);
  for (const Lesson& lesson : options.lessons) {
    if (lesson.space.workload.kind() != space.workload.kind()) continue;
    for (const Record& record : lesson.records) {
      experience.add(lesson.space, internal::trial_of(record));
    }
  }
  internal::History history;
  const auto add = [&](const Record& record) {
    history.add(record);
    experience.add(space, internal::trial_of(record));
  };
  for (const Record& record : records) add(record);
  for (;;) {
    std::set<Schedule> pending;
    std::vector<Candidate> candidates;
    std::vector<Proposal> proposals;
    while (static_cast<int>(proposals.size()) < batch &&
           history.count() + static_cast<int>(proposals.size()) < options.trials) {
      auto proposal = strategy->propose({space, history, pending, experience, options});
      if (!proposal) break;
      pending.insert(proposal->schedule);
      candidates.push_back({space.workload, proposal->schedule});
      proposals.push_back(*std::move(proposal));
    }
    if (proposals.empty()) return absl::OkStatus();
    CHANAS_ASSIGN_OR_RETURN(const auto results, measure(candidates));
    CHANAS_CHECK(results.size() == proposals.size()) << results.size();
    for (size_t i = 0; i < results.size(); ++i) {
      Record& record = records.emplace_back();
      record.workload = space.workload.fingerprint();
      record.schedule = std::move(proposals[i].schedule);
      record.origin = std::move(proposals[i].origin);
      record.result = results[i];
      add(record);
    }
  }
}

}  // namespace chanas
