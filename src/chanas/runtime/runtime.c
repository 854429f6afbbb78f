#define _GNU_SOURCE /* sched_getaffinity */
#include "runtime.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How long a thread without work stays awake. */
#define AWAKE_NS 50000
#define AWAKE_IN_CALL_NS 2000000

/* Neighbouring threads write to different cache lines, and to different pairs of lines, which some
 * processors fetch together. */
#define LINE 128

/* A block of scratch memory begins with this header; the blocks of a thread form a stack. */
typedef struct block {
  struct block* below;
  size_t size; /* header included */
  int freed;   /* but still under a block in use */
  int heap;    /* from malloc */
} block;
_Static_assert(sizeof(block) <= CHANAS_SCRATCH_ALIGNMENT, "header");

typedef struct worker {
  /* Loop indices that nobody has begun: the first in the low half, the end in the high half. The
   * owner takes from the front, others from the end. */
  _Alignas(LINE) _Atomic uint64_t range;
  _Alignas(LINE) struct chanas_runtime* runtime;
  int index;
  int in_task;
  pthread_t thread;
  char* stack;
  size_t capacity, top, highest;
  block* last;
} worker;

struct chanas_runtime {
  int threads;
  int serial;   /* warm-up */
  int may_spin; /* every thread has a core */
  int started;  /* threads that run, the caller's included */
  pid_t process;
  jmp_buf* out_of_memory; /* where a warm-up ends that cannot go on */

  /* The loop, written by the caller before it hands out ranges. A thread may read it only while it
   * holds an index, for the loop ends no earlier than its last index. */
  chanas_task task;
  void* context;
  uint8_t* closure;
  int min;

  _Alignas(LINE) _Atomic int remaining; /* indices not finished */
  _Atomic int error;
  _Alignas(LINE) _Atomic unsigned epoch; /* changes when there may be work */
  _Atomic int in_call;
  _Atomic int stop;
  _Atomic int sleepers;
  _Atomic int64_t call_end_ns;

  pthread_mutex_t mutex;
  pthread_cond_t wake;

  worker* workers;
};

/* The pool's thread that runs; null in threads that are not a pool's. A library that is loaded at
 * run time would otherwise get its thread-local memory from malloc at first use. */
static _Thread_local worker* current_worker
#if defined(__GLIBC__)
    __attribute__((tls_model("initial-exec")))
#endif
    ;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t chanas_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static worker* self_of(chanas_runtime* runtime) {
  worker* self = current_worker;
  return self && self->runtime == runtime ? self : &runtime->workers[0];
}

