#include "chanas/tune/gaussian_process.h"

#include <gtest/gtest.h>

#include <cmath>

#include "chanas/base/rng.h"

namespace chanas::internal {
namespace {

// Random points of three workloads with two shape, three ordinal and two category columns.
GpPoints random_points(int n, Rng& rng) {
  GpPoints points;
  points.workload.resize(n);
  points.shape.resize(n, 2);
  points.ordinal.resize(n, 3);
  points.category.resize(n, 2);
  for (int i = 0; i < n; ++i) {
    points.workload[i] = static_cast<int>(rng.uniform(3));
    points.shape.row(i) << 1.5 * points.workload[i], -0.7 * points.workload[i];
    for (int c = 0; c < 3; ++c) points.ordinal(i, c) = rng.uniform_real(0, 4);
    for (int c = 0; c < 2; ++c) points.category(i, c) = static_cast<int>(rng.uniform(3));
  }
  return points;
}

// l = 1, s = 2, noise = 0.5, rho = 0.75, all lengths 2, both h 0.4.
GpParameters parameters() {
  GpParameters p(4 + 2 + 3 + 2);
  p.head(4) << 0, std::log(2), std::log(0.5), std::log(3);
  p.segment(4, 5).setConstant(std::log(2));
  p.tail(2).setConstant(std::log(0.4));
  return p;
}

TEST(GaussianProcess, CovarianceByHand) {
  Rng rng(1);
  GpPoints a = random_points(1, rng);
  a.workload[0] = 0;
  GpPoints b = a;
  b.ordinal(0, 1) += 2;  // one length
  b.category(0, 0) += 1;
  const double root5 = std::sqrt(5.0);
  const double matern = (1 + root5 + 5.0 / 3) * std::exp(-root5);
  EXPECT_NEAR(covariance(a, a, parameters())(0, 0), 1 + 4, 1e-12);
  EXPECT_NEAR(covariance(a, b, parameters())(0, 0), 1 + 4 * matern * std::exp(-0.4), 1e-12);
  b.workload[0] = 1;  // of equal shape
  EXPECT_NEAR(covariance(a, b, parameters())(0, 0), 0.75 * (1 + 4 * matern * std::exp(-0.4)),
              1e-12);
  b.shape(0, 1) -= 2;
  EXPECT_NEAR(covariance(a, b, parameters())(0, 0),
              0.75 * matern * (1 + 4 * matern * std::exp(-0.4)), 1e-12);
}

TEST(GaussianProcess, PosteriorOfTwoPointsByHand) {
  Rng rng(2);
  GpPoints points = random_points(2, rng);
  points.workload << 0, 0;
  points.shape.row(1) = points.shape.row(0);
  const Eigen::Vector2d values(1, 4);
  const double k = 5, c = covariance(points, points, parameters())(0, 1), d = k + 0.25;
  const GaussianProcess model(points, values, parameters());
  const GpPrediction prediction = model.predict(points);
  // Inverse of [[d, c], [c, d]] applied to (-1.5, 1.5) is (-1.5, 1.5) / (d - c).
  EXPECT_NEAR(prediction.mean[0], 2.5 - 1.5 * (k - c) / (d - c), 1e-6);
  EXPECT_NEAR(prediction.mean[1], 2.5 + 1.5 * (k - c) / (d - c), 1e-6);
  const double variance = k - (d * (k * k + c * c) - 2 * c * k * c) / (d * d - c * c);
  EXPECT_NEAR(prediction.deviation[0], std::sqrt(variance), 1e-6);
}

TEST(GaussianProcess, PassesThroughDataWithoutNoiseAndReturnsToTheMeanFarAway) {
  Rng rng(3);
  const GpPoints points = random_points(12, rng);
  Eigen::VectorXd values(12);
  for (int i = 0; i < 12; ++i) values[i] = rng.normal();
  GpParameters exact = parameters();
  exact[2] = std::log(1e-4);
  const GaussianProcess model(points, values, exact);
  const GpPrediction at = model.predict(points);
  for (int i = 0; i < 12; ++i) {
    EXPECT_NEAR(at.mean[i], values[i], 1e-5);
    EXPECT_LT(at.deviation[i], 1e-3);
  }
  GpPoints far = points;
  far.shape.array() += 1000;
  far.workload.array() += 10;
  const GpPrediction there = model.predict(far);
  EXPECT_NEAR(there.mean[0], values.mean(), 1e-9);
  EXPECT_NEAR(there.deviation[0], std::sqrt(5), 1e-9);
}

TEST(GaussianProcess, EvidenceOfOnePointByHand) {
  Rng rng(4);
  const GpPoints points = random_points(1, rng);
  GpPrior prior = gp_prior(2, 3, 2);
  const Eigen::VectorXd value = Eigen::VectorXd::Constant(1, 3);
  // One value is its own mean: -1/2 log(2 pi (k + noise^2)), and the prior.
  const Eigen::ArrayXd z = (parameters() - prior.mean).array() / prior.deviation.array();
  EXPECT_NEAR(log_posterior(points, value, prior, parameters(), nullptr),
              -0.5 * std::log(2 * M_PI * 5.25) - 0.5 * z.square().sum(), 1e-6);
}

TEST(GaussianProcess, GradientOfTheEvidence) {
  Rng rng(5);
  const GpPoints points = random_points(25, rng);
  Eigen::VectorXd values(25);
  for (int i = 0; i < 25; ++i) values[i] = rng.normal();
  const GpPrior prior = gp_prior(2, 3, 2);
  for (int repeat = 0; repeat < 3; ++repeat) {
    GpParameters at = prior.mean;
    for (Eigen::Index i = 0; i < at.size(); ++i) at[i] += 0.5 * rng.normal();
    GpParameters gradient;
    log_posterior(points, values, prior, at, &gradient);
    for (Eigen::Index i = 0; i < at.size(); ++i) {
      constexpr double kStep = 1e-5;
      GpParameters up = at, down = at;
      up[i] += kStep;
      down[i] -= kStep;
      const double difference = (log_posterior(points, values, prior, up, nullptr) -
                                 log_posterior(points, values, prior, down, nullptr)) /
                                (2 * kStep);
      EXPECT_NEAR(gradient[i], difference, 1e-4 * (1 + std::abs(difference))) << i;
    }
  }
}

TEST(GaussianProcess, FindsTheColumnsThatMatter) {
  Rng rng(6);
  const GpPoints points = random_points(80, rng);
  Eigen::VectorXd values(80);
  for (int i = 0; i < 80; ++i) {
    values[i] = std::sin(2 * points.ordinal(i, 1)) + (points.category(i, 0) == 1 ? 0.5 : 0.0) +
                0.02 * rng.normal();
  }
  const GpPrior prior = gp_prior(2, 3, 2);
  const GpParameters fitted = fit_parameters(points, values, prior, 60);
  EXPECT_GT(log_posterior(points, values, prior, fitted, nullptr),
            log_posterior(points, values, prior, prior.mean, nullptr));
  EXPECT_LT(fitted[7] + 0.5, fitted[6]);  // the sine's column is the shortest
  EXPECT_LT(fitted[7] + 0.5, fitted[8]);
  EXPECT_GT(fitted[9], fitted[10] + 0.5);  // the category that matters
  // And predicts what it has not seen.
  const GpPoints others = random_points(40, rng);
  const GpPrediction prediction = GaussianProcess(points, values, fitted).predict(others);
  double error = 0, spread = 0;
  for (int i = 0; i < 40; ++i) {
    const double truth =
        std::sin(2 * others.ordinal(i, 1)) + (others.category(i, 0) == 1 ? 0.5 : 0.0);
    error += std::pow(prediction.mean[i] - truth, 2);
    spread += std::pow(truth - values.mean(), 2);
  }
  EXPECT_LT(error, 0.1 * spread);
}

TEST(GaussianProcess, ExpectedImprovement) {
  EXPECT_NEAR(expected_improvement(0, 0, 1), 0.3989422804, 1e-9);
  EXPECT_NEAR(expected_improvement(1, 0, 1), 1.0833154706, 1e-9);
  EXPECT_NEAR(expected_improvement(5, 2, 1e-9), 3, 1e-9);
  EXPECT_EQ(expected_improvement(2, 5, 0), 0);
  EXPECT_EQ(expected_improvement(5, 2, 0), 3);
}

}  // namespace
}  // namespace chanas::internal
