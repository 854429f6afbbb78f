#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <nlohmann/json.hpp>

#include "chanas/base/names.h"
#include "chanas/measure/measure.h"
#include "chanas/measure/protocol.h"

namespace chanas {
namespace {

constexpr std::array<std::string_view, 8> kErrorNames = {
    "none", "illegal", "compile", "timeout", "crash", "memory", "wrong_result", "unstable"};

Status bad_field(std::string_view what, std::string_view key, std::string_view expected) {
  return absl::InvalidArgumentError(fmt::format("{}: \"{}\" is not {}", what, key, expected));
}

template <typename T>
requires std::is_arithmetic_v<T> Status read(const Json& json, std::string_view what,
                                             const char* key, T& out) {
  auto it = json.find(key);
  if (it == json.end() || !it->is_number()) return bad_field(what, key, "a number");
  out = it->get<T>();
  return absl::OkStatus();
}

Status read(const Json& json, std::string_view what, const char* key, std::vector<double>& out) {
  auto it = json.find(key);
  bool fits = it != json.end() && it->is_array() &&
              std::all_of(it->begin(), it->end(), [](const Json& v) { return v.is_number(); });
  if (!fits) return bad_field(what, key, "a list of numbers");
  out = it->get<std::vector<double>>();
  return absl::OkStatus();
}

Status read(const Json& json, std::string_view what, const char* key, std::string& out) {
  auto it = json.find(key);
  if (it == json.end() || !it->is_string()) return bad_field(what, key, "a text");
  out = it->get<std::string>();
  return absl::OkStatus();
}

// One list of fields per struct serves both directions: visit(name, member).

template <typename R, typename V>
requires std::same_as<std::remove_const_t<R>, MeasureResult>
void fields(R& r, const V& visit) {
  visit("message", r.message);
  visit("latency_us", r.latency_us);
  visit("samples_us", r.samples_us);
  visit("warm_us", r.warm_us);
  visit("compile_s", r.compile_s);
  visit("relative_error", r.relative_error);
}

template <typename M, typename V>
requires std::same_as<std::remove_const_t<M>, NetworkMeasurement>
void fields(M& m, const V& visit) {
  visit("median_us", m.median_us);
  visit("p10_us", m.p10_us);
  visit("p90_us", m.p90_us);
  visit("min_us", m.min_us);
  visit("samples_us", m.samples_us);
  visit("stage_us", m.stage_us);
  visit("scratch_bytes", m.scratch_bytes);
}

template <typename T>
Json write(const T& values) {
  Json json;
  fields(values, [&](const char* key, const auto& member) { json[key] = member; });
  return json;
}

template <typename T>
StatusOr<T> read_all(const Json& json, std::string_view what) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: expected an object", what));
  }
  T values;
  Status status;
  fields(values, [&](const char* key, auto& member) {
    if (status.ok()) status = read(json, what, key, member);
  });
  CHANAS_RETURN_IF_ERROR(status);
  return values;
}

}  // namespace

int64_t MeasurePlan::rounded_cold_bytes() const {
  return cold_bytes <= 0 ? 0
                         : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(cold_bytes)));
}

std::string MeasurePlan::id() const {
  return fmt::format("threads{}-cold{}-{}", threads, rounded_cold_bytes(), kMeasuring);
}

std::string_view trial_error_name(TrialError error) {
  return kErrorNames[static_cast<size_t>(error)];
}

StatusOr<TrialError> parse_trial_error(std::string_view name) {
  auto it = std::find(kErrorNames.begin(), kErrorNames.end(), name);
  if (it != kErrorNames.end()) return static_cast<TrialError>(it - kErrorNames.begin());
  return absl::InvalidArgumentError(fmt::format("\"{}\" is no trial error, expected one of: {}",
                                                name,
                                                join({kErrorNames.begin(), kErrorNames.end()})));
}

Json to_json(const MeasureResult& result) {
  Json json = write(result);
  json["error"] = trial_error_name(result.error);
  return json;
}

StatusOr<MeasureResult> measure_result_from_json(const Json& json) {
  constexpr std::string_view kWhat = "measure result";
  CHANAS_ASSIGN_OR_RETURN(MeasureResult result, read_all<MeasureResult>(json, kWhat));
  std::string error;
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "error", error));
  CHANAS_ASSIGN_OR_RETURN(result.error, parse_trial_error(error));
  return result;
}

Json to_json(const NetworkMeasurement& m) { return write(m); }

StatusOr<NetworkMeasurement> network_measurement_from_json(const Json& json) {
  return read_all<NetworkMeasurement>(json, "network measurement");
}

}  // namespace chanas
