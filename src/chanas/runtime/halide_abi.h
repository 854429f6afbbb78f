/* What an object file made by Halide 21 without its runtime expects of the program around it: the
 * layout of its arguments, and the functions that it calls (halide_abi.c). Written from the
 * documented binary interface, so that neither this runtime nor an exported network needs Halide's
 * headers.
 */
#ifndef CHANAS_HALIDE_ABI_H
#define CHANAS_HALIDE_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A type: code 2 is a floating point number. */
typedef struct chanas_halide_type {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} chanas_halide_type;

/* One dimension; stride in elements. */
typedef struct chanas_halide_dimension {
  int32_t min, extent, stride;
  uint32_t flags;
} chanas_halide_dimension;

/* A buffer argument; dim[0] is the innermost dimension. */
typedef struct chanas_halide_buffer {
  uint64_t device;
  const void* device_interface;
  uint8_t* host;
  uint64_t flags;
  chanas_halide_type type;
  int32_t dimensions;
  chanas_halide_dimension* dim;
  void* padding;
} chanas_halide_buffer;

#define CHANAS_HALIDE_MAX_DIMENSIONS 3

/* A dense float32 buffer together with its dimensions, innermost extent first: extents {c, w, h} of
 * an NHWC activation, {n} of packed weights. `out` must stay where it is while it is used. */
typedef struct chanas_halide_tensor {
  chanas_halide_buffer buffer;
  chanas_halide_dimension dim[CHANAS_HALIDE_MAX_DIMENSIONS];
} chanas_halide_tensor;
CHANAS_RUNTIME_API void chanas_halide_tensor_init(chanas_halide_tensor* out, const float* data,
                                                  int dimensions, const int32_t* extents);

/* Called by generated code; `context` is the chanas_runtime that the kernel was given. */
CHANAS_RUNTIME_API void* halide_malloc(void* context, size_t bytes);
CHANAS_RUNTIME_API void halide_free(void* context, void* memory);
CHANAS_RUNTIME_API int halide_do_par_for(void* context, chanas_task task, int min, int size,
                                         uint8_t* closure);

#ifdef __cplusplus
}
#endif

#endif