static int usable_cores(void) {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* --- Parallel loops --------------------------------------------------------------------------- */

static uint64_t pack_range(uint32_t next, uint32_t end) { return (uint64_t)end << 32 | next; }

/* An index of the victim's range, or -1. */
static int64_t take(worker* victim, int own) {
  uint64_t range = atomic_load_explicit(&victim->range, memory_order_relaxed);
  for (;;) {
    uint32_t next = (uint32_t)range, end = (uint32_t)(range >> 32);
    if (next >= end) return -1;
    uint64_t rest = own ? pack_range(next + 1, end) : pack_range(next, end - 1);
    if (atomic_compare_exchange_weak_explicit(&victim->range, &range, rest, memory_order_acq_rel,
                                              memory_order_relaxed)) {
      return own ? next : end - 1;
    }
  }
}

static void run_task(chanas_runtime* runtime, worker* self, int64_t offset) {
  if (atomic_load_explicit(&runtime->error, memory_order_relaxed)) return;
  self->in_task = 1;
  int code = runtime->task(runtime->context, (int)(runtime->min + offset), runtime->closure);
  self->in_task = 0;
  int none = 0;
  if (code) atomic_compare_exchange_strong(&runtime->error, &none, code);
}

/* Runs indices until none is left to begin. What was done is told at the very end: until then the
 * loop cannot end, and the indices taken belong to one loop. */
static void work(chanas_runtime* runtime, worker* self) {
  int done = 0;
  for (int i = 0; i < runtime->threads; ++i) {
    worker* victim = &runtime->workers[(self->index + i) % runtime->threads];
    for (int64_t offset; (offset = take(victim, victim == self)) >= 0; ++done) {
      run_task(runtime, self, offset);
    }
  }
  if (done) atomic_fetch_sub_explicit(&runtime->remaining, done, memory_order_acq_rel);
}

static void wake_sleepers(chanas_runtime* runtime) {
  /* Against a thread that goes to sleep: it counts itself, then looks at the epoch. */
  atomic_fetch_add(&runtime->epoch, 1);
  if (!atomic_load(&runtime->sleepers)) return;
  pthread_mutex_lock(&runtime->mutex); /* until all sleepers really wait */
  pthread_mutex_unlock(&runtime->mutex);
  pthread_cond_broadcast(&runtime->wake);
}

static int run_serial(worker* self, chanas_task task, void* context, int min, int size,
                      uint8_t* closure) {
  int was_in_task = self->in_task, code = 0;
  self->in_task = 1;
  for (int i = 0; i < size && !code; ++i) code = task(context, min + i, closure);
  self->in_task = was_in_task;
  return code;
}

int chanas_par_for(chanas_runtime* runtime, chanas_task task, void* context, int min, int size,
                   uint8_t* closure) {
  worker* self = self_of(runtime);
  int threads = runtime->threads;
  if (size <= 1 || threads == 1 || runtime->serial || self->in_task) {
    return run_serial(self, task, context, min, size, closure);
  }
  runtime->task = task;
  runtime->context = context;
  runtime->closure = closure;
  runtime->min = min;
  atomic_store_explicit(&runtime->error, 0, memory_order_relaxed);
  atomic_store_explicit(&runtime->remaining, size, memory_order_relaxed);
  for (int i = threads - 1; i >= 0; --i) {
    uint32_t begin = (uint32_t)((int64_t)size * i / threads);
    uint32_t end = (uint32_t)((int64_t)size * (i + 1) / threads);
    atomic_store_explicit(&runtime->workers[i].range, pack_range(begin, end), memory_order_release);
  }
  wake_sleepers(runtime);
  work(runtime, self);

  int64_t start = 0;
  for (unsigned spins = 0; atomic_load_explicit(&runtime->remaining, memory_order_acquire);) {
    relax();
    if (++spins % 64) continue;
    int64_t now = chanas_now_ns();
    if (!start) start = now;
    /* A thread that holds the last task may wait for this very core. */
    if (!runtime->may_spin || now - start > AWAKE_NS) sched_yield();
  }
  return atomic_load_explicit(&runtime->error, memory_order_relaxed);
}

/* --- Threads ---------------------------------------------------------------------------------- */

static int has_news(chanas_runtime* runtime, unsigned seen) {
  return atomic_load(&runtime->epoch) != seen;
}

/* Waits until the epoch is another than `seen`: awake for a while, then asleep. */
static unsigned await_news(chanas_runtime* runtime, unsigned seen) {
  if (runtime->may_spin) {
    int64_t idle_since = chanas_now_ns();
    for (;;) {
      for (int i = 0; i < 64; ++i) {
        if (has_news(runtime, seen)) return atomic_load(&runtime->epoch);
        relax();
      }
      int64_t since = atomic_load_explicit(&runtime->call_end_ns, memory_order_relaxed);
      int in_call = atomic_load_explicit(&runtime->in_call, memory_order_relaxed);
      if (in_call || since < idle_since) since = idle_since;
      if (chanas_now_ns() - since > (in_call ? AWAKE_IN_CALL_NS : AWAKE_NS)) break;
    }
  }
  pthread_mutex_lock(&runtime->mutex);
  atomic_fetch_add(&runtime->sleepers, 1);
  while (!has_news(runtime, seen)) pthread_cond_wait(&runtime->wake, &runtime->mutex);
  atomic_fetch_sub(&runtime->sleepers, 1);
  pthread_mutex_unlock(&runtime->mutex);
  return atomic_load(&runtime->epoch);
}

static void* thread_main(void* argument) {
  worker* self = argument;
  chanas_runtime* runtime = self->runtime;
  current_worker = self;
  unsigned seen = 0;
  for (;;) {
    seen = await_news(runtime, seen);
    if (atomic_load(&runtime->stop)) return NULL;
    work(runtime, self);
  }
}

static void* allocate(size_t bytes) {
  return aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);
}

chanas_runtime* chanas_runtime_create(int threads) {
  if (threads < 1 || threads > CHANAS_RUNTIME_MAX_THREADS) return NULL;
  chanas_runtime* runtime = allocate(sizeof *runtime);
  worker* workers = allocate(sizeof *workers * (size_t)threads);
  if (!runtime || !workers) {
    free(runtime);
    free(workers);
    return NULL;
  }
  memset(runtime, 0, sizeof *runtime);
  memset(workers, 0, sizeof *workers * (size_t)threads);
  runtime->threads = threads;
  runtime->started = 1;
  runtime->may_spin = usable_cores() >= threads;
  runtime->workers = workers;
  runtime->process = getpid();
  pthread_mutex_init(&runtime->mutex, NULL);
  pthread_cond_init(&runtime->wake, NULL);
  for (int i = 0; i < threads; ++i) {
    workers[i].runtime = runtime;
    workers[i].index = i;
  }
  /* Signals are for the program's own threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  for (int i = 1; i < threads && !failed; ++i) {
    failed = pthread_create(&workers[i].thread, NULL, thread_main, &workers[i]);
    if (!failed) runtime->started = i + 1;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!failed) return runtime;
  chanas_runtime_destroy(runtime);
  return NULL;
}

void chanas_runtime_destroy(chanas_runtime* runtime) {
  if (!runtime) return;
  if (runtime->process == getpid()) { /* a forked child has none of the threads */
    atomic_store(&runtime->stop, 1);
    wake_sleepers(runtime);
    for (int i = 1; i < runtime->started; ++i) pthread_join(runtime->workers[i].thread, NULL);
    pthread_cond_destroy(&runtime->wake);
    pthread_mutex_destroy(&runtime->mutex);
  }
  for (int i = 0; i < runtime->threads; ++i) free(runtime->workers[i].stack);
  free(runtime->workers);
  free(runtime);
}

