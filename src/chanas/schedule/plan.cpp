#include "chanas/schedule/plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "chanas/base/names.h"
#include "chanas/schedule/packing.h"
#include "chanas/schedule/tiling.h"

namespace chanas {
namespace {

constexpr int64_t kAlignment = 64;

// First and last stage in which a buffer holds something that is still needed.
struct Life {
  int first = 0, last = 0;
  bool overlaps(const Life& other) const { return first <= other.last && other.first <= last; }
};

std::vector<Life> lives(const ExecutionPlan& plan) {
  std::vector<Life> result(plan.buffers.size());
  for (int i = 0; i < static_cast<int>(plan.stages.size()); ++i) {
    const Stage& stage = plan.stages[i];
    result[stage.output] = {i, i};
    for (int input : stage.inputs) result[input].last = i;
  }
  return result;
}

// Bytes that the dense reductions of a workload can fetch on the side: a line in the time of about
// 256 multiply-adds, a quarter of what a core computes meanwhile at its best.
int64_t spare_fetches(const Workload& workload) {
  int64_t bytes = 0;
  for (const Op& op : workload.graph.ops)
    if (op.kind == OpKind::kConv2d && op.shape.h * op.shape.w > 1)
      bytes += macs(op, workload.graph) / 256 * kAlignment;
  return bytes;
}

// How far one thread runs ahead with fetching, and several, each with what it uses: the rest of the
// second cache holds what is computed with.
int64_t most_ahead(const Target& target, int threads) {
  return target.l2_bytes / (threads == 1 ? 4 : 2);
}

// What one thread prefetches in a stage: the rest of the stage's own `own` bytes of weights, of
// which `fetched` are there (more than it has: also of what follows), and of the `next` bytes that
// are used until a stage fetches itself, so that the fetching runs ahead of the computing by
// `ahead` at most.
PrefetchRange prefetch_alone(int64_t own, int64_t fetched, int64_t next, int64_t ahead,
                             int64_t spare) {
  const int64_t to = own + std::min(next, ahead);
  int64_t from = std::max(fetched, std::min(own, ahead));
  // Too slow a fetching of its own weights would be overtaken by their use.
  if (to - from > spare) from = own;
  return {from, std::max<int64_t>(0, std::min(to - from, spare))};
}

void prefetch_alone(ExecutionPlan& plan, const std::vector<int64_t>& weight_bytes) {
  const int64_t ahead = most_ahead(plan.target, 1);
  int64_t fetched = 0;  // from the stage's own weights on
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    if (const int64_t spare = spare_fetches(plan.stages[i].workload); spare > 0) {
      int64_t next = 0;
      for (size_t j = i + 1; j < plan.stages.size(); ++j) {
        next += weight_bytes[j];
        if (spare_fetches(plan.stages[j].workload) > 0) break;
      }
      const PrefetchRange range = prefetch_alone(weight_bytes[i], fetched, next, ahead, spare);
      if (range.bytes > 0) plan.stages[i].prefetch = {range};
      fetched = range.begin + range.bytes;
    }
    fetched -= weight_bytes[i];
  }
}

// What the threads use of a stage's weights, from the beginning of these; in their order in memory.
std::vector<PrefetchRange> weights_by_thread(const ScheduleSpace& space, const Schedule& schedule) {
  const std::vector<OpRole> roles = op_roles(space.workload);
  const std::vector<bool> shared = channels_shared(space, roles, resolve(space, roles, schedule));
  std::vector<PrefetchRange> ranges;
  for (const PackedOp& op : packing(space, schedule).ops) {
    const int64_t begin = op.weight_offset * int64_t{sizeof(float)};
    const int64_t bytes = op.weight_size * int64_t{sizeof(float)};
    if (shared[op.op])
      ranges.push_back({begin, bytes / space.threads, bytes / space.threads});
    else
      ranges.push_back({begin, bytes, 0});
  }
  return ranges;
}

// Appends to `out` what several threads prefetch of a stage's weights, which lie `begin` bytes
// behind those of the stage that fetches; takes its bytes from `left`.
void prefetch_together(const std::vector<PrefetchRange>& by_thread, int64_t begin, int64_t& left,
                       std::vector<PrefetchRange>& out) {
  constexpr int64_t kWorthAnInstruction = 4096;
  for (PrefetchRange range : by_thread) {
    range.begin += begin;
    range.bytes = std::min(range.bytes, left);
    if (range.bytes < kWorthAnInstruction) continue;
    left -= range.bytes;
    out.push_back(range);
  }
}

// What several threads prefetch in every stage: each what it will use of the weights up to those of
// the next stage that fetches itself.
void prefetch_together(ExecutionPlan& plan, const std::vector<int64_t>& weight_bytes) {
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    int64_t left = std::min(spare_fetches(plan.stages[i].workload) / plan.threads,
                            most_ahead(plan.target, plan.threads));
    int64_t begin = weight_bytes[i];
    for (size_t j = i + 1; j < plan.stages.size() && left > 0; ++j) {
      const Stage& stage = plan.stages[j];
      const ScheduleSpace space = schedule_space(stage.workload, plan.target, plan.threads);
      prefetch_together(weights_by_thread(space, stage.schedule), begin, left,
                        plan.stages[i].prefetch);
      begin += weight_bytes[j];
      if (spare_fetches(stage.workload) > 0) break;
    }
  }
}

