#pragma once
// Inputs of the next step, made on a worker thread while this step computes.

#include <omp.h>

#include <chrono>
#include <functional>
#include <future>
#include <utility>

namespace chanas {

// `make` turns a key into a value; it runs on the worker thread only, with `threads` OpenMP threads
// (1 where the cores belong to the step that computes), and its result may depend on nothing but
// the key: then what take() returns does not depend on whether it was made ahead. Not thread safe.
// The destructor waits for what is being made.
template <typename Key, typename Value>
class Prefetch {
 public:
  explicit Prefetch(std::function<Value(const Key&)> make, int threads = 1)
      : make_(std::move(make)), threads_(threads) {}

  // The value of `key`, and begins to make that of `next`. A value that was made for another key is
  // dropped: wrong guesses cost time only.
  Value take(const Key& key, const Key& next) {
    const auto start = std::chrono::steady_clock::now();
    if (!made_.valid() || key_ != key) begin(key);
    Value value = made_.get();
    wait_ += std::chrono::steady_clock::now() - start;
    begin(next);
    return value;
  }

  // Spent in take() so far.
  double wait_seconds() const { return std::chrono::duration<double>(wait_).count(); }

 private:
  void begin(const Key& key) {
    if (made_.valid()) made_.wait();
    key_ = key;
    made_ = std::async(std::launch::async, [this, key] {
      omp_set_num_threads(threads_);
      return make_(key);
    });
  }

  const std::function<Value(const Key&)> make_;
  const int threads_;
  Key key_{};
  std::future<Value> made_;
  std::chrono::steady_clock::duration wait_{};
};

}  // namespace chanas
