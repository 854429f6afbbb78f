#include "chanas/runtime/runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "chanas/runtime/halide_abi.h"

// Counts what the runtime takes from the heap; the linker puts it in between (CMakeLists.txt).
static std::atomic<int> allocations{0};
extern "C" void* __real_aligned_alloc(size_t alignment, size_t bytes);
extern "C" void* __wrap_aligned_alloc(size_t alignment, size_t bytes) {
  ++allocations;
  return __real_aligned_alloc(alignment, bytes);
}

namespace {

using Runtime = std::unique_ptr<chanas_runtime, decltype(&chanas_runtime_destroy)>;

Runtime make(int threads) { return {chanas_runtime_create(threads), chanas_runtime_destroy}; }

// Calls a C++ function object as a task.
template <typename F>
int par_for(chanas_runtime* runtime, int min, int size, F f) {
  return chanas_par_for(
      runtime, [](void* context, int i, uint8_t*) { return (*static_cast<F*>(context))(i); }, &f,
      min, size, nullptr);
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

double process_cpu_ms() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

TEST(Runtime, RefusesThreadCountsOutOfRange) {
  EXPECT_EQ(chanas_runtime_create(0), nullptr);
  EXPECT_EQ(chanas_runtime_create(-1), nullptr);
  EXPECT_EQ(chanas_runtime_create(CHANAS_RUNTIME_MAX_THREADS + 1), nullptr);
  chanas_runtime_destroy(nullptr);
}

class RuntimeThreads : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, RuntimeThreads, testing::Values(1, 2, 3, 8));

TEST_P(RuntimeThreads, RunsEveryIndexOnce) {
  Runtime runtime = make(GetParam());
  ASSERT_NE(runtime, nullptr);
  EXPECT_EQ(chanas_runtime_threads(runtime.get()), GetParam());
  for (int size : {0, 1, 2, 3, 7, 64, 1000}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      // Plain ints: a task run twice at once or seen too late would be a data race.
      std::vector<int> counts(static_cast<size_t>(size), 0);
      int code = par_for(runtime.get(), -5, size, [&](int i) {
        ++counts[static_cast<size_t>(i + 5)];
        return 0;
      });
      ASSERT_EQ(code, 0);
      ASSERT_THAT(counts, testing::Each(1)) << "size " << size;
    }
  }
}

TEST_P(RuntimeThreads, PassesContextAndClosure) {
  Runtime runtime = make(GetParam());
  struct Closure {
    int factor;
    std::vector<int>* out;
  };
  std::vector<int> out(100);
  Closure closure{3, &out};
  int marker = 0;
  int code = chanas_par_for(
      runtime.get(),
      [](void* context, int i, uint8_t* bytes) {
        Closure copy;
        std::memcpy(&copy, bytes, sizeof copy);
        (*copy.out)[static_cast<size_t>(i)] = copy.factor * i;
        return *static_cast<int*>(context);
      },
      &marker, 0, 100, reinterpret_cast<uint8_t*>(&closure));
  EXPECT_EQ(code, 0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 3 * i);
}

TEST_P(RuntimeThreads, ReturnsTheErrorAndWorksAfterwards) {
  Runtime runtime = make(GetParam());
  EXPECT_EQ(par_for(runtime.get(), 0, 200, [](int i) { return i == 137 ? -42 : 0; }), -42);
  std::atomic<int> after{0};
  int code = par_for(runtime.get(), 0, 1'000'000, [&](int i) { return i == 0 ? 7 : (++after, 0); });
  EXPECT_EQ(code, 7);
  EXPECT_LT(after, 1'000'000 - 1) << "tasks after a failure are skipped";
  EXPECT_EQ(par_for(runtime.get(), 0, 200, [](int) { return 0; }), 0);
}

TEST_P(RuntimeThreads, NestedLoopsRunOnTheirThread) {
  Runtime runtime = make(GetParam());
  std::vector<int> sums(16, 0);
  int code = par_for(runtime.get(), 0, 16, [&](int i) {
    std::thread::id outer = std::this_thread::get_id();
    return par_for(runtime.get(), 0, 10, [&, outer](int j) {
      if (std::this_thread::get_id() != outer) return -1;
      sums[static_cast<size_t>(i)] += j;
      return 0;
    });
  });
  EXPECT_EQ(code, 0);
  EXPECT_THAT(sums, testing::Each(45));
  EXPECT_EQ(par_for(runtime.get(), 0, 4,
                    [&](int) { return par_for(runtime.get(), 0, 3, [](int j) { return j; }); }),
            1);
}

