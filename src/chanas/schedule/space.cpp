#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>

#include "chanas/base/names.h"
#include "chanas/schedule/ops.h"

namespace chanas {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 29;

struct FieldHelp {
  std::string_view what, text;
};
constexpr FieldHelp kHelp[] = {
    {"vector",
     "SIMD lanes. The full width is fastest; half of it wastes fewer lanes where the "
     "channels are no multiple. Ops that pass values lane by lane share it."},
    {"channel_vectors",
     "channel vectors per register tile. More reuse each input value more often; "
     "times pixels it is bound by the registers. Also the panel width of packed weights."},
    {"pixels",
     "pixels of a row per register tile. More reuse each weight more often. A tile that does "
     "not divide the row is shifted inwards and computes some pixels twice."},
    {"unroll",
     "convolution: reduction steps per loop iteration. Depthwise: 1 unrolls the rows of the "
     "window as well as its columns. Less loop overhead, more code."},
    {"order",
     "loop order. 0: channel blocks (depthwise with slices: slices) outermost, weights stay in "
     "cache; 1: rows outermost, the input stays in cache. The outermost loop is the parallel one."},
    {"slice",
     "the producer (or the zero-bordered copy of the input) is computed for this many common "
     "tiles of channels at a time, so that it stays in cache; 0: for all channels before."},
    {"strip",
     "what is needed for this many output rows is computed at a time; rows at the seams are "
     "computed twice; 0: for all rows."},
    {"border",
     "1: a window reads from a buffer with zero borders, into which an input is copied; 0: taps "
     "outside the image are left out, with own code for the ends of a row."},
    {"scale",
     "0: multiplied inside the reduction; 1: the scaled input is stored first; 2: the scaled "
     "weights are stored first."},
    {"parallel",
     "0: serial, for work too small to share; 1: the outermost loop; 2: the two outermost "
     "loops fused, for finer balance."},
};

const OpContext context_of(const ScheduleSpace& space, const std::vector<OpRole>& roles,
                           int index) {
  return {space.workload, space.target, space.threads, roles, index};
}

int nearest_choice(const std::vector<int>& choices, int value) {
  return *std::ranges::min_element(choices, {}, [&](int c) { return std::abs(c - value); });
}

int value_of(const OpValues& values, std::string_view what) {
  if (what == "vector") return values.vector;
  if (what == "channel_vectors") return values.channel_vectors;
  if (what == "pixels") return values.pixels;
  if (what == "unroll") return values.unroll;
  if (what == "order") return values.order;
  if (what == "slice") return values.slice;
  if (what == "strip") return values.strip;
  if (what == "border") return values.border;
  if (what == "scale") return values.scale;
  CHANAS_CHECK(what == "parallel") << what;
  return values.parallel;
}

}  // namespace

std::string_view primitive_name(Primitive primitive) {
  constexpr std::string_view kNames[] = {"split",    "fuse",   "reorder",    "unroll", "vectorize",
                                         "parallel", "inline", "compute_at", "cache",  "bind"};
  return kNames[static_cast<int>(primitive)];
}

std::string_view field_help(std::string_view name) {
  const std::string_view what = name.substr(name.find('.') + 1);
  for (const FieldHelp& help : kHelp)
    if (help.what == what) return help.text;
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
    if (context.op().shape.elements() > kMaxElements)
      return broken(context, "value too large for 32-bit indices",
                    fmt::format("{} elements", context.op().shape.elements()));
    if (context.op().kind == OpKind::kInput) continue;
    CHANAS_RETURN_IF_ERROR(rules_of(context.op().kind).check(context, tiles[i]));
  }
  return absl::OkStatus();
}

Schedule default_schedule(const ScheduleSpace& space) {
  const std::vector<OpRole> roles = op_roles(space.workload);
  std::vector<OpValues> values(roles.size());
  for (size_t i = 0; i < roles.size(); ++i) {
    const OpContext context = context_of(space, roles, static_cast<int>(i));
    if (context.op().kind == OpKind::kInput) continue;
    const int vector =
        roles[i].lanes == context.index ? choose_vector(context) : values[roles[i].lanes].vector;
    values[i] = rules_of(context.op().kind).defaults(context, vector);
  }
  Schedule schedule;
  for (const Field& field : space.fields) {
    const size_t dot = field.name.find('.');
    const OpValues& of_op = values[std::stoi(field.name.substr(2, dot - 2))];
    schedule.values.push_back(nearest_choice(
        field.choices, value_of(of_op, std::string_view(field.name).substr(dot + 1))));
  }
  const Status status = check_legal(space, schedule);
  CHANAS_CHECK(status.ok()) << status.message() << ": " << to_text(space, schedule);
  return schedule;
}

}  // namespace chanas
