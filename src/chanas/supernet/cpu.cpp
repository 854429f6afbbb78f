#include "chanas/supernet/cpu.h"

#include <malloc.h>

#if defined(__x86_64__)
// MKL's question whether the processor is Intel's. A program's own answer comes before that of the
// library; what the processor can do is asked for separately. Linked in by prepare_cpu().
extern "C" __attribute__((visibility("default"))) int mkl_serv_intel_cpu_true();
extern "C" int mkl_serv_intel_cpu_true() {
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") || __builtin_cpu_supports("avx512f");
}
#endif

namespace chanas {

void prepare_cpu() {
  constexpr int kMegabyte = 1 << 20;
  ::mallopt(M_MMAP_THRESHOLD, 32 * kMegabyte);  // the most that is allowed
  ::mallopt(M_TRIM_THRESHOLD, 1024 * kMegabyte);
  ::mallopt(M_TOP_PAD, 64 * kMegabyte);
}

}  // namespace chanas
