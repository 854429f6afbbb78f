#pragma once
// What the text of /proc/cpuinfo says about a CPU, in Halide's words.

#include <string>
#include <string_view>

#include "chanas/base/status.h"

namespace chanas {

struct CpuFacts {
  std::string model;   // "AMD EPYC 7763 64-Core Processor"
  std::string triple;  // "x86-64-linux-tune_znver3-avx-avx2-f16c-fma-sse41"
  int vector_floats = 4;
  int vector_registers = 16;
  std::string instructions;  // for people: "AVX-512", "AVX2", "NEON"
};

// `architecture` as uname tells it: "x86_64" or "aarch64", else kUnimplemented. The features are
// those that the system lets programs use, not all that the silicon has.
StatusOr<CpuFacts> parse_cpuinfo(std::string_view text, std::string_view architecture);

}  // namespace chanas
