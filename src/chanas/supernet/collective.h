#pragma once
// Several processes that train one supernet: who they are, and sums over them.
//
//   CHANAS_ASSIGN_OR_RETURN(Launch launch, launch_from_environment());
//   CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<Collective> ranks, open_collective(launch, "auto",
//   -1)); ranks->sum(gradients);
//
// All ranks make the same calls in the same order; a rank that stays away makes the others wait.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "chanas/base/status.h"

namespace chanas {

// What a launcher told this process.
struct Launch {
  int rank = 0, world = 1;              // of all processes
  int local_rank = 0, local_world = 1;  // of those on this machine
  // Where rank 0 listens; empty and 0: the launcher did not say.
  std::string master_address;
  int master_port = 0;
  int restarts = 0;               // attempts before this one
  std::string launcher = "none";  // torchrun, openmpi, mpich, slurm
};

// Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
// MASTER_PORT, TORCHELASTIC_RESTART_COUNT), or else those of Open MPI, MPICH or a step of Slurm.
// kInvalidArgument names a variable with a value that cannot be.
StatusOr<Launch> launch_from_environment();
// `variable` returns a variable's value or null, as getenv.
StatusOr<Launch> launch_from(const std::function<const char*(const char*)>& variable);

// The first host of a Slurm node list ("gpu[07-09,12],x" is gpu07).
std::string first_host(const std::string& node_list);

// A peer is gone or does not answer. Nothing can be done but to end with kAborted (exit code 75),
// so that the launcher starts all ranks again. An exception, because it has to pass through
// LibTorch.
class PeerLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  Status status() const { return absl::AbortedError(what()); }
};

// One process's connection to all ranks. Every function blocks until the peers have called it too,
// leaves the same bits on all ranks and throws PeerLost. To be used by one thread at a time.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int world() const = 0;
  // In place, over all ranks.
  virtual void sum(std::span<float> values) = 0;
  virtual void sum(std::span<double> values) = 0;
  // Everybody receives what rank 0 has.
  virtual void broadcast(std::span<std::byte> bytes) = 0;

  bool first() const { return rank() == 0; }
  bool alone() const { return world() == 1; }
  void barrier();
  // The number of rank 0.
  double of_first(double value);
  // Does any rank say so?
  bool any(bool value);
  // This rank's status if it is an error; else kAborted naming the first rank that has an error.
  Status agree(const Status& status);
  // kDataLoss when `bytes` are not the same on all ranks; `what` names them.
  Status check_same(std::span<const std::byte> bytes, std::string_view what);
};

// A world of one.
std::unique_ptr<Collective> single_collective();

// kind: single, mpi, nccl, or auto: single for a world of one, else nccl for a GPU, else mpi. `gpu`
// is the index of this process's CUDA device, -1: the CPU. kInvalidArgument: unknown, or does not
// fit the launcher. kUnavailable: this build or machine lacks the library.
StatusOr<std::unique_ptr<Collective>> open_collective(const Launch& launch, const std::string& kind,
                                                      int gpu);

// Items [begin, end) of `count`, as even as can be; the shares of all ranks together are all.
struct Share {
  int begin = 0, end = 0;
};
Share share_of(int count, int rank, int world);

}  // namespace chanas