int chanas_runtime_threads(const chanas_runtime* runtime) { return runtime->threads; }

pthread_t chanas_runtime_thread(const chanas_runtime* runtime, int index) {
  return runtime->workers[index].thread;
}

void chanas_runtime_begin(chanas_runtime* runtime) {
  atomic_store_explicit(&runtime->in_call, 1, memory_order_relaxed);
  if (atomic_load(&runtime->sleepers)) wake_sleepers(runtime);
}

void chanas_runtime_end(chanas_runtime* runtime) {
  if (runtime->threads == 1) return;
  atomic_store_explicit(&runtime->call_end_ns, chanas_now_ns(), memory_order_relaxed);
  atomic_store_explicit(&runtime->in_call, 0, memory_order_relaxed);
}

/* --- Scratch memory --------------------------------------------------------------------------- */

void* chanas_scratch_alloc(chanas_runtime* runtime, size_t bytes) {
  if (bytes > SIZE_MAX / 2) return NULL;
  worker* self = self_of(runtime);
  size_t rounded = (bytes + CHANAS_SCRATCH_ALIGNMENT - 1) & ~(size_t)(CHANAS_SCRATCH_ALIGNMENT - 1);
  size_t size = rounded + CHANAS_SCRATCH_ALIGNMENT;
  int heap = size > self->capacity || self->top > self->capacity - size;
  block* b =
      heap ? aligned_alloc(CHANAS_SCRATCH_ALIGNMENT, size) : (void*)(self->stack + self->top);
  if (!b) return NULL;
  *b = (block){.below = self->last, .size = size, .heap = heap};
  /* A block from malloc counts like one on the stack, so that `highest` is what the stack needs. */
  self->last = b;
  self->top += size;
  if (self->top > self->highest) self->highest = self->top;
  return (char*)b + CHANAS_SCRATCH_ALIGNMENT;
}

void chanas_scratch_free(chanas_runtime* runtime, void* memory) {
  if (!memory) return;
  worker* self = self_of(runtime);
  ((block*)(void*)((char*)memory - CHANAS_SCRATCH_ALIGNMENT))->freed = 1;
  while (self->last && self->last->freed) {
    block* b = self->last;
    self->last = b->below;
    self->top -= b->size;
    if (b->heap) free(b);
  }
}

size_t chanas_runtime_scratch_used(const chanas_runtime* runtime) {
  size_t most = 0;
  for (int i = 0; i < runtime->threads; ++i) {
    if (runtime->workers[i].highest > most) most = runtime->workers[i].highest;
  }
  return most;
}

int chanas_runtime_reserve(chanas_runtime* runtime, size_t bytes) {
  for (int i = 0; i < runtime->threads; ++i) {
    worker* w = &runtime->workers[i];
    if (w->capacity >= bytes) continue;
    char* stack = allocate(bytes);
    if (!stack) return CHANAS_RUNTIME_ERROR_MEMORY;
    memset(stack, 0, bytes); /* pages are there before the first call */
    free(w->stack);
    w->stack = stack;
    w->capacity = bytes;
  }
  return 0;
}

void* chanas_scratch_need(chanas_runtime* runtime, size_t bytes) {
  void* memory = chanas_scratch_alloc(runtime, bytes);
  if (memory) return memory;
  if (runtime->out_of_memory) longjmp(*runtime->out_of_memory, 1);
  fprintf(stderr, "chanas: no memory for %zu bytes of scratch\n", bytes);
  abort();
}

/* What run(argument) returns, or that there was no memory; what it then held is given back. */
static int run_or_fail(chanas_runtime* runtime, int (*run)(void* argument), void* argument) {
  jmp_buf out_of_memory;
  if (setjmp(out_of_memory)) {
    worker* self = self_of(runtime);
    self->in_task = 0;
    for (block* b = self->last; b; b = b->below) b->freed = 1;
    if (self->last) chanas_scratch_free(runtime, (char*)self->last + CHANAS_SCRATCH_ALIGNMENT);
    return CHANAS_RUNTIME_ERROR_MEMORY;
  }
  runtime->out_of_memory = &out_of_memory;
  return run(argument);
}

int chanas_runtime_warm_up(chanas_runtime* runtime, int (*run)(void* argument), void* argument) {
  for (int i = 0; i < runtime->threads; ++i) runtime->workers[i].highest = runtime->workers[i].top;
  runtime->serial = 1;
  int code = run_or_fail(runtime, run, argument);
  runtime->out_of_memory = NULL;
  runtime->serial = 0;
  return code ? code : chanas_runtime_reserve(runtime, runtime->workers[0].highest);
}
