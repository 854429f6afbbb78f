#include "chanas/measure/worker/timing.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "chanas/base/file.h"
#include "chanas/base/stats.h"

namespace chanas {
namespace {

// Shorter calls are timed in bunches of at least this long: the clock itself takes 0.03 us.
constexpr double kShortUs = 3;
// Enough samples are taken when they have taken this long.
constexpr double kEnoughUs = 100'000;
constexpr int kFewestSamples = 5;
// Back-to-back calls.
constexpr int kWarmCalls = 15;
constexpr double kWarmUs = 2'000;
// Middle half of the samples over their median. The clock's own jitter is always forgiven.
constexpr double kLargestSpread = 0.5;
constexpr double kJitterUs = 1;

constexpr int64_t kLine = 64;

void read_lines(const void* memory, int64_t bytes) {
  const auto* words = static_cast<const uint64_t*>(memory);
  uint64_t sum = 0;
  for (int64_t at = 0; at < bytes; at += kLine) sum += words[at / int64_t{sizeof(uint64_t)}];
  asm volatile("" : : "r"(sum));  // the loop stays
}

double spread(const std::vector<double>& samples) {
  double middle_half = percentile(samples, 0.75) - percentile(samples, 0.25);
  return std::max(0.0, middle_half - kJitterUs) / median(samples);
}

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

// A file of the system about a core; empty where there is none.
std::string core_file(int core, const std::string& name) {
  const auto text = read_file(fmt::format("/sys/devices/system/cpu/cpu{}/{}", core, name));
  return text.ok() ? text->substr(0, text->find('\n')) : "";
}

// Read once: pinning must take no time.
const CoreFacts& facts_of(int core) {
  static auto& known = *new std::map<int, CoreFacts>;
  if (const auto found = known.find(core); found != known.end()) return found->second;
  std::string speed = core_file(core, "cpufreq/cpuinfo_max_freq");
  if (speed.empty()) speed = core_file(core, "cpu_capacity");
  return known[core] = {core, core_file(core, "topology/thread_siblings_list"),
                        std::atoll(speed.c_str())};
}

void set_affinity(pthread_t thread, const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) CPU_SET(core, &set);
  // Where the system refuses, the measurement is only a little noisier.
  ::pthread_setaffinity_np(thread, sizeof set, &set);
}

}  // namespace

void ColdMemory::stream(chanas_runtime* runtime, int64_t bytes) {
  if (bytes <= 0) return;
  bytes = (bytes + kLine - 1) / kLine * kLine;
  const size_t words = static_cast<size_t>(bytes) / sizeof(uint64_t);
  if (words_.size() < words) words_.assign(words, 1);
  struct Task {
    const uint64_t* words;
    int64_t bytes;
  } task{words_.data(), bytes};
  chanas_par_for(
      runtime,
      [](void* context, int, uint8_t*) {
        auto* t = static_cast<const Task*>(context);
        read_lines(t->words, t->bytes);
        return 0;
      },
      &task, 0, chanas_runtime_threads(runtime), nullptr);
}

void fetch(chanas_runtime* runtime, const float* weights,
           const std::vector<PrefetchRange>& ranges) {
  struct Task {
    const char* weights;
    const std::vector<PrefetchRange>& ranges;
  } task{reinterpret_cast<const char*>(weights), ranges};
  chanas_par_for(
      runtime,
      [](void* context, int thread, uint8_t*) {
        auto* t = static_cast<const Task*>(context);
        for (const PrefetchRange& range : t->ranges)
          read_lines(t->weights + range.begin + range.stride * thread, range.bytes);
        return 0;
      },
      &task, 0, chanas_runtime_threads(runtime), nullptr);
}

void rewrite(chanas_runtime* runtime, float* data, size_t size) {
  struct Task {
    float* data;
    size_t size, parts;
  } task{data, size, static_cast<size_t>(chanas_runtime_threads(runtime))};
  chanas_par_for(
      runtime,
      [](void* context, int part, uint8_t*) {
        auto* t = static_cast<const Task*>(context);
        size_t i = t->size * static_cast<size_t>(part) / t->parts;
        const size_t end = t->size * (static_cast<size_t>(part) + 1) / t->parts;
        for (; i < end; i += 64 / sizeof(float)) {
          volatile float* line = t->data + i;
          *line = *line;
        }
        return 0;
      },
      &task, 0, static_cast<int>(task.parts), nullptr);
}

