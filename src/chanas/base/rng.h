#pragma once
// The one source of randomness. Every stream is seeded explicitly; the same seed gives the same
// sequence on every machine (no <random> distributions, whose results differ between libraries).

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace chanas {

// xoshiro256** (Blackman and Vigna, public domain). A value: copying it copies the stream.
// Not thread safe: give each worker its own stream with fork().
class Rng {
 public:
  explicit Rng(uint64_t seed);
  // A stream that is a function of (seed, name, index) alone, for per-sample or per-step streams.
  Rng(uint64_t seed, std::string_view name, uint64_t index = 0);

  uint64_t next();
  // A stream of its own, seeded by the next value of this one.
  Rng fork() { return Rng(next()); }
  // Uniform integer in [0, n); n > 0.
  uint64_t uniform(uint64_t n);
  // Uniform integer in [low, high], both included.
  int64_t uniform_int(int64_t low, int64_t high);
  // Uniform in [0, 1).
  double uniform01();
  double uniform_real(double low, double high) { return low + (high - low) * uniform01(); }
  // Standard normal. Takes one value of the stream.
  double normal();
  bool bernoulli(double probability) { return uniform01() < probability; }
  template <typename T>
  const T& choose(const std::vector<T>& items) {
    return items[uniform(items.size())];
  }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[uniform(i)]);
  }

  // The whole state, for checkpoints. All zeros is no state: state() never gives it and set_state()
  // aborts on it.
  std::array<uint64_t, 4> state() const { return state_; }
  void set_state(const std::array<uint64_t, 4>& state);

 private:
  std::array<uint64_t, 4> state_;
};

}  // namespace chanas
