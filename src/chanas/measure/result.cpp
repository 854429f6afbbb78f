#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
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

Status read(const Json& json, std::string_view what, const char* key, double& out) {
  auto it = json.find(key);
  if (it == json.end() || !it->is_number()) return bad_field(what, key, "a number");
  out = it->get<double>();
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

}  // namespace

std::string MeasurePlan::id() const {
  uint64_t cold = cold_bytes <= 0 ? 0 : std::bit_ceil(static_cast<uint64_t>(cold_bytes));
  return fmt::format("threads{}-cold{}-produced", threads, cold);
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
  return {{"error", trial_error_name(result.error)},
          {"message", result.message},
          {"latency_us", result.latency_us},
          {"samples_us", result.samples_us},
          {"warm_us", result.warm_us},
          {"compile_s", result.compile_s},
          {"relative_error", result.relative_error}};
}

StatusOr<MeasureResult> measure_result_from_json(const Json& json) {
  constexpr std::string_view kWhat = "measure result";
  if (!json.is_object()) return absl::InvalidArgumentError("measure result: expected an object");
  MeasureResult result;
  std::string error;
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "error", error));
  CHANAS_ASSIGN_OR_RETURN(result.error, parse_trial_error(error));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "message", result.message));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "latency_us", result.latency_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "samples_us", result.samples_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "warm_us", result.warm_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "compile_s", result.compile_s));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "relative_error", result.relative_error));
  return result;
}

Json to_json(const NetworkMeasurement& m) {
  return {{"median_us", m.median_us},
          {"p10_us", m.p10_us},
          {"p90_us", m.p90_us},
          {"min_us", m.min_us},
          {"samples_us", m.samples_us},
          {"stage_us", m.stage_us},
          {"scratch_bytes", m.scratch_bytes}};
}

StatusOr<NetworkMeasurement> network_measurement_from_json(const Json& json) {
  constexpr std::string_view kWhat = "network measurement";
  if (!json.is_object())
    return absl::InvalidArgumentError("network measurement: expected an object");
  NetworkMeasurement m;
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "median_us", m.median_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "p10_us", m.p10_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "p90_us", m.p90_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "min_us", m.min_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "samples_us", m.samples_us));
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "stage_us", m.stage_us));
  double scratch = 0;
  CHANAS_RETURN_IF_ERROR(read(json, kWhat, "scratch_bytes", scratch));
  m.scratch_bytes = static_cast<int64_t>(scratch);
  return m;
}

}  // namespace chanas
