// NCCL, loaded when it is asked for. Its few functions that are used here have had these signatures
// since NCCL 2.4, so that no header of it is needed.

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "chanas/supernet/collective_open.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kMeetingPatience = std::chrono::minutes(10);
constexpr auto kPatience = std::chrono::minutes(30);

struct UniqueId {
  char internal[128];
};
enum DataType { kInt8 = 0, kFloat = 7, kDouble = 8 };
constexpr int kSum = 0, kSuccess = 0, kInProgress = 7;

struct Nccl {
  int (*unique_id)(UniqueId*) = nullptr;
  int (*init_rank)(void** communicator, int world, UniqueId id, int rank) = nullptr;
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int operation,
                    void* communicator, void* stream) = nullptr;
  int (*broadcast)(const void* from, void* to, size_t count, int type, int root, void* communicator,
                   void* stream) = nullptr;
  int (*async_error)(void* communicator, int* error) = nullptr;
  int (*abort)(void* communicator) = nullptr;
  int (*destroy)(void* communicator) = nullptr;
  const char* (*error_text)(int error) = nullptr;
};

StatusOr<Nccl> load(const std::string& name) {
  void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::UnavailableError(fmt::format(
        "no NCCL here: {}; install it, or name its folder in LD_LIBRARY_PATH", ::dlerror()));
  }
  Nccl nccl;
  const char* missing = nullptr;
  const auto find = [&]<typename F>(const char* symbol, F*& function) {
    function = reinterpret_cast<F*>(::dlsym(library, symbol));
    if (function == nullptr) missing = symbol;
  };
  find("ncclGetUniqueId", nccl.unique_id);
  find("ncclCommInitRank", nccl.init_rank);
  find("ncclAllReduce", nccl.all_reduce);
  find("ncclBroadcast", nccl.broadcast);
  find("ncclCommGetAsyncError", nccl.async_error);
  find("ncclCommAbort", nccl.abort);
  find("ncclCommDestroy", nccl.destroy);
  find("ncclGetErrorString", nccl.error_text);
  if (missing == nullptr) return nccl;
  return absl::UnavailableError(
      fmt::format("{} lacks {}; NCCL 2.4 or newer is needed", name, missing));
}

class NcclCollective : public Collective {
 public:
  NcclCollective(const Nccl& nccl, const Launch& launch, const UniqueId& id, at::Device device)
      : nccl_(nccl), rank_(launch.rank), world_(launch.world), device_(device) {
    check(nccl_.init_rank(&communicator_, world_, id, rank_));
  }
  ~NcclCollective() override {
    if (communicator_ != nullptr) nccl_.destroy(communicator_);
  }
  int rank() const override { return rank_; }
  int world() const override { return world_; }
  void sum(std::span<float> values) override { reduce(values, at::kFloat, kFloat); }
  void sum(std::span<double> values) override { reduce(values, at::kDouble, kDouble); }
  void broadcast(std::span<std::byte> bytes) override {
    over_device(bytes, at::kByte, [&](void* data) {
      return nccl_.broadcast(data, data, bytes.size(), kInt8, 0, communicator_, nullptr);
    });
  }

 private:
  template <typename T>
  void reduce(std::span<T> values, at::ScalarType tensor_type, DataType type) {
    over_device(values, tensor_type, [&](void* data) {
      return nccl_.all_reduce(data, data, values.size(), type, kSum, communicator_, nullptr);
    });
  }

  // By way of the device's memory, in the default stream, which is LibTorch's too.
  template <typename T, typename F>
  void over_device(std::span<T> values, at::ScalarType type, const F& start) {
    if (communicator_ == nullptr) throw PeerLost("a peer was lost before");
    const at::Tensor host =
        at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, type);
    const at::Tensor on_device = host.to(device_);
    check(start(on_device.data_ptr()));
    wait();
    host.copy_(on_device);
  }

  // Not the device's own wait: a lost peer is told by the communicator, while the kernels that it
  // has left alone run for ever.
  void wait() {
    std::optional<c10::Event> done;
    if (device_.is_cuda()) {
      done.emplace(device_.type());
      done->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    }
    const Clock::time_point deadline = Clock::now() + kPatience;
    for (;;) {
      int error = kSuccess;
      check(nccl_.async_error(communicator_, &error));
      check(error);
      if (error != kInProgress && (!done || done->query())) return;
      if (Clock::now() > deadline) lose("no answer from the other ranks for half an hour");
      std::this_thread::yield();
    }
  }

  void check(int error) {
    if (error != kSuccess && error != kInProgress) lose(nccl_.error_text(error));
  }

  [[noreturn]] void lose(const std::string& why) {
    if (communicator_ != nullptr) nccl_.abort(communicator_);
    communicator_ = nullptr;
    throw PeerLost("a peer was lost: " + why);
  }

  const Nccl nccl_;
  const int rank_, world_;
  const at::Device device_;
  void* communicator_ = nullptr;
};

}  // namespace

StatusOr<std::unique_ptr<Collective>> open_nccl(const Launch& launch, int gpu,
                                                const std::string& library) {
  CHANAS_ASSIGN_OR_RETURN(Nccl nccl, load(library.empty() ? "libnccl.so.2" : library));
  if (launch.master_address.empty()) {
    return absl::InvalidArgumentError(
        "the ranks do not know where to meet; set MASTER_ADDR to the host of rank 0");
  }
  try {
    // torchrun has a store of its own at this port; elsewhere rank 0 opens one.
    const bool agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE") != nullptr &&
                       std::string_view(std::getenv("TORCHELASTIC_USE_AGENT_STORE")) == "True";
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(launch.master_port);
    options.isServer = launch.rank == 0 && !agent;
    options.waitWorkers = false;
    options.timeout = kMeetingPatience;
    const auto store = c10::make_intrusive<c10d::TCPStore>(launch.master_address, options);
    // Each attempt has its own, since an old store may live on.
    const std::string key = fmt::format("chanas/{}/nccl", launch.restarts);
    UniqueId id = {};
    if (launch.rank == 0) {
      if (nccl.unique_id(&id) != kSuccess) {
        return absl::UnavailableError("NCCL finds no network to listen on; set NCCL_SOCKET_IFNAME");
      }
      store->set(key, std::vector<uint8_t>(id.internal, id.internal + sizeof id.internal));
    } else {
      const std::vector<uint8_t> bytes = store->get(key);
      std::memcpy(id.internal, bytes.data(), std::min(bytes.size(), sizeof id.internal));
    }
    const at::Device device =
        gpu < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(gpu));
    auto ranks = std::make_unique<NcclCollective>(nccl, launch, id, device);
    ranks->barrier();  // before rank 0's store goes
    return ranks;
  } catch (const PeerLost& lost) {
    return lost.status();
  } catch (const std::exception& error) {
    return absl::UnavailableError(fmt::format("the ranks do not meet at {}:{}: {}",
                                              launch.master_address, launch.master_port,
                                              error.what()));
  }
}

}  // namespace chanas
