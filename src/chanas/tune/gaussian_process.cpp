#include "chanas/tune/gaussian_process.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "chanas/base/status.h"

namespace chanas::internal {
namespace {

constexpr double kSqrt5 = 2.23606797749978969;
constexpr double kJitter = 1e-8;  // relative; equal points are common

// Parameters as numbers, and where the columns of each sort begin.
struct Kernel {
  double level, schedule, noise, rho;  // the first three squared
  Eigen::ArrayXd shape, ordinal;       // 1 / length^2
  Eigen::ArrayXd category;             // h

  Kernel(const GpPoints& points, const GpParameters& p)
      : level(std::exp(2 * p[0])),
        schedule(std::exp(2 * p[1])),
        noise(std::exp(2 * p[2])),
        rho(1 / (1 + std::exp(-p[3]))) {
    const Eigen::Index s = points.shape.cols(), o = points.ordinal.cols(),
                       c = points.category.cols();
    CHANAS_CHECK(p.size() == 4 + s + o + c) << p.size();
    shape = (-2 * p.segment(4, s).array()).exp();
    ordinal = (-2 * p.segment(4 + s, o).array()).exp();
    category = p.segment(4 + s + o, c).array().exp();
  }
};

struct Matern {
  double value;
  double slope;  // d value / d log length of column k = slope * (difference_k / length_k)^2
};

Matern matern(double squared_distance) {
  const double r = std::sqrt(squared_distance), decay = std::exp(-kSqrt5 * r);
  return {(1 + kSqrt5 * r + 5.0 / 3 * squared_distance) * decay,
          5.0 / 3 * (1 + kSqrt5 * r) * decay};
}

// The kernel's factors between one point of a and one of b. Points are columns here, so that one
// point's features lie together.
struct Columns {
  Eigen::VectorXi workload;
  Eigen::MatrixXd shape, ordinal;
  Eigen::MatrixXi category;
  explicit Columns(const GpPoints& points)
      : workload(points.workload),
        shape(points.shape.transpose()),
        ordinal(points.ordinal.transpose()),
        category(points.category.transpose()) {}
};

struct Factors {
  bool same;  // workload
  Matern shape, ordinal;
  double hamming;
  double s() const { return hamming * ordinal.value; }
};

Factors factors(const Kernel& kernel, const Columns& a, Eigen::Index i, const Columns& b,
                Eigen::Index j) {
  Factors f{a.workload[i] == b.workload[j], {1, 0}, {1, 0}, 1};
  if (!f.same) {
    f.shape = matern(((a.shape.col(i) - b.shape.col(j)).array().square() * kernel.shape).sum());
  }
  f.ordinal =
      matern(((a.ordinal.col(i) - b.ordinal.col(j)).array().square() * kernel.ordinal).sum());
  double differing = 0;
  for (Eigen::Index c = 0; c < kernel.category.size(); ++c) {
    if (a.category(c, i) != b.category(c, j)) differing += kernel.category[c];
  }
  if (differing > 0) f.hamming = std::exp(-differing);
  return f;
}

double covariance(const Kernel& kernel, const Factors& f) {
  const double s = kernel.rho * f.shape.value + (f.same ? 1 - kernel.rho : 0);
  return s * (kernel.level + kernel.schedule * f.s());
}

Eigen::MatrixXd covariance(const Kernel& kernel, const GpPoints& points) {
  const Columns columns(points);
  const Eigen::Index n = points.count();
  Eigen::MatrixXd k(n, n);
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = 0; j <= i; ++j) {
      k(i, j) = k(j, i) = covariance(kernel, factors(kernel, columns, i, columns, j));
    }
    k(i, i) = kernel.level + kernel.schedule + kernel.noise + kJitter;
  }
  return k;
}

