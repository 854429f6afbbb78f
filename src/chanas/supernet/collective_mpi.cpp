// MPI, in a shared library of its own (collective_open.h).

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

#include "chanas/supernet/collective_open.h"

namespace chanas {
namespace {

using Clock = std::chrono::steady_clock;

// Peers may be evaluating, or writing to a slow disk.
constexpr auto kPatience = std::chrono::minutes(30);
// After a signal: peers that also stop still get through their step. mpirun, which sends SIGTERM to
// all when one of them died, kills a second later.
constexpr auto kPatienceWhenCancelled = std::chrono::milliseconds(700);
constexpr size_t kMostAtOnce = size_t{1} << 28;  // counts are int

std::string error_text(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return {text, static_cast<size_t>(length)};
}

class Mpi : public Collective {
 public:
  explicit Mpi(bool (*stopped)()) : stopped_(stopped) {
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &world_);
  }
  ~Mpi() override {
    // With a peer missing it would wait for ever.
    if (!lost_) MPI_Finalize();
  }
  int rank() const override { return rank_; }
  int world() const override { return world_; }
  void sum(std::span<float> values) override { sum(values, MPI_FLOAT); }
  void sum(std::span<double> values) override { sum(values, MPI_DOUBLE); }
  void broadcast(std::span<std::byte> bytes) override {
    in_pieces(bytes, [](std::byte* data, int count, MPI_Request* request) {
      return MPI_Ibcast(data, count, MPI_BYTE, 0, MPI_COMM_WORLD, request);
    });
  }

 private:
  template <typename T>
  void sum(std::span<T> values, MPI_Datatype type) {
    in_pieces(values, [&](T* data, int count, MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, data, count, type, MPI_SUM, MPI_COMM_WORLD, request);
    });
  }

  template <typename T, typename F>
  void in_pieces(std::span<T> values, const F& start) {
    for (size_t begin = 0; begin < values.size(); begin += kMostAtOnce) {
      const size_t count = std::min(kMostAtOnce, values.size() - begin);
      MPI_Request request;
      check(start(&values[begin], static_cast<int>(count), &request));
      wait(request);
    }
  }

  // Not MPI_Wait: over shared memory a dead peer is not an error but silence.
  void wait(MPI_Request& request) {
    Clock::time_point deadline = Clock::now() + kPatience;
    bool stopping = false;
    for (int done = 0;;) {
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
      if (done != 0) return;
      if (!stopping && stopped_()) {
        stopping = true;
        deadline = Clock::now() + kPatienceWhenCancelled;
      }
      if (Clock::now() > deadline) {
        lose(stopping ? "a peer was lost: told to stop while waiting for the other ranks"
                      : "a peer was lost: no answer from the other ranks for half an hour");
      }
      ::sched_yield();
    }
  }

  void check(int code) {
    if (code != MPI_SUCCESS) lose("a peer was lost: " + error_text(code));
  }

  [[noreturn]] void lose(const std::string& why) {
    lost_ = true;
    throw PeerLost(why);
  }

  bool (*const stopped_)();
  int rank_ = 0, world_ = 1;
  bool lost_ = false;
};

}  // namespace
}  // namespace chanas

// The program's own functions do not reach into a library that it loads: it passes what is needed.
extern "C" chanas::Collective* chanas_open_mpi(bool (*stopped)(), std::string* error) {
  int provided = 0;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  if (code != MPI_SUCCESS) {
    *error = "MPI does not start: " + chanas::error_text(code);
    return nullptr;
  }
  return new chanas::Mpi(stopped);
}
