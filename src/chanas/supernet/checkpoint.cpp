#include "chanas/supernet/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/graph/safetensors.h"
#include "chanas/supernet/job.h"

namespace chanas {
namespace {

namespace fs = std::filesystem;

constexpr int kVersion = 2;
constexpr size_t kKept = 3;
constexpr std::string_view kPrefix = "checkpoint-";
const std::string kMomentum = "momentum.", kTeacher = "teacher.";
std::string point_prefix(size_t index) { return fmt::format("point.{}.", index); }
// Fields that came within the version: trainings begun before go on, with the first mean of the
// gradient's norm too low.
constexpr std::array<std::string_view, 2> kLater = {"point_gradient_norm", "failed_at"};

// JSON files of a folder, newest first: steps and stages are zero padded, names sort as numbers.
std::vector<std::string> checkpoint_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator i(folder, error), end; !error && i != end; i.increment(error)) {
    const std::string name = i->path().filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(".json")) files.push_back(i->path().string());
  }
  std::sort(files.rbegin(), files.rend());
  return files;
}

// Of a step there is one at the end of a stage and one at the beginning of the next.
std::string stem_of(int64_t step) { return fmt::format("{}{:010}-", kPrefix, step); }
std::string json_path(const std::string& folder, const TrainState& state) {
  return join_path(folder, fmt::format("{}{:02}.json", stem_of(state.step), state.stage));
}

std::string weights_of(const std::string& json_path) {
  return fs::path(json_path).replace_extension(".safetensors").string();
}

void remove_checkpoint(const std::string& json_path) {
  std::error_code ignored;
  fs::remove(json_path, ignored);
  fs::remove(weights_of(json_path), ignored);
}

template <typename S, typename V>
void state_fields(S& s, const V& visit) {
  visit("step", s.step);
  visit("steps", s.steps);
  visit("planned", s.planned);
  visit("base_step", s.base_step);
  visit("base_position", s.base_position);
  visit("stage", s.stage);
  visit("seconds", s.seconds);
  visit("rate_scale", s.rate_scale);
  visit("rollbacks", s.rollbacks);
  visit("failed_at", s.failed_at);
  visit("complete", s.complete);
  visit("gap", s.gap);
  visit("negative_gaps", s.negative_gaps);
  visit("point_loss", s.point_loss);
  visit("point_gap", s.point_gap);
  visit("point_negative_gaps", s.point_negative_gaps);
  visit("point_gradient_norm", s.point_gradient_norm);
  visit("point_steps", s.point_steps);
  visit("mean_loss", s.mean_loss);
  visit("least_loss", s.least_loss);
  visit("best_step", s.best_step);
  visit("best_accuracy", s.best_accuracy);
  visit("accuracy_largest", s.accuracy_largest);
  visit("accuracy_smallest", s.accuracy_smallest);
  visit("accuracy_test", s.accuracy_test);
}

Json state_to_json(const TrainState& state) {
  Json json = Json::object();
  state_fields(state, [&](const char* name, const auto& member) { json[name] = member; });
  json["history"] = Json::array();
  for (const TrainProgress& point : state.history) json["history"].push_back(to_json(point));
  return json;
}

Status state_from_json(const Json& json, TrainState& state) {
  try {
    state_fields(state, [&](const char* name, auto& member) {
      if (std::ranges::find(kLater, name) != kLater.end() && !json.contains(name)) return;
      json.at(name).get_to(member);
    });
    for (const Json& point : json.at("history")) {
      state.history.emplace_back();
      CHANAS_RETURN_IF_ERROR(from_json(point, state.history.back()));
    }
  } catch (const Json::exception& error) {
    return absl::DataLossError(error.what());
  }
  return absl::OkStatus();
}