// Places buffers and weights. Largest buffer first, each at the lowest offset that is free during
// its life, which comes close to the largest sum of buffers that live at once.
void lay_out(ExecutionPlan& plan) {
  const std::vector<Life> life = lives(plan);
  std::vector<int> order(plan.buffers.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater{},
                           [&](int i) { return plan.buffers[i].shape.elements(); });
  const auto bytes = [&](int i) {
    const int64_t size = plan.buffers[i].shape.elements() * static_cast<int64_t>(sizeof(float));
    return (size + kAlignment - 1) / kAlignment * kAlignment;
  };
  plan.activation_bytes = 0;
  std::vector<int> placed;  // by offset
  for (int i : order) {
    Buffer& buffer = plan.buffers[i];
    buffer.offset_bytes = -1;
    if (i == plan.input || i == plan.output) continue;
    int64_t offset = 0;
    for (int other : placed) {
      if (!life[i].overlaps(life[other])) continue;
      const int64_t begin = plan.buffers[other].offset_bytes;
      if (offset + bytes(i) <= begin) break;
      offset = std::max(offset, begin + bytes(other));
    }
    buffer.offset_bytes = offset;
    plan.activation_bytes = std::max(plan.activation_bytes, offset + bytes(i));
    placed.insert(std::ranges::upper_bound(placed, offset, {},
                                           [&](int p) { return plan.buffers[p].offset_bytes; }),
                  i);
  }
  plan.weight_floats = 0;
  std::vector<int64_t> weight_bytes;
  for (Stage& stage : plan.stages) {
    stage.weight_offset = plan.weight_floats;
    const int64_t size =
        packing(schedule_space(stage.workload, plan.target, plan.threads), stage.schedule).size;
    plan.weight_floats += size;
    weight_bytes.push_back(size * int64_t{sizeof(float)});
  }
  if (plan.threads == 1)
    prefetch_alone(plan, weight_bytes);
  else
    prefetch_together(plan, weight_bytes);
}

// "units.3" and {"units.3.expand.conv", "units.3.depthwise.conv"} -> "units.3/expand+depthwise";
// of two joined elements the one that holds the group, or both: "stem+units.0/conv+depthwise".
std::string stage_name(const Element& element, const Graph& graph, const Group& group) {
  std::vector<std::string> owners, parts;
  for (int index : group.ops) {
    std::string part = graph.ops[index].name;
    std::string owner = element.name;
    if (const size_t plus = owner.find('+'); plus != std::string::npos && !part.starts_with(owner))
      owner = part.starts_with(owner.substr(plus + 1) + ".") ? owner.substr(plus + 1)
                                                             : owner.substr(0, plus);
    if (part.starts_with(owner + ".")) part.erase(0, owner.size() + 1);
    if (part.ends_with(".conv")) part.erase(part.size() - 5);
    if (owners.empty() || owners.back() != owner) owners.push_back(std::move(owner));
    parts.push_back(std::move(part));
  }
  return join(owners, "+") + "/" + join(parts, "+");
}

StatusOr<const Cut*> find_cut(const Element& element, const std::string& name) {
  std::vector<std::string> names;
  for (const Cut& cut : element.cuts) {
    if (cut.name == name) return &cut;
    names.push_back(cut.name);
  }
  return absl::InvalidArgumentError(
      fmt::format("there is no cut \"{}\"; the cuts are {}", name, join(names)));
}

