#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "chanas/supernet/collective.h"

namespace chanas {
namespace {

constexpr int kDefaultPort = 29500;  // torchrun's
// Slurm jobs that share a machine get ports of their own.
constexpr int kSlurmPorts = 20000, kSlurmPortCount = 20000;

// How a launcher names its variables; null: it has none.
struct Names {
  const char *launcher, *rank, *world, *local_rank, *local_world, *restarts;
  const char* needs;  // counts only where this is set too
};

constexpr Names kLaunchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
     "TORCHELASTIC_RESTART_COUNT", nullptr},
    {"openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", nullptr, nullptr},
    {"mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", nullptr, nullptr},
    // A batch script itself sees SLURM_NTASKS too, but is no step: it must not wait for peers.
    {"slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr, "SLURM_RESTART_COUNT",
     "SLURM_STEP_ID"},
};

using Variable = std::function<const char*(const char*)>;

// Leaves `value` alone where the variable is missing.
Status read_number(const Variable& variable, const char* name, int low, int high, int& value) {
  const char* text = name == nullptr ? nullptr : variable(name);
  if (text == nullptr) return absl::OkStatus();
  const char* end = text + std::strlen(text);
  int number = 0;
  const auto [stop, error] = std::from_chars(text, end, number);
  if (error == std::errc() && stop == end && number >= low && number <= high) {
    value = number;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      fmt::format("the environment variable {} is \"{}\", expected a number from {} to {}; start "
                  "all ranks with one launcher, or unset it",
                  name, text, low, high));
}

}  // namespace

std::string first_host(const std::string& node_list) {
  const size_t end = node_list.find_first_of(",[");
  std::string host = node_list.substr(0, end);
  if (end == std::string::npos || node_list[end] == ',') return host;
  return host + node_list.substr(end + 1, node_list.find_first_of(",-]", end + 1) - end - 1);
}

StatusOr<Launch> launch_from(const Variable& variable) {
  Launch launch;
  for (const Names& names : kLaunchers) {
    if (variable(names.rank) == nullptr || variable(names.world) == nullptr) continue;
    if (names.needs != nullptr && variable(names.needs) == nullptr) continue;
    launch.launcher = names.launcher;
    constexpr int kMost = 1 << 20;
    CHANAS_RETURN_IF_ERROR(read_number(variable, names.world, 1, kMost, launch.world));
    CHANAS_RETURN_IF_ERROR(read_number(variable, names.rank, 0, launch.world - 1, launch.rank));
    CHANAS_RETURN_IF_ERROR(
        read_number(variable, names.local_world, 1, launch.world, launch.local_world));
    CHANAS_RETURN_IF_ERROR(
        read_number(variable, names.local_rank, 0, launch.world - 1, launch.local_rank));
    launch.local_world = std::max(launch.local_world, launch.local_rank + 1);
    CHANAS_RETURN_IF_ERROR(read_number(variable, names.restarts, 0, kMost, launch.restarts));
    break;
  }
  if (const char* address = variable("MASTER_ADDR")) {
    launch.master_address = address;
  } else if (launch.launcher == "slurm") {
    const char* nodes = variable("SLURM_STEP_NODELIST");
    if (nodes == nullptr) nodes = variable("SLURM_JOB_NODELIST");
    if (nodes != nullptr) launch.master_address = first_host(nodes);
  } else if (launch.local_world == launch.world) {
    launch.master_address = "127.0.0.1";
  }
  launch.master_port = kDefaultPort;
  if (launch.launcher == "slurm") {
    int job = 0;
    CHANAS_RETURN_IF_ERROR(read_number(variable, "SLURM_JOB_ID", 0, 2147483647, job));
    launch.master_port = kSlurmPorts + job % kSlurmPortCount;
  }
  CHANAS_RETURN_IF_ERROR(read_number(variable, "MASTER_PORT", 1, 65535, launch.master_port));
  return launch;
}

StatusOr<Launch> launch_from_environment() {
  return launch_from([](const char* name) { return std::getenv(name); });
}

}  // namespace chanas