void use_scratch(chanas_runtime* runtime, size_t bytes) {
  struct Task {
    chanas_runtime* runtime;
    size_t bytes;
  } task{runtime, bytes};
  chanas_par_for(
      runtime,
      [](void* context, int, uint8_t*) {
        auto* t = static_cast<const Task*>(context);
        auto* memory = static_cast<volatile char*>(chanas_scratch_alloc(t->runtime, t->bytes));
        for (size_t i = 0; memory && i < t->bytes; i += 64) memory[i] = 0;
        chanas_scratch_free(t->runtime, const_cast<char*>(memory));
        return 0;
      },
      &task, 0, chanas_runtime_threads(runtime), nullptr);
}

MeasureResult time_call(const TimedCall& timed, chanas_runtime* runtime, int samples, bool cold) {
  MeasureResult result;
  const auto& now_us = timed.now_us;
  int code = 0;
  auto us_of = [&](int calls) {
    double start = now_us();
    for (int i = 0; i < calls && code == 0; ++i) code = timed.call();
    return (now_us() - start) / calls;
  };
  auto sample = [&](int bunch) {
    chanas_runtime_begin(runtime);
    timed.prepare();
    double us = us_of(bunch);
    chanas_runtime_end(runtime);
    return us;
  };

  us_of(1);  // page faults, lazy binding
  std::vector<double> warm;
  chanas_runtime_begin(runtime);
  for (double start = now_us(); static_cast<int>(warm.size()) < kWarmCalls &&
                                (warm.empty() || now_us() - start < kWarmUs);) {
    warm.push_back(us_of(1));
  }
  chanas_runtime_end(runtime);
  result.warm_us = median(warm);

  int bunch = !cold && result.warm_us < kShortUs
                  ? static_cast<int>(4 * kShortUs / std::max(result.warm_us, 0.05))
                  : 1;
  for (int attempt = 0; attempt < 2 && code == 0; ++attempt) {
    result.samples_us.clear();
    for (double start = now_us(); static_cast<int>(result.samples_us.size()) < samples;) {
      result.samples_us.push_back(sample(bunch));
      if (static_cast<int>(result.samples_us.size()) >= kFewestSamples &&
          now_us() - start > kEnoughUs) {
        break;
      }
    }
    if (spread(result.samples_us) <= kLargestSpread) break;
  }
  result.latency_us = median(result.samples_us);
  if (code != 0) {
    result.error = TrialError::kCrash;
    result.message = fmt::format("the kernel returned error {} while it was timed", code);
  } else if (double s = spread(result.samples_us); s > kLargestSpread) {
    result.error = TrialError::kUnstable;
    result.message =
        fmt::format("the middle half of {} samples spreads over {:.0f} % of the median, twice",
                    result.samples_us.size(), 100 * s);
  }
  return result;
}

std::vector<int> best_cores(std::vector<CoreFacts> cores) {
  std::ranges::sort(cores, {}, &CoreFacts::core);
  std::set<std::string> seen;
  std::vector<std::tuple<bool, int64_t, int>> order;
  for (const CoreFacts& c : cores) {
    const bool first = c.siblings.empty() || seen.insert(c.siblings).second;
    order.emplace_back(first, c.speed, c.core);
  }
  std::ranges::sort(order, std::greater<>());
  std::vector<int> best;
  for (const auto& [first, speed, core] : order) best.push_back(core);
  return best;
}

Pinned::Pinned(chanas_runtime* runtime) : runtime_(runtime), cores_(usable_cores()) {
  const auto threads = static_cast<size_t>(chanas_runtime_threads(runtime_));
  if (cores_.size() < threads) {
    cores_.clear();
    return;
  }
  std::vector<CoreFacts> facts;
  for (const int core : cores_) facts.push_back(facts_of(core));
  const std::vector<int> best = best_cores(std::move(facts));
  for (size_t i = 0; i < threads; ++i) {
    set_affinity(i == 0 ? ::pthread_self() : chanas_runtime_thread(runtime_, static_cast<int>(i)),
                 {best[i]});
  }
}

Pinned::~Pinned() {
  if (cores_.empty()) return;
  for (int i = 0; i < chanas_runtime_threads(runtime_); ++i) {
    set_affinity(i == 0 ? ::pthread_self() : chanas_runtime_thread(runtime_, i), cores_);
  }
}

}  // namespace chanas
