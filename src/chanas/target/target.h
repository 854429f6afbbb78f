#pragma once
// Hardware descriptions. A Target is a value: what the schedule space, the code generator and the
// store need to know about a device.

#include <cstdint>
#include <string>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace chanas {

struct Target {
  std::string name;    // for people: "AMD EPYC (2 cores, AVX-512)"
  std::string cpu;     // model name as the system tells it
  std::string triple;  // Halide target string, e.g. "x86-64-linux-avx-avx2-avx512..."; never "host"
  int cores = 1;       // usable now
  int vector_floats = 8;  // natural float32 vector width: 4, 8 or 16
  int vector_registers = 16;
  int64_t l1_bytes = 32 << 10, l2_bytes = 1 << 20, l3_bytes = 8 << 20;
  bool simulated = false;  // latencies come from a formula, never from hardware

  // A GPU: lanes are threads of a block, vector_registers those of one thread.
  bool gpu() const { return triple.find("-cuda") != std::string::npos; }
  // Of cpu, triple and simulated, not of cores: rows measured on the same kind of CPU are shared.
  std::string fingerprint() const;
};

// This machine, read from /proc/cpuinfo, sysfs and cpuid.
StatusOr<Target> local_target();
// A deterministic device for tests and dry runs.
Target simulated_target();

Json to_json(const Target& target);
StatusOr<Target> target_from_json(const Json& json);

}  // namespace chanas
