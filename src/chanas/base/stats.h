#pragma once
// Order statistics and rank correlations of small samples.

#include <span>
#include <utility>
#include <vector>

namespace chanas {

// Linear-interpolated percentile, q in [0, 1]; 0 for an empty sample.
double percentile(std::vector<double> values, double q);
inline double median(std::vector<double> values) { return percentile(std::move(values), 0.5); }
// 0 for an empty sample.
double mean(std::span<const double> values);

// Both need a.size() == b.size(); 0 when a side is constant or shorter than 2.
double kendall_tau_b(std::span<const double> a, std::span<const double> b);
double spearman(std::span<const double> a, std::span<const double> b);
double pearson(std::span<const double> a, std::span<const double> b);

// mean |predicted - measured| / measured; measured > 0. 0 for an empty sample.
double mean_absolute_percentage_error(std::span<const double> predicted,
                                      std::span<const double> measured);
// Share of samples with |predicted - measured| <= tolerance * measured. 0 for an empty sample.
double hit_rate(std::span<const double> predicted, std::span<const double> measured,
                double tolerance);

}  // namespace chanas
