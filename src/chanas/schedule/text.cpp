// Schedules as text and JSON.

#include <fmt/core.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_split.h"
#include "chanas/base/names.h"
#include "chanas/schedule/schedule.h"

namespace chanas {

std::string to_text(const ScheduleSpace& space, const Schedule& schedule) {
  CHANAS_CHECK(schedule.values.size() == space.fields.size()) << schedule.values.size();
  std::string text;
  for (size_t i = 0; i < space.fields.size(); ++i)
    text += fmt::format("{}{}={}", i == 0 ? "" : " ", space.fields[i].name, schedule.values[i]);
  return text;
}

StatusOr<Schedule> parse_schedule(const ScheduleSpace& space, std::string_view text) {
  Schedule schedule;
  schedule.values.resize(space.fields.size());
  std::set<int> seen;
  for (absl::string_view piece :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ' ', absl::SkipEmpty())) {
    const std::string_view item(piece.data(), piece.size());
    const size_t equals = item.find('=');
    const std::string name(item.substr(0, equals));
    const int index = space.find(name);
    if (index < 0) {
      std::vector<std::string> names;
      for (const Field& field : space.fields) names.push_back(field.name);
      const std::string near = nearest_name(name, names);
      return absl::InvalidArgumentError(
          fmt::format("schedule of {}: field \"{}\" is unknown{}", space.workload.describe(), name,
                      near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
    }
    const std::string_view number = equals == item.npos ? "" : item.substr(equals + 1);
    int& value = schedule.values[index];
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size())
      return absl::InvalidArgumentError(
          fmt::format("schedule of {}: \"{}\" has no whole number as its value",
                      space.workload.describe(), item));
    if (!seen.insert(index).second)
      return absl::InvalidArgumentError(fmt::format("schedule of {}: field \"{}\" is given twice",
                                                    space.workload.describe(), name));
  }
  for (size_t i = 0; i < space.fields.size(); ++i)
    if (!seen.contains(static_cast<int>(i)))
      return absl::InvalidArgumentError(fmt::format("schedule of {}: field \"{}\" is missing",
                                                    space.workload.describe(),
                                                    space.fields[i].name));
  CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  return schedule;
}

Json to_json(const Schedule& schedule) { return schedule.values; }

StatusOr<Schedule> schedule_from_json(const Json& json) {
  Schedule schedule;
  if (!json.is_array())
    return absl::InvalidArgumentError("schedule is not an array of whole numbers");
  for (const Json& value : json) {
    if (!value.is_number_integer() || value < -1'000'000 || value > 1'000'000)
      return absl::InvalidArgumentError(
          fmt::format("schedule holds {}, expected whole numbers", value.dump()));
    schedule.values.push_back(value.get<int>());
  }
  return schedule;
}

}  // namespace chanas
