#include "chanas/supernet/identity.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "chanas/supernet/job.h"

namespace chanas {
namespace {

// Of TrainConfig: what decides little or nothing of the result.
const std::set<std::string> kMayChange = {"checkpoint_every_s", "collective",   "device",
                                          "launcher",           "max_restarts", "threads"};

// Goes up when a step draws other networks or images: a training does not go on as another one.
constexpr int kPlanVersion = 2;

}  // namespace

Json space_identity(const ArchSpace& space, const Dataset& dataset, const Arch* alone) {
  return {{"space", space_fingerprint(space)},
          {"images", dataset.info.fingerprint},
          {"network", alone == nullptr ? "supernet" : arch_id(space, *alone)}};
}

Json full_identity(const ArchSpace& space, const Dataset& dataset, const TrainConfig& config,
                   const Arch* alone) {
  Json identity = space_identity(space, dataset, alone);
  identity["plan"] = kPlanVersion;
  const Json settings = to_json(config);
  for (const auto& [key, value] : settings.items()) {
    if (!kMayChange.contains(key)) identity[key] = value;
  }
  return identity;
}

Status check_fits(const ArchSpace& space, const Dataset& dataset) {
  if (space.channels != 3) {
    return absl::InvalidArgumentError(
        fmt::format("space {} has images of {} channels, expected 3", space.name, space.channels));
  }
  if (space.classes == static_cast<int>(dataset.classes.size())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("space {} has {} classes, the images have {}; set `classes` of the space",
                  space.name, space.classes, dataset.classes.size()));
}

}  // namespace chanas
