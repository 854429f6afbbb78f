#include "chanas/target/target.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/base/names.h"
#include "chanas/target/cpuinfo.h"

namespace chanas {
namespace {

// "1024K\n" -> 1048576; 0 when it is no size.
int64_t parse_size(std::string_view text) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value <= 0) return 0;
  char unit = end < text.data() + text.size() ? *end : ' ';
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : unit == 'G' ? value << 30 : value;
}

// Data and unified caches of the first core; the defaults stay where the system tells nothing.
void read_caches(Target& target) {
  for (int index = 0; index < 8; ++index) {
    std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", index);
    StatusOr<std::string> level = read_file(folder + "level"), type = read_file(folder + "type"),
                          size = read_file(folder + "size");
    if (!level.ok() || !type.ok() || !size.ok() || type->starts_with("Instruction")) continue;
    int64_t bytes = parse_size(*size);
    if (bytes == 0) continue;
    if (*level == "1\n") target.l1_bytes = bytes;
    if (*level == "2\n") target.l2_bytes = bytes;
    if (*level == "3\n") target.l3_bytes = bytes;
  }
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

std::string Target::fingerprint() const {
  return chanas::fingerprint(fmt::format("{}\n{}\n{}", cpu, triple, simulated));
}

StatusOr<Target> local_target() {
  utsname system;
  if (::uname(&system) != 0) return absl::InternalError("uname failed");
  CHANAS_ASSIGN_OR_RETURN(std::string text, read_file("/proc/cpuinfo"));
  CHANAS_ASSIGN_OR_RETURN(CpuFacts facts, parse_cpuinfo(text, system.machine));
  Target target;
  target.cpu = facts.model;
  target.triple = facts.triple;
  target.cores = usable_cores();
  target.vector_floats = facts.vector_floats;
  target.vector_registers = facts.vector_registers;
  read_caches(target);
  target.name = fmt::format("{} ({} core{}, {})", facts.model, target.cores,
                            target.cores == 1 ? "" : "s", facts.instructions);
  return target;
}

Target simulated_target() {
  Target target;
  target.name = "simulated (4 cores, 8 floats per vector)";
  target.cpu = "simulated";
  target.triple = "x86-64-linux-avx-avx2-f16c-fma-sse41";
  target.cores = 4;
  target.simulated = true;
  return target;
}

Json to_json(const Target& target) {
  return {{"name", target.name},
          {"cpu", target.cpu},
          {"triple", target.triple},
          {"cores", target.cores},
          {"vector_floats", target.vector_floats},
          {"vector_registers", target.vector_registers},
          {"l1_bytes", target.l1_bytes},
          {"l2_bytes", target.l2_bytes},
          {"l3_bytes", target.l3_bytes},
          {"simulated", target.simulated}};
}

StatusOr<Target> target_from_json(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("target: expected an object");
  const Json known = to_json(Target{});
  std::vector<std::string> names;
  for (const auto& [key, value] : known.items()) {
    names.push_back(key);
    if (!json.contains(key)) {
      return absl::InvalidArgumentError(fmt::format("target: \"{}\" is missing", key));
    }
    const Json& given = json[key];
    bool fits = value.is_number() ? given.is_number_integer() : given.type() == value.type();
    if (!fits) {
      return absl::InvalidArgumentError(
          fmt::format("target: \"{}\" is {}, expected a {}", key, given.dump(), value.type_name()));
    }
  }
  for (const auto& [key, value] : json.items()) {
    if (!known.contains(key)) {
      return absl::InvalidArgumentError(fmt::format("target: unknown key \"{}\", nearest is \"{}\"",
                                                    key, nearest_name(key, names)));
    }
  }
  // Ranges before narrowing: a schedule space is built from these.
  auto integer = [&](const char* key, int64_t low, int64_t high) -> StatusOr<int64_t> {
    int64_t value = json[key].get<int64_t>();
    if (value >= low && value <= high) return value;
    return absl::InvalidArgumentError(
        fmt::format("target: \"{}\" is {}, expected {} to {}", key, value, low, high));
  };
  Target target;
  target.name = json["name"].get<std::string>();
  target.cpu = json["cpu"].get<std::string>();
  target.triple = json["triple"].get<std::string>();
  target.simulated = json["simulated"].get<bool>();
  CHANAS_ASSIGN_OR_RETURN(int64_t cores, integer("cores", 1, 4096));
  CHANAS_ASSIGN_OR_RETURN(int64_t floats, integer("vector_floats", 1, 64));
  CHANAS_ASSIGN_OR_RETURN(int64_t registers, integer("vector_registers", 4, 256));
  target.cores = static_cast<int>(cores);
  target.vector_floats = static_cast<int>(floats);
  target.vector_registers = static_cast<int>(registers);
  constexpr int64_t kLargest = int64_t{1} << 40;
  CHANAS_ASSIGN_OR_RETURN(target.l1_bytes, integer("l1_bytes", 1, kLargest));
  CHANAS_ASSIGN_OR_RETURN(target.l2_bytes, integer("l2_bytes", 1, kLargest));
  CHANAS_ASSIGN_OR_RETURN(target.l3_bytes, integer("l3_bytes", 1, kLargest));
  return target;
}

}  // namespace chanas
