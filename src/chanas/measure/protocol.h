#pragma once
// What chanas and its chanas-kernel children agree on; the lines themselves are described in
// README.md.

#include "chanas/base/json.h"
#include "chanas/measure/measure.h"

namespace chanas {

// Changes whenever the meaning of a line does.
inline constexpr int kProtocolVersion = 2;
// How a child ends that had no memory left to answer.
inline constexpr int kExitMemory = 97;
// A result further from the reference interpreter than this (max_relative_error) is wrong.
inline constexpr double kResultTolerance = 1e-4;

Json to_json(const NetworkMeasurement& measurement);
StatusOr<NetworkMeasurement> network_measurement_from_json(const Json& json);

}  // namespace chanas
