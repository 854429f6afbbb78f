#include "chanas/supernet/curves.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "chanas/base/file.h"

namespace chanas {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEventPrefix = "events.out.tfevents.";

template <typename T>
void put_fixed(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  out += static_cast<char>(value);
}

// Keys of protocol buffers: field number and wire type.
enum Wire : int { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
void put_key(std::string& out, int field, Wire wire) {
  put_varint(out, static_cast<uint64_t>(field << 3 | wire));
}
void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string file_version_event(double time) {
  std::string event;
  put_key(event, 1, kFixed64);
  put_fixed(event, time);
  put_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string csv_line(const TrainProgress& point) {
  std::string line;
  for (const auto& [name, value] : curve_values(point)) {
    line += (line.empty() ? "" : ",") + (std::isfinite(value) ? fmt::format("{:.9g}", value) : "");
  }
  return line;
}

std::string event_of(const TrainProgress& point, double time) {
  auto values = curve_values(point);
  values.erase(values.begin());  // the step
  std::erase_if(values, [](const auto& value) { return !std::isfinite(value.second); });
  return tf_record(scalar_event(time, point.step, values));
}

}  // namespace

std::vector<std::pair<std::string_view, double>> curve_values(const TrainProgress& p) {
  const auto taken = [](double accuracy) { return accuracy < 0 ? std::nan("") : accuracy; };
  return {{"step", static_cast<double>(p.step)},
          {"epoch", p.epoch},
          {"loss", p.loss},
          {"gap", p.gap},
          {"negative_gap_share", p.negative_gap_share},
          {"gradient_norm", p.gradient_norm},
          {"learning_rate", p.learning_rate},
          {"images_per_s", p.images_per_s},
          {"accuracy_largest", taken(p.accuracy_largest)},
          {"accuracy_smallest", taken(p.accuracy_smallest)},
          {"accuracy_random", taken(p.accuracy_random)}};
}

StatusOr<Curves> Curves::start(const std::string& folder,
                               const std::vector<TrainProgress>& history) {
  std::error_code error;
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename().string().starts_with(kEventPrefix)) old.push_back(entry.path());
  }
  for (const fs::path& path : old) fs::remove(path, error);

  std::string csv;
  for (const auto& [name, value] : curve_values({})) {
    csv += (csv.empty() ? "" : ",") + std::string(name);
  }
  csv += "\n";
  const double time = wall_time();
  std::string events = tf_record(file_version_event(time));
  for (const TrainProgress& point : history) {
    csv += csv_line(point) + "\n";
    events += event_of(point, time);
  }
  // TensorBoard wants a time in the name; the file is not replaced while it may be read.
  Curves curves(join_path(folder, "history.csv"),
                join_path(folder, fmt::format("{}{:.0f}.chanas", kEventPrefix, time)));
  CHANAS_RETURN_IF_ERROR(write_file_atomic(curves.csv_, csv));
  CHANAS_RETURN_IF_ERROR(write_file_atomic(curves.events_, events));
  return curves;
}

Status Curves::add(const TrainProgress& point) {
  CHANAS_RETURN_IF_ERROR(append_line(csv_, csv_line(point)));
  std::ofstream events(events_, std::ios::binary | std::ios::app);
  events << event_of(point, wall_time());
  events.flush();
  if (events) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("cannot append to {}; is the disk full?", events_));
}

uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0x82F63B78u : 0);
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(byte)) & 255];
  return ~crc;
}

std::string tf_record(std::string_view bytes) {
  const auto masked = [](std::string_view text) {
    return std::rotr(crc32c(text), 15) + 0xa282ead8u;
  };
  std::string record;
  put_fixed(record, static_cast<uint64_t>(bytes.size()));
  put_fixed(record, masked(record));
  record += bytes;
  put_fixed(record, masked(bytes));
  return record;
}

std::string scalar_event(double time, int64_t step,
                         const std::vector<std::pair<std::string_view, double>>& values) {
  std::string event, summary;
  put_key(event, 1, kFixed64);
  put_fixed(event, time);
  put_key(event, 2, kVarint);
  put_varint(event, static_cast<uint64_t>(step));
  for (const auto& [name, value] : values) {
    std::string scalar;
    put_bytes(scalar, 1, name);
    put_key(scalar, 2, kFixed32);
    put_fixed(scalar, static_cast<float>(value));
    put_bytes(summary, 1, scalar);
  }
  put_bytes(event, 5, summary);
  return event;
}

}  // namespace chanas
