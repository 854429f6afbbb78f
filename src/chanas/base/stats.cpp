#include "chanas/base/stats.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "chanas/base/status.h"

namespace chanas {
namespace {

// Compared directly: the variance of equal values need not come out as exactly 0.
bool is_constant(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; });
}

bool has_no_correlation(std::span<const double> a, std::span<const double> b) {
  CHANAS_CHECK(a.size() == b.size()) << a.size() << " against " << b.size() << " values";
  return a.size() < 2 || is_constant(a) || is_constant(b);
}

// Ranks from 1; equal values share the mean of their ranks.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return values[i] < values[j]; });
  std::vector<double> result(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) {
      result[order[i]] = static_cast<double>(begin + 1 + end) / 2;
    }
    begin = end;
  }
  return result;
}

int sign(double x) { return (x > 0) - (x < 0); }

}  // namespace

double percentile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const double position = std::clamp(q, 0.0, 1.0) * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const auto lower = values.begin() + static_cast<std::ptrdiff_t>(below);
  std::nth_element(values.begin(), lower, values.end());
  if (below + 1 == values.size()) return *lower;
  const double upper = *std::min_element(lower + 1, values.end());
  const double fraction = position - static_cast<double>(below);
  // No arithmetic between equal or infinite neighbours, which could give NaN.
  return fraction == 0 || upper == *lower ? *lower : *lower + fraction * (upper - *lower);
}

double mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double kendall_tau_b(std::span<const double> a, std::span<const double> b) {
  if (has_no_correlation(a, b)) return 0;
  int64_t concordance = 0, untied_a = 0, untied_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const int in_a = sign(a[i] - a[j]), in_b = sign(b[i] - b[j]);
      concordance += in_a * in_b;
      untied_a += in_a != 0;
      untied_b += in_b != 0;
    }
  }
  return static_cast<double>(concordance) /
         (std::sqrt(static_cast<double>(untied_a)) * std::sqrt(static_cast<double>(untied_b)));
}

double spearman(std::span<const double> a, std::span<const double> b) {
  if (has_no_correlation(a, b)) return 0;
  return pearson(ranks(a), ranks(b));
}

double pearson(std::span<const double> a, std::span<const double> b) {
  if (has_no_correlation(a, b)) return 0;
  const double mean_a = mean(a), mean_b = mean(b);
  double aa = 0, bb = 0, ab = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double da = a[i] - mean_a, db = b[i] - mean_b;
    aa += da * da;
    bb += db * db;
    ab += da * db;
  }
  const double scale = std::sqrt(aa) * std::sqrt(bb);
  return scale > 0 ? std::clamp(ab / scale, -1.0, 1.0) : 0;
}

double mean_absolute_percentage_error(std::span<const double> predicted,
                                      std::span<const double> measured) {
  CHANAS_CHECK(predicted.size() == measured.size());
  if (measured.empty()) return 0;
  double sum = 0;
  for (size_t i = 0; i < measured.size(); ++i) {
    sum += std::fabs(predicted[i] - measured[i]) / measured[i];
  }
  return sum / static_cast<double>(measured.size());
}

double hit_rate(std::span<const double> predicted, std::span<const double> measured,
                double tolerance) {
  CHANAS_CHECK(predicted.size() == measured.size());
  if (measured.empty()) return 0;
  size_t hits = 0;
  for (size_t i = 0; i < measured.size(); ++i) {
    hits += std::fabs(predicted[i] - measured[i]) <= tolerance * measured[i];
  }
  return static_cast<double>(hits) / static_cast<double>(measured.size());
}

}  // namespace chanas