Status copy_tensor(const Parameters& from, const std::string& name,
                   const Supernet::Parameter& parameter, std::vector<float>& to) {
  const Tensor* tensor = from.find(name);
  if (tensor == nullptr || tensor->shape != parameter.shape) {
    return absl::DataLossError(fmt::format("tensor {} is missing or has another shape", name));
  }
  std::copy(tensor->data.begin(), tensor->data.end(),
            to.begin() + static_cast<std::ptrdiff_t>(parameter.offset));
  return absl::OkStatus();
}

Status compare(const Json& found, const Json& wanted, const std::string& folder) {
  for (const auto& [key, value] : wanted.items()) {
    const auto other = found.find(key);
    if (other != found.end() && *other == value) continue;
    return absl::InvalidArgumentError(fmt::format(
        "{} holds a training whose {} is {}, now it is {}; take another folder, or delete this one",
        folder, key, other == found.end() ? "not told" : other->dump(), value.dump()));
  }
  return absl::OkStatus();
}

StatusOr<Json> read_checkpoint_json(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(Json json, read_json(path));
  if (!json.is_object() || !json.contains("version") || !json.contains("identity") ||
      !json.contains("state") || !json.contains("sha256") || !json["identity"].is_object() ||
      !json["sha256"].is_string()) {
    return absl::DataLossError(fmt::format("{} is no checkpoint", path));
  }
  return json;
}

// kFailedPrecondition: of another version or identity, so that older ones need not be tried.
StatusOr<Checkpoint> read_checkpoint(const std::string& path, const std::string& folder,
                                     const Json& identity,
                                     const std::vector<Supernet::Parameter>& parameters) {
  CHANAS_ASSIGN_OR_RETURN(Json json, read_checkpoint_json(path));
  if (json["version"] != kVersion) {
    return absl::FailedPreconditionError(fmt::format(
        "{} has version {}, this program reads version {}; train again in another folder", path,
        json["version"].dump(), kVersion));
  }
  if (const Status same = compare(json["identity"], identity, folder); !same.ok()) {
    return absl::FailedPreconditionError(same.message());
  }
  const std::string weights = weights_of(path);
  CHANAS_ASSIGN_OR_RETURN(std::string bytes, read_file(weights));
  if (sha256_hex(bytes) != json["sha256"].get<std::string>()) {
    return absl::DataLossError(
        fmt::format("{} is cut short or damaged (its checksum differs)", weights));
  }
  CHANAS_ASSIGN_OR_RETURN(SafetensorsFile file, parse_safetensors(bytes));
  Checkpoint checkpoint;
  checkpoint.path = path;
  CHANAS_RETURN_IF_ERROR(annotate(state_from_json(json["state"], checkpoint.state), path));
  const size_t size = parameters.back().offset + parameters.back().size;
  checkpoint.values.resize(size);
  checkpoint.momentum.resize(size);
  const bool taught = file.parameters.find(kTeacher + parameters.front().name) != nullptr;
  if (taught) checkpoint.teacher.resize(size);
  for (const Supernet::Parameter& p : parameters) {
    CHANAS_RETURN_IF_ERROR(copy_tensor(file.parameters, p.name, p, checkpoint.values));
    CHANAS_RETURN_IF_ERROR(
        copy_tensor(file.parameters, kMomentum + p.name, p, checkpoint.momentum));
    if (!taught) continue;
    CHANAS_RETURN_IF_ERROR(copy_tensor(file.parameters, kTeacher + p.name, p, checkpoint.teacher));
  }
  if (!json.contains("points")) return checkpoint;
  for (const Json& state : json["points"]) {
    const std::string prefix = point_prefix(checkpoint.points.size());
    RollbackPoint& point = checkpoint.points.emplace_back();
    CHANAS_RETURN_IF_ERROR(annotate(state_from_json(state, point.state), path));
    point.values.resize(size);
    for (const Supernet::Parameter& p : parameters) {
      CHANAS_RETURN_IF_ERROR(copy_tensor(file.parameters, prefix + p.name, p, point.values));
    }
  }
  return checkpoint;
}

}  // namespace

