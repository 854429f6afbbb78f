#include "chanas/target/cpuinfo.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <vector>

namespace chanas {
namespace {

std::string_view trim(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The value of the first line "key : value", or "".
std::string_view field(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    size_t colon = line.find(':');
    if (colon != line.npos && trim(line.substr(0, colon)) == key)
      return trim(line.substr(colon + 1));
  }
  return {};
}

int number(std::string_view text, int otherwise) {
  int value = otherwise;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// True when all of the space-separated `wanted` are there.
bool has(const std::set<std::string_view>& flags, std::string_view wanted) {
  while (!wanted.empty()) {
    std::string_view flag = wanted.substr(0, wanted.find(' '));
    if (!flags.contains(flag)) return false;
    wanted.remove_prefix(std::min(wanted.size(), flag.size() + 1));
  }
  return true;
}

std::set<std::string_view> words(std::string_view text) {
  std::set<std::string_view> result;
  while (!(text = trim(text)).empty()) {
    std::string_view word = text.substr(0, text.find(' '));
    result.insert(word);
    text.remove_prefix(word.size());
  }
  return result;
}

// Halide tunes its code for these AMD generations; others, and Intel's, are generic to it.
std::string amd_generation(int family, int model) {
  auto between = [model](int low, int high) { return low <= model && model <= high; };
  if (family == 0x17) {
    if (between(0x30, 0x3f) || model == 0x71) return "znver2";
    if (model <= 0x0f) return "znver1";
  } else if (family == 0x19) {
    if (model <= 0x0f || between(0x20, 0x5f)) return "znver3";
    if (between(0x10, 0x1f) || between(0x60, 0x7f) || between(0xa0, 0xaf)) return "znver4";
  } else if (family == 0x1a) {
    return "znver5";
  }
  return "";
}

struct Feature {
  std::string_view halide;  // name in a Halide target
  std::string_view linux;   // names in /proc/cpuinfo, all needed
};
constexpr std::string_view kAvx512 = "avx512f avx512cd";
constexpr std::string_view kSkylake = "avx512f avx512cd avx512vl avx512bw avx512dq";
constexpr std::string_view kCannonlake = "avx512f avx512cd avx512vl avx512bw avx512dq avx512ifma";

CpuFacts x86(std::string_view text) {
  const std::set<std::string_view> flags = words(field(text, "flags"));
  // In the order of the names, as Halide prints them.
  std::vector<Feature> features = {{"avx", "avx"},
                                   {"avx2", "avx avx2 f16c"},
                                   {"avx512", kAvx512},
                                   {"avx512_cannonlake", kCannonlake},
                                   {"avx512_skylake", kSkylake},
                                   {"f16c", "f16c"},
                                   {"fma", "fma"},
                                   {"sse41", "sse4_1"}};
  std::string generation;
  if (field(text, "vendor_id") == "AuthenticAMD") {
    generation =
        amd_generation(number(field(text, "cpu family"), 0), number(field(text, "model"), 0));
    if (generation == "znver4" || generation == "znver5")
      features.push_back({"avx512_zen4", kCannonlake});
    if (generation == "znver5") {
      features.push_back({"avx512_zen5", kCannonlake});
      features.push_back({"avxvnni", "avx_vnni"});
    }
  } else if (has(flags, kCannonlake)) {
    features.push_back({"avxvnni", "avx_vnni"});
    features.push_back({"avx512_sapphirerapids", "avx_vnni avx512_bf16"});
  }
  std::sort(features.begin(), features.end(), [](auto& a, auto& b) { return a.halide < b.halide; });

  CpuFacts facts;
  facts.model = field(text, "model name");
  facts.triple = "x86-64-linux";
  if (!generation.empty()) facts.triple += "-tune_" + generation;
  for (const Feature& feature : features) {
    if (has(flags, feature.linux)) facts.triple += fmt::format("-{}", feature.halide);
  }
  bool avx512 = has(flags, kAvx512), avx2 = has(flags, "avx2"), avx = has(flags, "avx");
  facts.vector_floats = avx512 ? 16 : avx ? 8 : 4;
  facts.vector_registers = avx512 ? 32 : 16;
  facts.instructions = avx512 ? "AVX-512" : avx2 ? "AVX2" : avx ? "AVX" : "SSE";
  return facts;
}

CpuFacts arm(std::string_view text) {
  const std::set<std::string_view> flags = words(field(text, "Features"));
  constexpr Feature kFeatures[] = {
      {"arm_dot_prod", "asimddp"}, {"arm_fp16", "asimdhp"}, {"sve", "sve"}, {"sve2", "sve2"}};
  CpuFacts facts;
  facts.model = field(text, "model name");
  if (facts.model.empty()) {
    facts.model = fmt::format("ARM implementer {} part {}", field(text, "CPU implementer"),
                              field(text, "CPU part"));
  }
  facts.triple = "arm-64-linux";
  for (const Feature& feature : kFeatures) {
    if (has(flags, feature.linux)) facts.triple += fmt::format("-{}", feature.halide);
  }
  facts.vector_floats = 4;
  facts.vector_registers = 32;
  facts.instructions = "NEON";
  return facts;
}

}  // namespace

StatusOr<CpuFacts> parse_cpuinfo(std::string_view text, std::string_view architecture) {
  if (architecture == "x86_64") {
    if (field(text, "flags").empty()) {
      return absl::DataLossError("/proc/cpuinfo has no line \"flags\": is /proc mounted?");
    }
    return x86(text);
  }
  if (architecture == "aarch64") return arm(text);
  return absl::UnimplementedError(
      fmt::format("this machine is \"{}\", expected x86_64 or aarch64", architecture));
}

}  // namespace chanas
