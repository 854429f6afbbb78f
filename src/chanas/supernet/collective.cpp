#include "chanas/supernet/collective.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/supernet/collective_open.h"

namespace chanas {
namespace {

class Single : public Collective {
 public:
  int rank() const override { return 0; }
  int world() const override { return 1; }
  void sum(std::span<float>) override {}
  void sum(std::span<double>) override {}
  void broadcast(std::span<std::byte>) override {}
};

// A plug-in, so that machines without MPI run the same program.
StatusOr<std::unique_ptr<Collective>> open_mpi(const Launch& launch) {
  if (launch.launcher == "torchrun") {
    return absl::InvalidArgumentError(
        "the collective mpi cannot join ranks that torchrun started; start them with mpirun");
  }
  const std::string path = join_path(executable_folder(), kMpiPlugin);
  // Global: Open MPI's own plug-ins look for its symbols.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char* error = ::dlerror();
    return absl::UnavailableError(
        fmt::format("no MPI here: {}; install Open MPI (libopenmpi-dev, openmpi-bin) and build "
                    "again with -DCHANAS_WITH_MPI=ON",
                    error == nullptr ? path : error));
  }
  const auto open = reinterpret_cast<OpenMpiFunction*>(::dlsym(library, kOpenMpiFunction));
  if (open == nullptr) {
    return absl::UnavailableError(fmt::format("{} is of another build; build again", path));
  }
  std::string error;
  std::unique_ptr<Collective> ranks(open(cancelled, &error));
  if (ranks == nullptr) return absl::UnavailableError(error);
  if (ranks->world() != launch.world || ranks->rank() != launch.rank) {
    return absl::InvalidArgumentError(
        fmt::format("MPI says rank {} of {}, the environment says {} of {} ({}); start the program "
                    "with the mpirun of the MPI library that it was built with",
                    ranks->rank(), ranks->world(), launch.rank, launch.world, launch.launcher));
  }
  return ranks;
}

std::span<std::byte> bytes_of(double& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace

void Collective::barrier() { any(false); }

double Collective::of_first(double value) {
  broadcast(bytes_of(value));
  return value;
}

bool Collective::any(bool value) {
  double count = value ? 1 : 0;
  sum(std::span(&count, 1));
  return count > 0;
}

Status Collective::agree(const Status& status) {
  if (alone()) return status;
  std::vector<double> failed(static_cast<size_t>(world()));
  failed[static_cast<size_t>(rank())] = status.ok() ? 0 : 1;
  sum(std::span(failed));
  if (!status.ok()) return status;
  const auto found = std::find_if(failed.begin(), failed.end(), [](double f) { return f > 0; });
  if (found == failed.end()) return absl::OkStatus();
  return absl::AbortedError(
      fmt::format("rank {} failed; its own message says why", found - failed.begin()));
}

Status Collective::check_same(std::span<const std::byte> bytes, std::string_view what) {
  if (alone()) return absl::OkStatus();
  const std::string name = sha256_hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  std::string expected = name;
  broadcast(std::as_writable_bytes(std::span(expected)));
  if (!any(expected != name)) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("{} are not the same on all {} ranks: this one ({}) has {}, rank 0 has {}", what,
                  world(), rank(), name.substr(0, 16), expected.substr(0, 16)));
}

std::unique_ptr<Collective> single_collective() { return std::make_unique<Single>(); }

StatusOr<std::unique_ptr<Collective>> open_collective(const Launch& launch, const std::string& kind,
                                                      int gpu) {
  std::string chosen = kind;
  if (kind == "auto") chosen = launch.world == 1 ? "single" : gpu >= 0 ? "nccl" : "mpi";
  if (chosen == "single") {
    if (launch.world == 1) return single_collective();
    return absl::InvalidArgumentError(
        fmt::format("the collective single is for one process, {} started {}; choose auto",
                    launch.launcher, launch.world));
  }
  if (chosen == "mpi") return open_mpi(launch);
  if (chosen == "nccl") return open_nccl(launch, gpu);
  return absl::InvalidArgumentError(
      fmt::format("collective is \"{}\", expected auto, single, mpi or nccl", kind));
}

Share share_of(int count, int rank, int world) {
  const auto cut = [&](int64_t r) { return static_cast<int>(count * r / world); };
  return {cut(rank), cut(rank + 1)};
}

}  // namespace chanas
