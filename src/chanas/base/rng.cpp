#include "chanas/base/rng.h"

#include <cmath>

#include "chanas/base/status.h"

namespace chanas {
namespace {

uint64_t rotate_left(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

// The finalizer of splitmix64: a bijection, so that different inputs give different outputs.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t splitmix64(uint64_t& x) { return mix(x += 0x9e3779b97f4a7c15u); }

// Any seed gives a good state: the outputs of splitmix64 are never four zeros in a row.
std::array<uint64_t, 4> expand(uint64_t seed) {
  std::array<uint64_t, 4> state;
  for (uint64_t& word : state) word = splitmix64(seed);
  return state;
}

uint64_t fnv1a64(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// Natural logarithm of a positive normal number, within about 1 ulp. The C library's differs in the
// last bit between versions and machines, which would make normal() differ, too.
double portable_log(double x) {
  int exponent;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < 0.70710678118654752440) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);
  const double s2 = s * s;
  double series = 0;
  for (int k = 21; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return 2 * s * series + exponent * 0.69314718055994530942;
}

template <size_t N>
double polynomial(const double (&coefficients)[N], double x) {
  double sum = 0;
  for (size_t i = N; i-- > 0;) sum = sum * x + coefficients[i];
  return sum;
}

// Inverse of the normal distribution function, 0 < p < 1. Wichura, Algorithm AS 241: "The
// percentage points of the normal distribution", Applied Statistics 37 (1988); about 1e-16. Needs
// only correctly rounded operations besides the logarithm.
double normal_quantile(double p) {
  static constexpr double kA[] = {3.3871328727963666080e+0, 1.3314166789178437745e+2,
                                  1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                  4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                  3.3430575583588128105e+4, 2.5090809287301226727e+3};
  static constexpr double kB[] = {1.0,
                                  4.2313330701600911252e+1,
                                  6.8718700749205790830e+2,
                                  5.3941960214247511077e+3,
                                  2.1213794301586595867e+4,
                                  3.9307895800092710610e+4,
                                  2.8729085735721942674e+4,
                                  5.2264952788528545610e+3};
  static constexpr double kC[] = {1.42343711074968357734e+0, 4.63033784615654529590e+0,
                                  5.76949722146069140550e+0, 3.64784832476320460504e+0,
                                  1.27045825245236838258e+0, 2.41780725177450611770e-1,
                                  2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static constexpr double kD[] = {1.0,
                                  2.05319162663775882187e+0,
                                  1.67638483018380384940e+0,
                                  6.89767334985100004550e-1,
                                  1.48103976427480074590e-1,
                                  1.51986665636164571966e-2,
                                  5.47593808499534494600e-4,
                                  1.05075007164441684324e-9};
  static constexpr double kE[] = {6.65790464350110377720e+0, 5.46378491116411436990e+0,
                                  1.78482653991729133580e+0, 2.96560571828504891230e-1,
                                  2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                  2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static constexpr double kF[] = {1.0,
                                  5.99832206555887937690e-1,
                                  1.36929880922735805310e-1,
                                  1.48753612908506148525e-2,
                                  7.86869131145613259100e-4,
                                  1.84631831751005468180e-5,
                                  1.42151175831644588870e-7,
                                  2.04426310338993978564e-15};
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(kA, r) / polynomial(kB, r);
  }
  const double r = std::sqrt(-portable_log(q < 0 ? p : 1 - p));
  const double x = r <= 5 ? polynomial(kC, r - 1.6) / polynomial(kD, r - 1.6)
                          : polynomial(kE, r - 5) / polynomial(kF, r - 5);
  return q < 0 ? -x : x;
}

}  // namespace

Rng::Rng(uint64_t seed) : state_(expand(seed)) {}

Rng::Rng(uint64_t seed, std::string_view name, uint64_t index)
    : state_(expand(mix(mix(mix(seed + 1) ^ fnv1a64(name)) + index))) {}

void Rng::set_state(const std::array<uint64_t, 4>& state) {
  CHANAS_CHECK((state[0] | state[1] | state[2] | state[3]) != 0);
  state_ = state;
}

uint64_t Rng::next() {
  const uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = rotate_left(state_[3], 45);
  return result;
}

// Lemire, "Fast random integer generation in an interval" (2019): without bias, and almost always
// without a division.
uint64_t Rng::uniform(uint64_t n) {
  CHANAS_CHECK(n > 0);
  using Wide = unsigned __int128;
  Wide product = static_cast<Wide>(next()) * n;
  if (static_cast<uint64_t>(product) < n) {
    const uint64_t threshold = -n % n;
    while (static_cast<uint64_t>(product) < threshold) product = static_cast<Wide>(next()) * n;
  }
  return static_cast<uint64_t>(product >> 64);
}

int64_t Rng::uniform_int(int64_t low, int64_t high) {
  CHANAS_CHECK(low <= high);
  // Unsigned: the span of all 64-bit integers does not fit, and wraps to 0.
  const uint64_t count = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) + 1;
  const uint64_t offset = count == 0 ? next() : uniform(count);
  return static_cast<int64_t>(static_cast<uint64_t>(low) + offset);
}

double Rng::uniform01() { return static_cast<double>(next() >> 11) * 0x1p-53; }

double Rng::normal() {
  // The middle of one of 2^52 equal cells: never 0 or 1, and symmetric.
  return normal_quantile((static_cast<double>(next() >> 12) + 0.5) * 0x1p-52);
}

}  // namespace chanas