// Adds the derivative of 1/2 sum_ij w_ij k_ij for one pair, w counted with its multiplicity.
void add_gradient(const Kernel& kernel, const Columns& points, Eigen::Index i, Eigen::Index j,
                  double w, GpParameters& gradient) {
  const Factors f = factors(kernel, points, i, points, j);
  const double s = kernel.rho * f.shape.value + (f.same ? 1 - kernel.rho : 0);
  const double inner = kernel.level + kernel.schedule * f.s();
  const double half = 0.5 * w;
  gradient[0] += half * 2 * kernel.level * s;
  gradient[1] += half * 2 * kernel.schedule * s * f.s();
  gradient[3] += half * kernel.rho * (1 - kernel.rho) * (f.shape.value - (f.same ? 1 : 0)) * inner;
  const Eigen::Index shapes = kernel.shape.size(), ordinals = kernel.ordinal.size();
  if (!f.same) {
    gradient.segment(4, shapes).array() +=
        half * inner * kernel.rho * f.shape.slope *
        (points.shape.col(i) - points.shape.col(j)).array().square() * kernel.shape;
  }
  if (i == j) return;
  gradient.segment(4 + shapes, ordinals).array() +=
      half * s * kernel.schedule * f.hamming * f.ordinal.slope *
      (points.ordinal.col(i) - points.ordinal.col(j)).array().square() * kernel.ordinal;
  for (Eigen::Index c = 0; c < kernel.category.size(); ++c) {
    if (points.category(c, i) == points.category(c, j)) continue;
    gradient[4 + shapes + ordinals + c] -= half * s * kernel.schedule * f.s() * kernel.category[c];
  }
}

}  // namespace

GpPoints append(const GpPoints& a, const GpPoints& b) {
  GpPoints all;
  all.workload.resize(a.count() + b.count());
  all.workload << a.workload, b.workload;
  all.shape.resize(all.count(), a.shape.cols());
  all.shape << a.shape, b.shape;
  all.ordinal.resize(all.count(), a.ordinal.cols());
  all.ordinal << a.ordinal, b.ordinal;
  all.category.resize(all.count(), a.category.cols());
  all.category << a.category, b.category;
  return all;
}

GpPrior gp_prior(Eigen::Index shapes, Eigen::Index ordinals, Eigen::Index categories) {
  GpPrior prior;
  prior.mean.resize(4 + shapes + ordinals + categories);
  prior.deviation.resize(prior.mean.size());
  prior.mean.head(4) << std::log(0.5), std::log(0.4), std::log(0.03), 2.0;
  prior.deviation.head(4) << 0.7, 0.7, 0.5, 1.0;
  // Lengths in octaves. Many columns are of little use, hence long scales and a wide prior.
  prior.mean.segment(4, shapes).setConstant(std::log(4.0));
  prior.mean.segment(4 + shapes, ordinals).setConstant(std::log(4.0));
  prior.mean.tail(categories).setConstant(std::log(0.15));
  prior.deviation.tail(shapes + ordinals + categories).setConstant(1.0);
  return prior;
}

Eigen::MatrixXd covariance(const GpPoints& a, const GpPoints& b, const GpParameters& parameters) {
  const Kernel kernel(a, parameters);
  const Columns columns_a(a), columns_b(b);
  Eigen::MatrixXd k(a.count(), b.count());
  for (Eigen::Index j = 0; j < b.count(); ++j) {
    for (Eigen::Index i = 0; i < a.count(); ++i) {
      k(i, j) = covariance(kernel, factors(kernel, columns_a, i, columns_b, j));
    }
  }
  return k;
}

