#include "chanas/target/target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <nlohmann/json.hpp>

#include "chanas/target/cpuinfo.h"

namespace chanas {
namespace {

using testing::HasSubstr;

std::string x86_text(const std::string& vendor, int family, int model, const std::string& flags) {
  return "processor\t: 0\nvendor_id\t: " + vendor + "\ncpu family\t: " + std::to_string(family) +
         "\nmodel\t\t: " + std::to_string(model) +
         "\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 " + flags +
         "\nbugs\t\t: avx512f\n\nprocessor\t: 1\nflags\t\t: fpu\n";
}

const std::string kAvx2Flags = "sse4_1 fma avx f16c avx2";
const std::string kSkylakeFlags = kAvx2Flags + " avx512f avx512dq avx512cd avx512bw avx512vl";
const std::string kZen4Flags = kSkylakeFlags + " avx512ifma avx512_bf16";

struct Case {
  const char* vendor;
  int family, model;
  std::string flags, triple;
  int vector_floats, vector_registers;
};

// What Halide 21 prints for these CPUs.
TEST(CpuInfo, NamesX86) {
  const Case cases[] = {
      {"GenuineIntel", 6, 23, "sse4_1", "x86-64-linux-sse41", 4, 16},
      {"GenuineIntel", 6, 58, "sse4_1 avx f16c", "x86-64-linux-avx-f16c-sse41", 8, 16},
      {"GenuineIntel", 6, 94, kAvx2Flags, "x86-64-linux-avx-avx2-f16c-fma-sse41", 8, 16},
      {"GenuineIntel", 6, 85, kSkylakeFlags,
       "x86-64-linux-avx-avx2-avx512-avx512_skylake-f16c-fma-sse41", 16, 32},
      {"GenuineIntel", 6, 106, kSkylakeFlags + " avx512ifma",
       "x86-64-linux-avx-avx2-avx512-avx512_cannonlake-avx512_skylake-f16c-fma-sse41", 16, 32},
      {"GenuineIntel", 6, 143, kSkylakeFlags + " avx512ifma avx_vnni avx512_bf16",
       "x86-64-linux-avx-avx2-avx512-avx512_cannonlake-avx512_sapphirerapids-avx512_skylake-"
       "avxvnni-"
       "f16c-fma-sse41",
       16, 32},
      {"AuthenticAMD", 0x17, 0x01, kAvx2Flags, "x86-64-linux-tune_znver1-avx-avx2-f16c-fma-sse41",
       8, 16},
      {"AuthenticAMD", 0x17, 0x31, kAvx2Flags, "x86-64-linux-tune_znver2-avx-avx2-f16c-fma-sse41",
       8, 16},
      {"AuthenticAMD", 0x19, 0x01, kAvx2Flags, "x86-64-linux-tune_znver3-avx-avx2-f16c-fma-sse41",
       8, 16},
      {"AuthenticAMD", 0x19, 0x11, kZen4Flags,
       "x86-64-linux-tune_znver4-avx-avx2-avx512-avx512_cannonlake-avx512_skylake-avx512_zen4-f16c-"
       "fma-sse41",
       16, 32},
      {"AuthenticAMD", 0x1a, 0x02, kZen4Flags + " avx_vnni",
       "x86-64-linux-tune_znver5-avx-avx2-avx512-avx512_cannonlake-avx512_skylake-avx512_zen4-"
       "avx512_zen5-avxvnni-f16c-fma-sse41",
       16, 32},
  };
  for (const Case& c : cases) {
    auto facts = parse_cpuinfo(x86_text(c.vendor, c.family, c.model, c.flags), "x86_64");
    ASSERT_TRUE(facts.ok()) << facts.status();
    EXPECT_EQ(facts->triple, c.triple);
    EXPECT_EQ(facts->vector_floats, c.vector_floats) << c.triple;
    EXPECT_EQ(facts->vector_registers, c.vector_registers) << c.triple;
    EXPECT_EQ(facts->model, "Some CPU");
  }
}

TEST(CpuInfo, ClaimsNothingThatTheSystemHides) {
  // A Zen 5 whose hypervisor switches AVX-512 off.
  auto facts = parse_cpuinfo(x86_text("AuthenticAMD", 0x1a, 2, kAvx2Flags), "x86_64");
  ASSERT_TRUE(facts.ok());
  EXPECT_EQ(facts->triple, "x86-64-linux-tune_znver5-avx-avx2-f16c-fma-sse41");
  EXPECT_EQ(facts->vector_floats, 8);
}

TEST(CpuInfo, NamesArm) {
  auto facts = parse_cpuinfo(
      "processor\t: 0\nFeatures\t: fp asimd aes fphp asimdhp cpuid asimdrdm asimddp\n"
      "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n",
      "aarch64");
  ASSERT_TRUE(facts.ok());
  EXPECT_EQ(facts->triple, "arm-64-linux-arm_dot_prod-arm_fp16");
  EXPECT_EQ(facts->model, "ARM implementer 0x41 part 0xd0c");
  EXPECT_EQ(facts->vector_floats, 4);
  EXPECT_EQ(facts->vector_registers, 32);
}

TEST(CpuInfo, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(parse_cpuinfo("", "riscv64").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(parse_cpuinfo("", "x86_64").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(parse_cpuinfo("flags", "x86_64").status().code(), absl::StatusCode::kDataLoss);
}

TEST(Target, LocalFitsThisMachine) {
  auto target = local_target();
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_FALSE(target->simulated);
  EXPECT_GE(target->l2_bytes, target->l1_bytes);
  EXPECT_THAT(target->triple, HasSubstr("-linux"));
#if defined(__x86_64__)
  // The compiler's own check of cpuid is the judge.
  EXPECT_EQ(target->vector_floats, __builtin_cpu_supports("avx512f") ? 16
                                   : __builtin_cpu_supports("avx")   ? 8
                                                                     : 4);
  EXPECT_EQ(target->triple.find("-avx2") != std::string::npos, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(target->triple.find("-fma") != std::string::npos, __builtin_cpu_supports("fma") != 0);
#endif
}

TEST(Target, CoresAreThoseThatMayBeUsed) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(local_target()->cores, CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(local_target()->cores, 1);
  sched_setaffinity(0, sizeof before, &before);
}

TEST(Target, FingerprintIsOfTheKindOfCpu) {
  Target a = simulated_target(), b = a;
  b.cores = 64;
  b.name = "another";
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  for (auto change : {+[](Target& t) { t.cpu += "x"; }, +[](Target& t) { t.triple += "x"; },
                      +[](Target& t) { t.simulated = !t.simulated; }}) {
    Target c = a;
    change(c);
    EXPECT_NE(a.fingerprint(), c.fingerprint());
  }
  EXPECT_EQ(a.fingerprint().size(), 16u);
  EXPECT_NE(local_target()->fingerprint(), a.fingerprint());
}

TEST(Target, JsonThereAndBack) {
  Target target = *local_target();
  auto back = target_from_json(to_json(target));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(to_json(*back), to_json(target));
  EXPECT_EQ(back->fingerprint(), target.fingerprint());
}

TEST(Target, JsonIsStrict) {
  auto error = [](auto change) {
    Json json = to_json(simulated_target());
    change(json);
    Status status = target_from_json(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(message(status));
  };
  EXPECT_THAT(error([](Json& j) { j = 3; }), HasSubstr("expected an object"));
  EXPECT_THAT(error([](Json& j) { j.erase("cpu"); }), HasSubstr("\"cpu\" is missing"));
  EXPECT_THAT(error([](Json& j) { j["cpu"] = 1; }), HasSubstr("\"cpu\" is 1, expected a string"));
  EXPECT_THAT(error([](Json& j) { j["cores"] = 1.5; }), HasSubstr("expected a number"));
  EXPECT_THAT(error([](Json& j) { j["cores"] = 0; }), HasSubstr("expected 1 to 4096"));
  EXPECT_THAT(error([](Json& j) { j["l1_bytes"] = -1; }), HasSubstr("\"l1_bytes\" is -1"));
  EXPECT_THAT(error([](Json& j) { j["core"] = 1; }), HasSubstr("nearest is \"cores\""));
}

}  // namespace
}  // namespace chanas
