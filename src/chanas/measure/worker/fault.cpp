#include "chanas/measure/worker/fault.h"

#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "chanas/graph/workload.h"

namespace chanas {
namespace {

std::string active;  // kind of the fault of this request; requests are served one by one

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    size_t colon = text.find(':');
    parts.emplace_back(text.substr(0, colon));
    if (colon == text.npos) return parts;
    text.remove_prefix(colon + 1);
  }
}

bool concerns(const std::vector<std::string>& fault, const Json& request) {
  std::string wanted = fault.size() > 1 ? fault[1] : "build";
  const std::string op = request.value("op", "");
  if (fault[0] == "late" && op == "canary") return true;
  if (op != wanted) return false;
  if (fault.size() < 3) return true;
  StatusOr<Workload> workload = workload_from_json(request.value("workload", Json()));
  return workload.ok() && workload->fingerprint() == fault[2];
}

// Addresses only: without a limit this harms nobody.
[[noreturn]] void eat_memory() {
  for (int i = 0; i < 256; ++i) {
    auto* eaten = new char[size_t{64} << 20];
    asm volatile("" : : "r"(eaten) : "memory");  // the allocation stays
  }
  std::abort();
}

}  // namespace

void inject_fault(const Json& request) {
  active.clear();
  const char* variable = std::getenv("CHANAS_KERNEL_FAULT");
  if (!variable) return;
  std::vector<std::string> fault = split(variable);
  if (!concerns(fault, request)) return;
  active = fault[0];
  if (active == "crash") ::raise(SIGSEGV);
  static int calls = 0;
  if (active == "late" && request.value("op", "") == "run" && ++calls == 4) ::raise(SIGSEGV);
  if (active == "hang") {
    for (;;) ::pause();
  }
  if (active == "memory") eat_memory();
  static std::vector<std::string> leaked;
  if (active == "leak") leaked.emplace_back(size_t{32} << 20, '.');
}

void disturb_output(float* output) {
  if (active == "wrong") output[0] += 1000;
}

double disturb_canary(double us) {
  static int calls = 0;
  ++calls;
  // The same every time but for the fault: tests do not depend on the machine.
  if (active == "jolt") return calls == 2 ? 200 : 100;
  if (active == "neighbour") return calls == 3 || calls == 6 || calls == 8 ? 200 : 100;
  if (active == "drift") return 100 * std::pow(0.8, calls);
  return active == "steady" || active == "late" ? 100 : us;
}

std::string_view garbage_reply() { return active == "garbage" ? "\x01\x02 garbage" : ""; }

}  // namespace chanas
