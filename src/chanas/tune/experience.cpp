#include "chanas/tune/experience.h"

#include <fmt/format.h>

#include <cmath>

namespace chanas::internal {
namespace {

std::string name_of(const ScheduleSpace& space) {
  return fmt::format("{}/{}/{}", space.workload.fingerprint(), space.target.fingerprint(),
                     space.threads);
}

}  // namespace

Sample make_sample(const ScheduleSpace& space, const Schedule& schedule) {
  return {.features = schedule_features(space, schedule)};
}

Sample make_sample(const ScheduleSpace& space, const Trial& trial) {
  Sample sample = make_sample(space, trial.schedule);
  sample.ok = trial.ok;
  if (trial.ok) {
    const double scale = roofline_us(space.workload, space.target, space.threads);
    sample.value = std::log(trial.latency_us / scale);
  }
  return sample;
}

void Experience::know(const ScheduleSpace& space) {
  if (find(space) >= 0) return;
  const std::string kind = space.workload.kind();
  if (kind_.empty()) kind_ = kind;
  CHANAS_CHECK(kind_ == kind) << kind << " among " << kind_;
  const std::vector<ChoiceType> types = choice_types(space);
  types_.resize(types.size(), ChoiceType::kUnknown);
  for (size_t i = 0; i < types.size(); ++i) {
    if (types_[i] == ChoiceType::kUnknown) types_[i] = types[i];
  }
  workloads_.emplace(name_of(space), static_cast<int>(shapes_.size()));
  shapes_.push_back(shape_features(space.workload));
}

void Experience::add(const ScheduleSpace& space, const Trial& trial) {
  know(space);
  const int workload = find(space);
  const auto [place, is_first] =
      index_.emplace(std::pair(workload, trial.schedule), entries_.size());
  if (is_first) entries_.push_back({workload, {}});
  entries_[place->second].sample = make_sample(space, trial);
}

int Experience::find(const ScheduleSpace& space) const {
  const auto entry = workloads_.find(name_of(space));
  return entry == workloads_.end() ? -1 : entry->second;
}

}  // namespace chanas::internal
