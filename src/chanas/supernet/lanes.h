#pragma once
// What the kernels share: vectors of 16 floats, activations of them, and functions built once per
// instruction set. Only for kernels*.cpp, which are compiled with the options these need.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "chanas/arch/network.h"
#include "chanas/base/status.h"

// One build of a function for every instruction set; the loader picks. OpenMP's outlined functions
// are not cloned, so a parallel loop calls a function of this kind.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CHANAS_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define CHANAS_CLONES
#endif
#define CHANAS_INLINE inline __attribute__((always_inline))

namespace chanas {

inline constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));
typedef float HalfLanes __attribute__((vector_size(kLanes / 2 * sizeof(float)), aligned(4)));

// Sums are taken over this many groups and then over groups in order, so that they do not depend on
// the number of threads.
inline constexpr int kGroups = 16;

CHANAS_INLINE Lanes load(const float* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
CHANAS_INLINE void store(float* to, Lanes v) { std::memcpy(to, &v, sizeof v); }

// The first `lanes` only; the others are 0. Channel counts are multiples of 8: those are quick, as
// half a vector is never put together in memory.
CHANAS_INLINE Lanes load(const float* from, int lanes) {
  if (lanes == kLanes) return load(from);
  if (lanes == kLanes / 2) {
    HalfLanes half;
    std::memcpy(&half, from, sizeof half);
    return __builtin_shufflevector(half, HalfLanes{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                                   14, 15);
  }
  Lanes v = {};
  std::memcpy(&v, from, static_cast<size_t>(lanes) * sizeof(float));
  return v;
}
CHANAS_INLINE void store(float* to, Lanes v, int lanes) {
  if (lanes == kLanes) {
    store(to, v);
  } else if (lanes == kLanes / 2) {
    const HalfLanes half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    std::memcpy(to, &half, sizeof half);
  } else {
    std::memcpy(to, &v, static_cast<size_t>(lanes) * sizeof(float));
  }
}

template <Activation kAct>
CHANAS_INLINE Lanes activate(Lanes z) {
  const Lanes zero = {}, six = zero + 6;
  if constexpr (kAct == Activation::kRelu) return z > zero ? z : zero;
  if constexpr (kAct == Activation::kRelu6) {
    z = z > zero ? z : zero;
    return z < six ? z : six;
  }
  if constexpr (kAct == Activation::kHSwish) {
    Lanes g = z + 3;
    g = g > zero ? g : zero;
    g = g < six ? g : six;
    return z * g * (1.0f / 6);
  }
  return z;
}

// dz of dy; at the corners as LibTorch has it.
template <Activation kAct>
CHANAS_INLINE Lanes activate_backward(Lanes z, Lanes dy) {
  const Lanes zero = {}, six = zero + 6, three = zero + 3;
  if constexpr (kAct == Activation::kRelu) return z > zero ? dy : zero;
  if constexpr (kAct == Activation::kRelu6) {
    return z > zero ? (z < six ? dy : zero) : zero;
  }
  if constexpr (kAct == Activation::kHSwish) {
    const Lanes middle = dy * (z * (1.0f / 3) + 0.5f);
    return z <= -three ? zero : (z < three ? middle : dy);
  }
  return dy;
}

template <typename F>
CHANAS_INLINE void with_activation(Activation act, const F& f) {
  switch (act) {
    case Activation::kRelu:
      return f(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kRelu6:
      return f(std::integral_constant<Activation, Activation::kRelu6>());
    case Activation::kHSwish:
      return f(std::integral_constant<Activation, Activation::kHSwish>());
    default:
      CHANAS_CHECK(act == Activation::kNone);
      return f(std::integral_constant<Activation, Activation::kNone>());
  }
}

}  // namespace chanas