double TrainState::position() const {
  const auto done = static_cast<double>(step - base_step);
  const auto all = static_cast<double>(std::max<int64_t>(1, steps - base_step));
  return base_position + (1 - base_position) * done / all;
}

Status save_checkpoint(const std::string& folder, const Json& identity,
                       const std::vector<Supernet::Parameter>& parameters, const TrainState& state,
                       std::span<const float> values, std::span<const float> momentum,
                       std::span<const float> teacher, std::span<const RollbackPoint> points) {
  SafetensorsFile file;
  for (const Supernet::Parameter& p : parameters) {
    const auto part = [&](std::span<const float> from) {
      const auto range = from.subspan(p.offset, p.size);
      return Tensor{p.shape, {range.begin(), range.end()}};
    };
    file.parameters.set(p.name, part(values));
    file.parameters.set(kMomentum + p.name, part(momentum));
    if (!teacher.empty()) file.parameters.set(kTeacher + p.name, part(teacher));
    for (size_t i = 0; i < points.size(); ++i) {
      file.parameters.set(point_prefix(i) + p.name, part(points[i].values));
    }
  }
  Json earlier = Json::array();
  for (const RollbackPoint& point : points) earlier.push_back(state_to_json(point.state));
  CHANAS_ASSIGN_OR_RETURN(std::string bytes, serialize_safetensors(file));
  const std::string path = json_path(folder, state);
  // Later ones are of a time that was taken back, and are not to be found after a kill.
  for (const std::string& later : checkpoint_files(folder)) {
    if (later > path) remove_checkpoint(later);
  }
  // When there was one of the same name, it had the same weights: a kill between the two writes
  // leaves a whole pair.
  CHANAS_RETURN_IF_ERROR(write_file_atomic(weights_of(path), bytes));
  CHANAS_RETURN_IF_ERROR(write_json(path, {{"version", kVersion},
                                           {"identity", identity},
                                           {"state", state_to_json(state)},
                                           {"points", std::move(earlier)},
                                           {"sha256", sha256_hex(bytes)}}));
  const std::vector<std::string> files = checkpoint_files(folder);
  const std::string best = join_path(folder, stem_of(state.best_step));
  for (size_t i = kKept; i < files.size(); ++i) {
    if (!files[i].starts_with(best)) remove_checkpoint(files[i]);
  }
  return absl::OkStatus();
}

StatusOr<Checkpoint> load_checkpoint(const std::string& folder, const Json& identity,
                                     const std::vector<Supernet::Parameter>& parameters,
                                     const std::function<void(const std::string&)>& warn) {
  const std::vector<std::string> files = checkpoint_files(folder);
  if (files.empty()) {
    return absl::NotFoundError(fmt::format("no checkpoint in {}; train first", folder));
  }
  Status first;
  for (const std::string& path : files) {
    StatusOr<Checkpoint> checkpoint = read_checkpoint(path, folder, identity, parameters);
    if (checkpoint.ok()) {
      if (!first.ok()) {
        warn(fmt::format("{}; going on from the one before, step {}", message(first),
                         checkpoint->state.step));
      }
      return checkpoint;
    }
    if (absl::IsFailedPrecondition(checkpoint.status())) {
      return absl::InvalidArgumentError(checkpoint.status().message());
    }
    if (first.ok()) first = checkpoint.status();
  }
  return absl::DataLossError(
      fmt::format("no checkpoint in {} can be read ({}); delete the folder to train again", folder,
                  message(first)));
}

StatusOr<Json> checkpoint_identity(const std::string& folder) {
  const std::vector<std::string> files = checkpoint_files(folder);
  if (files.empty()) {
    return absl::NotFoundError(fmt::format("no checkpoint in {}; train first", folder));
  }
  Status first;
  for (const std::string& path : files) {
    StatusOr<Json> json = read_checkpoint_json(path);
    if (json.ok()) return (*json)["identity"];
    if (first.ok()) first = json.status();
  }
  return absl::DataLossError(first.message());
}

}  // namespace chanas