TEST(Runtime, UsesAllThreadsAndNoMore) {
  Runtime runtime = make(3);
  // Three tasks that wait for one another end only when three threads run them.
  std::atomic<int> arrived{0};
  int code = par_for(runtime.get(), 0, 3, [&](int) {
    ++arrived;
    for (int i = 0; i < 10'000 && arrived < 3; ++i) sleep_ms(1);
    return arrived < 3 ? -1 : 0;
  });
  EXPECT_EQ(code, 0);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  par_for(runtime.get(), 0, 1000, [&](int) {
    std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
    return 0;
  });
  EXPECT_LE(ids.size(), 3u);
}

TEST(Runtime, OthersTakeOverWhatAThreadHasNotBegun) {
  Runtime runtime = make(2);
  // Index 0 lasts until all others are done, so the second thread must run the rest of the first
  // thread's half too.
  std::atomic<int> done{0};
  int code = par_for(runtime.get(), 0, 20, [&](int i) {
    if (i != 0) return ++done, 0;
    for (int wait = 0; wait < 10'000 && done < 19; ++wait) sleep_ms(1);
    return done == 19 ? 0 : -1;
  });
  EXPECT_EQ(code, 0);
}

TEST(Runtime, SleepsSoonAfterTheLastCall) {
  Runtime runtime = make(4);
  chanas_runtime_begin(runtime.get());
  par_for(runtime.get(), 0, 64, [](int) { return 0; });
  chanas_runtime_end(runtime.get());
  sleep_ms(20);
  double before = process_cpu_ms();
  sleep_ms(200);
  EXPECT_LT(process_cpu_ms() - before, 20) << "of 600 ms that three busy threads would take";
}

TEST(Runtime, SleepsEvenWhenACallNeverEnds) {
  Runtime runtime = make(2);
  chanas_runtime_begin(runtime.get());
  sleep_ms(50);
  double before = process_cpu_ms();
  sleep_ms(200);
  EXPECT_LT(process_cpu_ms() - before, 20);
  EXPECT_EQ(par_for(runtime.get(), 0, 10, [](int) { return 0; }), 0);
}

TEST(Runtime, SeveralInstancesAndThreadsAtOnce) {
  auto user = [](int seed) {
    Runtime runtime = make(1 + seed % 3);
    for (int repeat = 0; repeat < 200; ++repeat) {
      chanas_runtime_begin(runtime.get());
      std::vector<int> out(50);
      int code = par_for(runtime.get(), 0, 50, [&](int i) {
        int* memory = static_cast<int*>(chanas_scratch_alloc(runtime.get(), 256));
        if (!memory) return -1;
        *memory = seed + i;
        out[static_cast<size_t>(i)] = *memory;
        chanas_scratch_free(runtime.get(), memory);
        return 0;
      });
      chanas_runtime_end(runtime.get());
      ASSERT_EQ(code, 0);
      for (int i = 0; i < 50; ++i) ASSERT_EQ(out[static_cast<size_t>(i)], seed + i);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(user, i);
  for (std::thread& thread : threads) thread.join();
}

TEST(Runtime, ALoopOfAnotherInstanceInsideATask) {
  Runtime outer = make(2), inner = make(2);
  std::atomic<int> count{0};
  std::mutex one_call_at_a_time;
  int code = par_for(outer.get(), 0, 8, [&](int) {
    std::lock_guard lock(one_call_at_a_time);
    return par_for(inner.get(), 0, 8, [&](int) { return ++count, 0; });
  });
  EXPECT_EQ(code, 0);
  EXPECT_EQ(count, 64);
}

TEST(Runtime, ManyShortLoopsBetweenSleeps) {
  Runtime runtime = make(2);
  int64_t total = 0;
  for (int round = 0; round < 30; ++round) {
    for (int repeat = 0; repeat < 200; ++repeat) {
      int64_t parts[4] = {};
      par_for(runtime.get(), 0, 4, [&](int i) { return parts[i] = i, 0; });
      total += std::accumulate(parts, parts + 4, int64_t{0});
    }
    sleep_ms(1);
  }
  EXPECT_EQ(total, 30 * 200 * 6);
}

// --- Scratch memory ---------------------------------------------------------------------------

TEST(Scratch, AlignedDisjointAndWritable) {
  Runtime runtime = make(1);
  ASSERT_EQ(chanas_runtime_reserve(runtime.get(), 4096), 0);
  std::vector<char*> blocks;
  for (size_t bytes :
       {size_t{1}, size_t{64}, size_t{65}, size_t{1000}, size_t{0}, size_t{100'000}}) {
    char* block = static_cast<char*>(chanas_scratch_alloc(runtime.get(), bytes));
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % CHANAS_SCRATCH_ALIGNMENT, 0u);
    std::memset(block, static_cast<int>(blocks.size()) + 1, bytes);
    blocks.push_back(block);
  }
  EXPECT_EQ(blocks[0][0], 1);
  EXPECT_EQ(blocks[1][63], 2);
  EXPECT_EQ(blocks[2][64], 3);
  EXPECT_EQ(blocks[3][999], 4);
  EXPECT_EQ(blocks[5][99'999], 6);
  while (!blocks.empty()) {
    chanas_scratch_free(runtime.get(), blocks.back());
    blocks.pop_back();
  }
  chanas_scratch_free(runtime.get(), nullptr);
}

TEST(Scratch, GivesTheSameMemoryAgain) {
  Runtime runtime = make(1);
  ASSERT_EQ(chanas_runtime_reserve(runtime.get(), 1 << 16), 0);
  auto alloc = [&](size_t bytes) { return chanas_scratch_alloc(runtime.get(), bytes); };
  auto free = [&](void* memory) { chanas_scratch_free(runtime.get(), memory); };
  void* a = alloc(100);
  void* b = alloc(200);
  free(b);
  EXPECT_EQ(alloc(200), b);
  // Out of order: a's place is free once b goes too.
  free(a);
  EXPECT_NE(alloc(50), a);
  EXPECT_EQ(chanas_runtime_scratch_used(runtime.get()), (64 + 128) + (64 + 256) + (64 + 64));
}

TEST(Scratch, FreedOutOfOrderIsGivenBack) {
  Runtime runtime = make(1);
  ASSERT_EQ(chanas_runtime_reserve(runtime.get(), 1 << 12), 0);
  void* first = nullptr;
  for (int repeat = 0; repeat < 1000; ++repeat) {
    void* a = chanas_scratch_alloc(runtime.get(), 1000);
    void* b = chanas_scratch_alloc(runtime.get(), 1000);
    if (!first) first = a;
    ASSERT_EQ(a, first);
    chanas_scratch_free(runtime.get(), a);
    chanas_scratch_free(runtime.get(), b);
  }
  EXPECT_LT(chanas_runtime_scratch_used(runtime.get()), size_t{1} << 12);
}

TEST(Scratch, RefusesWhatCannotBe) {
  Runtime runtime = make(1);
  EXPECT_EQ(chanas_scratch_alloc(runtime.get(), SIZE_MAX - 10), nullptr);
  void* memory = chanas_scratch_alloc(runtime.get(), 8);
  EXPECT_NE(memory, nullptr);
  chanas_scratch_free(runtime.get(), memory);
}

// A caller's block, then one in every task, as compiled kernels do.
struct Kernel {
  chanas_runtime* runtime;
  int code = 0;

  static int run(void* self) {
    auto* kernel = static_cast<Kernel*>(self);
    void* whole = chanas_scratch_alloc(kernel->runtime, 5000);
    int code = par_for(kernel->runtime, 0, 8, [&](int) {
      void* part = chanas_scratch_alloc(kernel->runtime, 3000);
      std::memset(part, 1, 3000);
      chanas_scratch_free(kernel->runtime, part);
      return kernel->code;
    });
    chanas_scratch_free(kernel->runtime, whole);
    return code;
  }
};

TEST(Scratch, WarmUpFindsWhatAnyThreadNeeds) {
  Runtime runtime = make(3);
  Kernel kernel{runtime.get()};
  ASSERT_EQ(chanas_runtime_warm_up(runtime.get(), Kernel::run, &kernel), 0);
  size_t need = chanas_runtime_scratch_used(runtime.get());
  EXPECT_EQ(need, size_t{64 + 5056 + 64 + 3008});
  int before = allocations;
  for (int i = 0; i < 100; ++i) ASSERT_EQ(Kernel::run(&kernel), 0);
  EXPECT_EQ(allocations, before) << "nothing is allocated after the warm-up";
  EXPECT_EQ(chanas_runtime_scratch_used(runtime.get()), need);
}

TEST(Scratch, WithoutWarmUpMallocHelpsOut) {
  Runtime runtime = make(2);
  Kernel kernel{runtime.get()};
  int before = allocations;
  EXPECT_EQ(Kernel::run(&kernel), 0);
  EXPECT_EQ(allocations - before, 9);
}

TEST(Scratch, WarmUpReturnsTheCode) {
  Runtime runtime = make(2);
  Kernel kernel{runtime.get(), 9};
  EXPECT_EQ(chanas_runtime_warm_up(runtime.get(), Kernel::run, &kernel), 9);
}

// Kernels do not look at what halide_malloc gave them.
TEST(Scratch, AWarmUpWithoutMemoryEndsWithItsCode) {
  Runtime runtime = make(2);
  auto run = [](void* argument) {
    auto* instance = static_cast<chanas_runtime*>(argument);
    halide_malloc(instance, 1000);
    return par_for(instance, 0, 4, [=](int) {
      halide_malloc(instance, 1000);
      std::memset(halide_malloc(instance, SIZE_MAX / 4), 1, 8);
      return 0;
    });
  };
  for (int repeat = 0; repeat < 2; ++repeat) {  // on the heap, then on a reserved stack
    EXPECT_EQ(chanas_runtime_warm_up(runtime.get(), run, runtime.get()),
              CHANAS_RUNTIME_ERROR_MEMORY);
    ASSERT_EQ(chanas_runtime_reserve(runtime.get(), 1 << 16), 0);
  }
  Kernel kernel{runtime.get()};
  EXPECT_EQ(chanas_runtime_warm_up(runtime.get(), Kernel::run, &kernel), 0);
  EXPECT_EQ(chanas_runtime_scratch_used(runtime.get()), size_t{64 + 5056 + 64 + 3008})
      << "all that the failed ones held was given back";
  std::atomic<int> threads{0};
  EXPECT_EQ(par_for(runtime.get(), 0, 2,
                    [&](int) {
                      for (++threads; threads < 2;) sleep_ms(1);
                      return 0;
                    }),
            0)
      << "loops are parallel again";
}

TEST(ScratchDeathTest, WithoutMemoryOutsideAWarmUpThereIsAMessage) {
  Runtime runtime = make(1);
  EXPECT_DEATH(halide_malloc(runtime.get(), SIZE_MAX / 4), "no memory for [0-9]+ bytes");
}

// --- The program around ------------------------------------------------------------------------

TEST(Runtime, ThreadsTakeNoSignals) {
  static std::atomic<int> taken{0};
  static pthread_t taker;
  struct sigaction before, mine = {};
  mine.sa_handler = [](int) {
    taker = pthread_self();
    ++taken;
  };
  ASSERT_EQ(sigaction(SIGUSR1, &mine, &before), 0);
  Runtime runtime = make(3);
  sigset_t usr1, old;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  // As a server that waits for its signals with sigwait; the pool must not take them meanwhile.
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &usr1, &old), 0);
  ASSERT_EQ(kill(getpid(), SIGUSR1), 0);
  sleep_ms(20);
  EXPECT_EQ(taken, 0);
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &old, nullptr), 0);
  EXPECT_EQ(taken, 1);
  EXPECT_TRUE(pthread_equal(taker, pthread_self()));
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(Runtime, AForkedChildDestroysTheInstance) {
  Runtime runtime = make(3);
  par_for(runtime.get(), 0, 64, [](int) { return 0; });
  sleep_ms(20);  // all asleep
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // instead of hanging
    runtime.reset();
    _exit(7);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  EXPECT_EQ(par_for(runtime.get(), 0, 64, [](int) { return 0; }), 0);
}

// --- The functions that generated code calls --------------------------------------------------

TEST(HalideAbi, FunctionsUseTheInstance) {
  Runtime runtime = make(2);
  void* memory = halide_malloc(runtime.get(), 100);
  EXPECT_NE(memory, nullptr);
  halide_free(runtime.get(), memory);
  EXPECT_GT(chanas_runtime_scratch_used(runtime.get()), 100u);
  // The context of a task is the instance.
  std::pair<chanas_runtime*, std::atomic<int>> seen{runtime.get(), 0};
  int code = halide_do_par_for(
      runtime.get(),
      [](void* context, int, uint8_t* closure) {
        auto* pair = reinterpret_cast<decltype(seen)*>(closure);
        if (context == pair->first) ++pair->second;
        return 0;
      },
      3, 10, reinterpret_cast<uint8_t*>(&seen));
  EXPECT_EQ(code, 0);
  EXPECT_EQ(seen.second, 10);
}

TEST(HalideAbi, TensorIsDense) {
  float data[2 * 3 * 4] = {};
  int32_t extents[] = {4, 3, 2};
  chanas_halide_tensor tensor;
  chanas_halide_tensor_init(&tensor, data, 3, extents);
  EXPECT_EQ(tensor.buffer.host, reinterpret_cast<uint8_t*>(data));
  EXPECT_EQ(tensor.buffer.dimensions, 3);
  EXPECT_EQ(tensor.buffer.dim, tensor.dim);
  EXPECT_EQ(tensor.dim[0].stride, 1);
  EXPECT_EQ(tensor.dim[1].stride, 4);
  EXPECT_EQ(tensor.dim[2].stride, 12);
  EXPECT_EQ(tensor.dim[2].extent, 2);
  EXPECT_EQ(tensor.buffer.type.bits, 32);
}

TEST(Clock, NeverGoesBack) {
  int64_t last = chanas_now_ns();
  for (int i = 0; i < 10'000; ++i) {
    int64_t now = chanas_now_ns();
    ASSERT_GE(now, last);
    last = now;
  }
  sleep_ms(5);
  EXPECT_GE(chanas_now_ns() - last, 4'000'000);
}

}  // namespace