double log_posterior(const GpPoints& points, const Eigen::VectorXd& values, const GpPrior& prior,
                     const GpParameters& parameters, GpParameters* gradient) {
  const Kernel kernel(points, parameters);
  const Eigen::Index n = points.count();
  const Eigen::LLT<Eigen::MatrixXd> factor(covariance(kernel, points));
  if (factor.info() != Eigen::Success) return -std::numeric_limits<double>::infinity();
  const Eigen::VectorXd centred = values.array() - values.mean();
  const Eigen::VectorXd alpha = factor.solve(centred);
  const Eigen::ArrayXd z = (parameters - prior.mean).array() / prior.deviation.array();
  const double evidence = -0.5 * centred.dot(alpha) -
                          factor.matrixLLT().diagonal().array().log().sum() -
                          0.5 * static_cast<double>(n) * std::log(2 * std::numbers::pi);
  if (gradient != nullptr) {
    gradient->setZero(parameters.size());
    const Eigen::MatrixXd inverse = factor.solve(Eigen::MatrixXd::Identity(n, n));
    const Columns columns(points);
    for (Eigen::Index i = 0; i < n; ++i) {
      for (Eigen::Index j = 0; j <= i; ++j) {
        const double w = alpha[i] * alpha[j] - inverse(i, j);
        add_gradient(kernel, columns, i, j, i == j ? w : 2 * w, *gradient);
      }
    }
    (*gradient)[2] += (alpha.squaredNorm() - inverse.trace()) * kernel.noise;
    gradient->array() -= z / prior.deviation.array();
  }
  return evidence - 0.5 * z.square().sum();
}

GpParameters fit_parameters(const GpPoints& points, const Eigen::VectorXd& values,
                            const GpPrior& prior, int iterations) {
  constexpr double kGrow = 1.2, kShrink = 0.5, kSmallest = 1e-4, kLargest = 0.5;
  GpParameters current = prior.mean, best = current, gradient;
  double best_value = -std::numeric_limits<double>::infinity();
  Eigen::VectorXd step = Eigen::VectorXd::Constant(current.size(), 0.15);
  Eigen::VectorXd before = Eigen::VectorXd::Zero(current.size());
  for (int i = 0; i < iterations; ++i) {
    const double value = log_posterior(points, values, prior, current, &gradient);
    if (!std::isfinite(value)) break;
    if (value > best_value) {
      best_value = value;
      best = current;
    }
    for (Eigen::Index k = 0; k < current.size(); ++k) {
      const double agreement = gradient[k] * before[k];
      if (agreement > 0) step[k] = std::min(step[k] * kGrow, kLargest);
      if (agreement < 0) {
        step[k] = std::max(step[k] * kShrink, kSmallest);
        gradient[k] = 0;
      }
      if (gradient[k] != 0) current[k] += gradient[k] > 0 ? step[k] : -step[k];
    }
    before = gradient;
  }
  return best;
}

GaussianProcess::GaussianProcess(GpPoints points, const Eigen::VectorXd& values,
                                 GpParameters parameters)
    : points_(std::move(points)), parameters_(std::move(parameters)) {
  CHANAS_CHECK(points_.count() > 0 && points_.count() == values.size()) << values.size();
  mean_ = values.mean();
  factor_.compute(covariance(Kernel(points_, parameters_), points_));
  CHANAS_CHECK(factor_.info() == Eigen::Success) << points_.count();
  weights_ = factor_.solve((values.array() - mean_).matrix());
}

double GaussianProcess::noise() const { return std::exp(parameters_[2]); }

GpPrediction GaussianProcess::predict(const GpPoints& points) const {
  const Kernel kernel(points_, parameters_);
  const Eigen::MatrixXd cross = internal::covariance(points_, points, parameters_);
  GpPrediction prediction;
  prediction.mean = (cross.transpose() * weights_).array() + mean_;
  const Eigen::MatrixXd half = factor_.matrixL().solve(cross);
  prediction.deviation =
      (kernel.level + kernel.schedule - half.colwise().squaredNorm().transpose().array())
          .max(1e-12)
          .sqrt();
  return prediction;
}

double expected_improvement(double best, double mean, double deviation) {
  if (!(deviation > 0)) return std::max(0.0, best - mean);
  const double z = (best - mean) / deviation;
  const double density = std::exp(-0.5 * z * z) / std::sqrt(2 * std::numbers::pi);
  const double below = 0.5 * std::erfc(-z / std::numbers::sqrt2);
  return (best - mean) * below + deviation * density;
}

}  // namespace chanas::internal
