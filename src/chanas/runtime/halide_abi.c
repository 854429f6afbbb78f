#include "halide_abi.h"

/* Layouts of Halide 21 on a 64-bit machine. */
_Static_assert(sizeof(chanas_halide_type) == 4, "halide_type_t");
_Static_assert(sizeof(chanas_halide_dimension) == 16, "halide_dimension_t");
_Static_assert(sizeof(void*) != 8 || sizeof(chanas_halide_buffer) == 56, "halide_buffer_t");
_Static_assert(sizeof(void*) != 8 || offsetof(chanas_halide_buffer, host) == 16, "host");
_Static_assert(sizeof(void*) != 8 || offsetof(chanas_halide_buffer, type) == 32, "type");
_Static_assert(sizeof(void*) != 8 || offsetof(chanas_halide_buffer, dim) == 40, "dim");

void chanas_halide_tensor_init(chanas_halide_tensor* out, const float* data, int dimensions,
                               const int32_t* extents) {
  *out = (chanas_halide_tensor){0};
  int32_t stride = 1;
  for (int i = 0; i < dimensions && i < CHANAS_HALIDE_MAX_DIMENSIONS; ++i) {
    out->dim[i] = (chanas_halide_dimension){.extent = extents[i], .stride = stride};
    stride *= extents[i];
  }
  out->buffer.host = (uint8_t*)(uintptr_t)data;
  out->buffer.type = (chanas_halide_type){.code = 2, .bits = 32, .lanes = 1};
  out->buffer.dimensions = dimensions;
  out->buffer.dim = out->dim;
}

void* halide_malloc(void* context, size_t bytes) { return chanas_scratch_need(context, bytes); }

void halide_free(void* context, void* memory) { chanas_scratch_free(context, memory); }

int halide_do_par_for(void* context, chanas_task task, int min, int size, uint8_t* closure) {
  return chanas_par_for(context, task, context, min, size, closure);
}
