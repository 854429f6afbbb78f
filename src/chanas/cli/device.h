#pragma once
// The device and the store that tune, bench, lut, space and explain work on.

#include <memory>
#include <string>

#include "chanas/cli/command.h"
#include "chanas/measure/measure.h"
#include "chanas/store/store.h"

namespace chanas {

inline constexpr char kDefaultStore[] = "chanas.db";  // of tune, and of lut without a run

struct DeviceFlags {
  std::string device = "local";
  std::string store;
  int threads = 1;
};
// --device, --store, --threads.
void add_device_options(CLI::App* app, DeviceFlags& flags);
// --store alone.
void add_store_option(CLI::App* app, DeviceFlags& flags);

struct Device {
  std::unique_ptr<Runner> runner;
  std::unique_ptr<Store> store;  // null when no store was named
  MeasurePlan plan;
  RecordKey key;
};
StatusOr<Device> open_device(const DeviceFlags& flags);

// The key under which `weight_bytes` of cold weights were measured on this device. kNotFound when
// the store holds no such rows; the message lists the keys that it has.
StatusOr<RecordKey> find_key(Device& device, int64_t weight_bytes);

}  // namespace chanas
