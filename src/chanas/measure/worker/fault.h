#pragma once
// Faults on demand, for tests of those who must survive them: the environment variable
//   CHANAS_KERNEL_FAULT=<kind>[:<request>[:<workload fingerprint>]]
// makes each such request (default "build") crash, hang, eat memory, leave 32 MiB behind ("leak"),
// answer with garbage, or (kind "wrong", a build) compute a wrong result; "late" makes a process's
// fourth crash (and the canary steady, as repeated batches would count). Of the canary, "jolt"
// doubles the second time alone, "neighbour" the third, sixth and eighth, and "drift" makes each
// time shorter than the one before. Unset in every other use.

#include <string_view>

#include "chanas/base/json.h"

namespace chanas {

// Called before a request is served; may never return.
void inject_fault(const Json& request);
// After a checked run; `output` has at least one element.
void disturb_output(float* output);
// The canary's time as it is told.
double disturb_canary(double us);
// What to send instead of the reply; empty: the reply.
std::string_view garbage_reply();

}  // namespace chanas
