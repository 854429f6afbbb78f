#pragma once
// Internal to tune: Gaussian-process regression over schedules of several workloads of one kind.
//
//   k = S (l^2 + s^2 F) + noise^2 [same point]
//   S = rho M(shapes) + (1 - rho) [same workload]         what one workload says about another
//   F = M(ordinals) exp(-sum of h_c over categories that differ)
//
// M is the Matern-5/2 kernel with a length scale per column. l is how much workloads differ in
// level, s how much schedules matter.

#include <Eigen/Dense>
#include <functional>

namespace chanas::internal {

// One row per point. Ordinals and shapes in octaves or like units.
struct GpPoints {
  Eigen::VectorXi workload;  // any numbers that tell workloads apart
  Eigen::MatrixXd shape;     // equal rows for equal workloads
  Eigen::MatrixXd ordinal;
  Eigen::MatrixXi category;

  Eigen::Index count() const { return workload.size(); }
};
// The points of `a`, then those of `b`; equal columns.
GpPoints append(const GpPoints& a, const GpPoints& b);

// Logarithms of positive numbers, and the logit of rho; in this order: l, s, noise, rho, length
// scales of the shape, of the ordinals, weights h of the categories.
using GpParameters = Eigen::VectorXd;

// What is known before any measurement: log-normal, independent. Evidence alone would fit noise
// from ten points.
struct GpPrior {
  GpParameters mean, deviation;
};
GpPrior gp_prior(Eigen::Index shapes, Eigen::Index ordinals, Eigen::Index categories);

// Covariance of a's points with b's, without noise.
Eigen::MatrixXd covariance(const GpPoints& a, const GpPoints& b, const GpParameters& parameters);

// log p(values | parameters) + log p(parameters), up to a constant, the mean taken off the values;
// and its gradient when asked for. -inf when the covariance is not positive definite.
double log_posterior(const GpPoints& points, const Eigen::VectorXd& values, const GpPrior& prior,
                     const GpParameters& parameters, GpParameters* gradient);
// The maximum found by Rprop from the prior's mean; deterministic.
GpParameters fit_parameters(const GpPoints& points, const Eigen::VectorXd& values,
                            const GpPrior& prior, int iterations);

struct GpPrediction {
  Eigen::VectorXd mean, deviation;  // of the value without noise
};

class GaussianProcess {
 public:
  // At least one point.
  GaussianProcess(GpPoints points, const Eigen::VectorXd& values, GpParameters parameters);
  GpPrediction predict(const GpPoints& points) const;
  double noise() const;

 private:
  GpPoints points_;
  GpParameters parameters_;
  double mean_ = 0;
  Eigen::LLT<Eigen::MatrixXd> factor_;
  Eigen::VectorXd weights_;
};

// How far a normal variable is expected to fall below `best`, counting nothing above it.
double expected_improvement(double best, double mean, double deviation);

}  // namespace chanas::internal
