#include "chanas/cli/device.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "chanas/base/names.h"

namespace chanas {

void add_device_options(CLI::App* app, DeviceFlags& flags) {
  app->add_option("--device", flags.device, "local, or simulated")->capture_default_str();
  add_store_option(app, flags);
  app->add_option("--threads", flags.threads, "threads the network runs on")->capture_default_str();
}

void add_store_option(CLI::App* app, DeviceFlags& flags) {
  app->add_option("--store", flags.store, "database of measurements")
      ->type_name("FILE")
      ->capture_default_str();
}

StatusOr<Device> open_device(const DeviceFlags& flags) {
  Device device;
  if (flags.device == "simulated") {
    device.runner = make_simulated_runner();
  } else if (flags.device == "local") {
    CHANAS_ASSIGN_OR_RETURN(device.runner, make_local_runner());
  } else {
    return absl::InvalidArgumentError(
        fmt::format("--device is \"{}\", expected local or simulated", flags.device));
  }
  if (flags.threads < 1 || flags.threads > device.runner->target().cores) {
    return absl::InvalidArgumentError(fmt::format("--threads is {}, this device offers 1 to {}",
                                                  flags.threads, device.runner->target().cores));
  }
  device.plan.threads = flags.threads;
  if (!flags.store.empty()) {
    CHANAS_ASSIGN_OR_RETURN(device.store, Store::open(flags.store));
  }
  device.key = record_key(device.runner->target(), device.plan);
  return device;
}

StatusOr<RecordKey> find_key(Device& device, int64_t weight_bytes) {
  device.plan.cold_bytes = weight_bytes;
  RecordKey wanted = record_key(device.runner->target(), device.plan);
  CHANAS_ASSIGN_OR_RETURN(auto keys, device.store->keys());
  std::vector<std::string> found;
  for (const auto& [key, count] : keys) {
    if (key == wanted) return key;
    found.push_back(fmt::format("{} ({} records)", describe(key), count));
  }
  return absl::NotFoundError(
      fmt::format("{} has no rows for {}; it has: {}; tune with: chanas tune", device.store->path(),
                  describe(wanted), found.empty() ? "nothing" : join(found, "; ")));
}

}  // namespace chanas