Status add_element(const CutNetwork& network, const Element& element, const ElementChoice& choice,
                   std::map<int, int>& buffer_of_value, ExecutionPlan& plan) {
  CHANAS_ASSIGN_OR_RETURN(const Cut* cut, find_cut(element, choice.cut));
  if (choice.schedules.size() != cut->groups.size())
    return absl::InvalidArgumentError(fmt::format("cut \"{}\" has {} groups, got {} schedules",
                                                  cut->name, cut->groups.size(),
                                                  choice.schedules.size()));
  for (size_t i = 0; i < cut->groups.size(); ++i) {
    const Group& group = cut->groups[i];
    const Status legal =
        check_legal(schedule_space(group.workload, plan.target, plan.threads), choice.schedules[i]);
    if (!legal.ok()) return annotate(legal, fmt::format("cut \"{}\"", cut->name));
    Stage stage;
    stage.name = stage_name(element, network.graph, group);
    stage.workload = group.workload;
    stage.schedule = choice.schedules[i];
    stage.names = group.names;
    for (int value : group.inputs) {
      const auto found = buffer_of_value.find(value);
      CHANAS_CHECK(found != buffer_of_value.end()) << stage.name << " reads a value not made yet";
      stage.inputs.push_back(found->second);
    }
    stage.output = static_cast<int>(plan.buffers.size());
    buffer_of_value[group.output] = stage.output;
    plan.buffers.push_back({network.graph.ops[group.output].shape, -1});
    plan.stages.push_back(std::move(stage));
  }
  return absl::OkStatus();
}

}  // namespace

Fetching usual_fetching(const ScheduleSpace& space, const Schedule& schedule) {
  const int64_t own = packing(space, schedule).size * int64_t{sizeof(float)};
  const int64_t spare = spare_fetches(space.workload);
  const int64_t ahead = most_ahead(space.target, space.threads);
  Fetching result;
  if (space.threads == 1) {
    const int64_t fetched = std::min(own, ahead);
    if (fetched > 0) result.fetched = {{0, fetched, 0}};
    const PrefetchRange range = prefetch_alone(own, fetched, own, ahead, spare);
    if (range.bytes > 0) result.prefetch = {range};
    return result;
  }
  const std::vector<PrefetchRange> by_thread = weights_by_thread(space, schedule);
  int64_t left = ahead;
  prefetch_together(by_thread, 0, left, result.fetched);
  left = std::min(spare / space.threads, ahead);
  prefetch_together(by_thread, own, left, result.prefetch);
  return result;
}

StatusOr<ExecutionPlan> make_plan(const CutNetwork& network, const Target& target, int threads,
                                  const std::vector<ElementChoice>& choices) {
  if (choices.size() != network.elements.size())
    return absl::InvalidArgumentError(
        fmt::format("{} choices for {} elements", choices.size(), network.elements.size()));
  const std::vector<int> inputs = network.graph.input_ops();
  CHANAS_CHECK(inputs.size() == 1) << inputs.size() << " inputs";
  ExecutionPlan plan;
  plan.target = target;
  plan.threads = threads;
  plan.buffers.push_back({network.graph.ops[inputs[0]].shape, -1});
  std::map<int, int> buffer_of_value = {{inputs[0], plan.input}};
  for (size_t i = 0; i < choices.size(); ++i) {
    const Element& element = network.elements[i];
    const Status status = add_element(network, element, choices[i], buffer_of_value, plan);
    if (!status.ok()) return annotate(status, element.name);
  }
  plan.output = plan.stages.back().output;
  lay_out(plan);
  return plan;
}

StatusOr<ExecutionPlan> default_plan(const CutNetwork& network, const Target& target, int threads) {
  std::vector<ElementChoice> choices;
  for (const Element& element : network.elements) {
    const Cut& cut = element.cuts.front();
    ElementChoice choice{cut.name, {}};
    for (const Group& group : cut.groups)
      choice.schedules.push_back(default_schedule(schedule_space(group.workload, target, threads)));
    choices.push_back(std::move(choice));
  }
  return make_plan(network, target, threads, choices);
}

StatusOr<std::vector<float>> pack_plan(const ExecutionPlan& plan, const Parameters& parameters) {
  std::vector<float> weights(plan.weight_floats);
  for (const Stage& stage : plan.stages) {
    // Every shape is looked at before anything is copied.
    Graph graph = stage.workload.graph;
    for (size_t i = 0; i < graph.ops.size(); ++i) graph.ops[i].name = stage.names[i];
    const Status status = check_parameters(graph, parameters);
    if (!status.ok()) return annotate(status, stage.name);
    pack_weights(schedule_space(stage.workload, plan.target, plan.threads), stage.schedule,
                 parameters, stage.names, weights.data() + stage.weight_offset);
  }
  return weights;
}

