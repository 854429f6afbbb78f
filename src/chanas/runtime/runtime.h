/* What a compiled network needs while it runs: threads, scratch memory, a clock. C11 with libc and
 * pthread alone; the same sources serve chanas-kernel and ship inside exported networks.
 *
 *   chanas_runtime* runtime = chanas_runtime_create(2);
 *   chanas_runtime_warm_up(runtime, run_network, network);   // sizes scratch memory
 *   chanas_runtime_begin(runtime);                           // one call of the network
 *   error = run_network(network);                            //   ... chanas_par_for(runtime, ...)
 *   chanas_runtime_end(runtime);
 *   chanas_runtime_destroy(runtime);
 *
 * Thread rule: any number of instances may be used at once, from any threads; one instance serves
 * one call at a time. After chanas_runtime_warm_up a call allocates nothing. A forked child has
 * none of the threads: all it may do with its parent's instance is destroy it.
 */
#ifndef CHANAS_RUNTIME_H
#define CHANAS_RUNTIME_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* A library that holds the runtime does not show it; define CHANAS_RUNTIME_API to change that. */
#ifndef CHANAS_RUNTIME_API
#define CHANAS_RUNTIME_API __attribute__((visibility("hidden")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define CHANAS_RUNTIME_MAX_THREADS 256
#define CHANAS_SCRATCH_ALIGNMENT 64

typedef struct chanas_runtime chanas_runtime;

/* An instance with `threads` threads in 1..CHANAS_RUNTIME_MAX_THREADS, the one that makes a call
 * included: threads - 1 are started here and inherit affinity, which is never changed, and take no
 * signals. Null when `threads` is out of range, memory is short, or a thread cannot be started. */
CHANAS_RUNTIME_API chanas_runtime* chanas_runtime_create(int threads);
/* Ends the threads. Null is allowed. */
CHANAS_RUNTIME_API void chanas_runtime_destroy(chanas_runtime* runtime);
CHANAS_RUNTIME_API int chanas_runtime_threads(const chanas_runtime* runtime);
/* Thread `index` in 1..threads-1, for those who want to place it. */
CHANAS_RUNTIME_API pthread_t chanas_runtime_thread(const chanas_runtime* runtime, int index);

/* --- One call ------------------------------------------------------------------------------- */

/* Around a call with several parallel loops: begin wakes the threads, which then stay awake in the
 * serial stretches between the loops (waking takes about 10 us) until end; soon after it (50 us)
 * they sleep. At most 2 ms without work are spent awake in any case. Optional: parallel loops work
 * without. */
CHANAS_RUNTIME_API void chanas_runtime_begin(chanas_runtime* runtime);
CHANAS_RUNTIME_API void chanas_runtime_end(chanas_runtime* runtime);

/* A task of a parallel loop; 0, or an error code. */
typedef int (*chanas_task)(void* context, int index, uint8_t* closure);

/* Calls task(context, i, closure) for i in [min, min + size), on all threads; each thread begins
 * with its own contiguous part of the range, the same in every loop of that size, and then takes
 * over what others have not begun. Returns 0 or the code of a task that failed; later tasks are
 * then skipped. A loop inside a task runs serially on its thread. */
CHANAS_RUNTIME_API int chanas_par_for(chanas_runtime* runtime, chanas_task task, void* context,
                                      int min, int size, uint8_t* closure);

/* --- Scratch memory -------------------------------------------------------------------------- */

/* `bytes` of uninitialised memory for the calling thread (of the pool, or the one that makes the
 * call), aligned to CHANAS_SCRATCH_ALIGNMENT: a stack per thread. Where a thread's stack is full
 * malloc gives the memory. Null when that fails. */
CHANAS_RUNTIME_API void* chanas_scratch_alloc(chanas_runtime* runtime, size_t bytes);
/* The same for generated code, which cannot go on without. Where that fails a warm-up ends with
 * CHANAS_RUNTIME_ERROR_MEMORY; outside of one the program is aborted with a message. */
CHANAS_RUNTIME_API void* chanas_scratch_need(chanas_runtime* runtime, size_t bytes);
/* On the thread that allocated; any order, cheapest last in, first out. Null is allowed. */
CHANAS_RUNTIME_API void chanas_scratch_free(chanas_runtime* runtime, void* memory);
/* The largest number of bytes that one thread has held at once since the last warm-up began,
 * headers included. */
CHANAS_RUNTIME_API size_t chanas_runtime_scratch_used(const chanas_runtime* runtime);
/* Gives every thread a stack of at least `bytes`; 0, or CHANAS_RUNTIME_ERROR_MEMORY. Not while
 * scratch memory is in use. */
CHANAS_RUNTIME_API int chanas_runtime_reserve(chanas_runtime* runtime, size_t bytes);
/* Calls run(argument) once with every parallel loop serial on the calling thread, which then holds
 * at least what any thread will hold in a parallel call, and reserves that for every thread.
 * Returns the code of `run`, or CHANAS_RUNTIME_ERROR_MEMORY; `run` is then left where memory was
 * missing (longjmp). */
CHANAS_RUNTIME_API int chanas_runtime_warm_up(chanas_runtime* runtime, int (*run)(void* argument),
                                              void* argument);

#define CHANAS_RUNTIME_ERROR_MEMORY (-1000)

/* --- Time ------------------------------------------------------------------------------------ */

/* Nanoseconds of a clock that never goes back. */
CHANAS_RUNTIME_API int64_t chanas_now_ns(void);

#ifdef __cplusplus
}
#endif

#endif
