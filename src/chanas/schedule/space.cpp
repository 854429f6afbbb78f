#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "chanas/base/names.h"
#include "chanas/schedule/ops.h"

namespace chanas {
namespace {

const OpContext context_of(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                           int index) {
  return {space.workload, space.target, space.threads, roles, index};
}

int nearest_choice(const std::vector<int>& choices, int value) {
  return *std::ranges::min_element(choices, {}, [&](int c) { return std::abs(c - value); });
}

}  // namespace

std::string_view primitive_name(Primitive primitive) {
  constexpr std::string_view kNames[] = {"split",    "fuse",   "reorder",    "unroll", "vectorize",
                                         "parallel", "inline", "compute_at", "cache",  "bind"};
  return kNames[static_cast<int>(primitive)];
}

std::string_view field_help(std::string_view name) {
  const std::string_view what = name.substr(name.find('.') + 1);
  for (const ChoiceKind& kind : choice_kinds())
    if (kind.name == what) return kind.help;
  return "";
}

int ScheduleSpace::find(std::string_view name) const {
  for (size_t i = 0; i < fields.size(); ++i)
    if (fields[i].name == name) return static_cast<int>(i);
  return -1;
}

int ScheduleSpace::value(const Schedule& schedule, std::string_view name) const {
  const int index = find(name);
  CHANAS_CHECK(index >= 0) << "no field " << name;
  CHANAS_CHECK(schedule.values.size() == fields.size()) << schedule.values.size();
  return schedule.values[index];
}

ScheduleSpace schedule_space(const Workload& workload, const Target& target, int threads) {
  ScheduleSpace space{workload, target, threads, {}};
  const std::vector<OpRole> roles = op_roles(workload);
  for (size_t i = 0; i < roles.size(); ++i) {
    const OpContext context = context_of(space, roles, static_cast<int>(i));
    if (context.op().kind != OpKind::kInput)
      rules_of(context.op().kind).fields(context, space.fields);
  }
  return space;
}

Status check_legal(const ScheduleSpace& space, const Schedule& schedule) {
  if (schedule.values.size() != space.fields.size())
    return absl::InvalidArgumentError(fmt::format("schedule of {}: length: {} values, expected {}",
                                                  space.workload.describe(), schedule.values.size(),
                                                  space.fields.size()));
  for (size_t i = 0; i < space.fields.size(); ++i) {
    const Field& field = space.fields[i];
    if (!std::ranges::binary_search(field.choices, schedule.values[i])) {
      std::vector<std::string> choices;
      for (int choice : field.choices) choices.push_back(std::to_string(choice));
      return absl::InvalidArgumentError(
          fmt::format("schedule of {}: value not offered: {}={}, expected one of {}",
                      space.workload.describe(), field.name, schedule.values[i], join(choices)));
    }
  }
  const std::vector<OpRole> roles = op_roles(space.workload);
  const std::vector<OpTile> tiles = resolve(space, roles, schedule);
  for (size_t i = 0; i < roles.size(); ++i) {
    const OpContext context = context_of(space, roles, static_cast<int>(i));
    if (context.op().kind == OpKind::kInput) continue;
    CHANAS_RETURN_IF_ERROR(rules_of(context.op().kind).check(context, tiles[i]));
  }
  return absl::OkStatus();
}

namespace {

// The default, or with the other width wherever either may be the fastest.
Schedule default_of_width(const ScheduleSpace& space, bool other_width) {
  const std::vector<OpRole> roles = op_roles(space.workload);
  std::vector<OpChoices> values(roles.size());
  for (size_t i = 0; i < roles.size(); ++i) {
    const OpContext context = context_of(space, roles, static_cast<int>(i));
    if (context.op().kind == OpKind::kInput) continue;
    int vector = values[roles[i].lanes].vector;
    if (roles[i].lanes == context.index) {
      vector = choose_vector(context);
      const std::vector<int> widths = vector_choices(space.target, roles[i].view.c);
      if (other_width && either_width(context)) vector = widths[widths[0] == vector];
    }
    values[i] = rules_of(context.op().kind).defaults(context, vector);
    // Blocks of ops that share lanes must fit into each other, or channels are rounded up twice.
    const int first = values[roles[i].lanes].channel_vectors;
    if (std::lcm(first, values[i].channel_vectors) > std::max(first, values[i].channel_vectors))
      values[i].channel_vectors = std::gcd(first, values[i].channel_vectors);
  }
  Schedule schedule;
  for (const Field& field : space.fields) {
    const FieldKey key = field_key(field);
    schedule.values.push_back(nearest_choice(field.choices, values[key.op].*key.kind.value));
  }
  const Status status = check_legal(space, schedule);
  CHANAS_CHECK(status.ok()) << status.message() << ": " << to_text(space, schedule);
  return schedule;
}

}  // namespace

Schedule default_schedule(const ScheduleSpace& space) { return default_of_width(space, false); }

std::vector<Schedule> structured_schedules(const ScheduleSpace& space) {
  const Graph& graph = space.workload.graph;
  const std::string last = fmt::format("op{}.", graph.ops.size() - 1);
  const Schedule plain = default_schedule(space);
  std::vector<Schedule> result;
  const auto add = [&](const std::vector<std::pair<std::string, int>>& changes) {
    Schedule schedule = plain;
    for (const auto& [name, value] : changes) {
      const int field = space.find(name);
      if (field >= 0) schedule.values[field] = nearest_choice(space.fields[field].choices, value);
    }
    if (schedule != plain && check_legal(space, schedule).ok()) result.push_back(schedule);
  };
  if (const int strip = space.find(last + "strip"); strip >= 0) {
    constexpr int kRows = 4;
    const Field& field = space.fields[strip];
    const auto rows = std::ranges::lower_bound(field.choices, kRows);
    const auto add_strips = [&](std::vector<std::pair<std::string, int>> changes) {
      if (rows == field.choices.end()) return;
      changes.insert(changes.end(), {{last + "strip", *rows}, {last + "parallel", 1}});
      add(changes);
    };
    add_strips({});
    // Of a depthwise convolution, whose slices they are inside, threads share strips of all
    // channels instead.
    if (space.threads > 1 && graph.ops.back().kind == OpKind::kDepthwise)
      add_strips({{last + "order", 1}, {last + "slice", 0}});
  }
  if (Schedule other = default_of_width(space, true); other != plain)
    result.push_back(std::move(other));
  for (const Field& field : space.fields)
    if (field.name.ends_with(".parallel") && field.choices.back() == 3) add({{field.name, 3}});
  return result;
}

}  // namespace chanas