Json to_json(const ExecutionPlan& plan) {
  Json buffers = Json::array(), stages = Json::array();
  for (const Buffer& buffer : plan.buffers)
    buffers.push_back({buffer.shape.h, buffer.shape.w, buffer.shape.c});
  for (const Stage& stage : plan.stages)
    stages.push_back({{"name", stage.name},
                      {"workload", to_json(stage.workload)},
                      {"schedule", to_json(stage.schedule)},
                      {"names", stage.names},
                      {"inputs", stage.inputs},
                      {"output", stage.output}});
  return {{"schedule_version", kScheduleVersion},
          {"network", plan.network},
          {"target", to_json(plan.target)},
          {"threads", plan.threads},
          {"buffers", buffers},
          {"input", plan.input},
          {"output", plan.output},
          {"stages", stages}};
}

namespace {

// Throws nlohmann's exceptions for missing keys and wrong types; plan_from_json catches them.
StatusOr<ExecutionPlan> read_plan(const Json& json) {
  if (const int version = json.at("schedule_version").get<int>(); version != kScheduleVersion)
    return absl::InvalidArgumentError(
        fmt::format("schedule version is {}, expected {}; tune again", version, kScheduleVersion));
  ExecutionPlan plan;
  plan.network = json.at("network").get<std::string>();
  CHANAS_ASSIGN_OR_RETURN(plan.target, target_from_json(json.at("target")));
  plan.threads = json.at("threads").get<int>();
  if (plan.threads < 1 || plan.threads > 1024)
    return absl::InvalidArgumentError(fmt::format("{} threads", plan.threads));
  for (const Json& shape : json.at("buffers")) {
    const auto sizes = shape.get<std::array<int, 3>>();
    plan.buffers.push_back({{sizes[0], sizes[1], sizes[2]}, -1});
  }
  const int buffers = static_cast<int>(plan.buffers.size());
  const auto fits = [&](int buffer, const Shape& shape) {
    return buffer >= 0 && buffer < buffers && plan.buffers[buffer].shape == shape;
  };
  plan.input = json.at("input").get<int>();
  plan.output = json.at("output").get<int>();
  std::vector<bool> written(buffers);
  if (plan.input >= 0 && plan.input < buffers) written[plan.input] = true;
  for (const Json& item : json.at("stages")) {
    Stage stage;
    stage.name = item.at("name").get<std::string>();
    CHANAS_ASSIGN_OR_RETURN(stage.workload, workload_from_json(item.at("workload")));
    CHANAS_ASSIGN_OR_RETURN(stage.schedule, schedule_from_json(item.at("schedule")));
    stage.names = item.at("names").get<std::vector<std::string>>();
    stage.inputs = item.at("inputs").get<std::vector<int>>();
    stage.output = item.at("output").get<int>();
    CHANAS_RETURN_IF_ERROR(
        check_legal(schedule_space(stage.workload, plan.target, plan.threads), stage.schedule));
    const Graph& graph = stage.workload.graph;
    const std::vector<int> inputs = graph.input_ops();
    bool good = stage.names.size() == graph.ops.size() && stage.inputs.size() == inputs.size() &&
                fits(stage.output, graph.output().shape) && !written[stage.output];
    for (size_t i = 0; good && i < inputs.size(); ++i)
      good = fits(stage.inputs[i], graph.ops[inputs[i]].shape) && written[stage.inputs[i]];
    if (!good)
      return absl::InvalidArgumentError(
          fmt::format("stage \"{}\": names or buffers do not fit its workload", stage.name));
    written[stage.output] = true;
    plan.stages.push_back(std::move(stage));
  }
  if (plan.stages.empty() || plan.stages.back().output != plan.output)
    return absl::InvalidArgumentError("the last stage does not write the output buffer");
  lay_out(plan);
  return plan;
}

}  // namespace

StatusOr<ExecutionPlan> plan_from_json(const Json& json) {
  try {
    StatusOr<ExecutionPlan> plan = read_plan(json);
    if (!plan.ok()) return annotate(plan.status(), "execution plan");
    return plan;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("execution plan: {}", error.what()));
  }
}

}  // namespace chanas
