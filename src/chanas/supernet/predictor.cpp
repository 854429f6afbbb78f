#include "chanas/supernet/predictor.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "chanas/base/cancellation.h"
#include "chanas/base/rng.h"
#include "chanas/base/stats.h"
#include "chanas/graph/safetensors.h"
#include "chanas/supernet/supernet.h"

namespace chanas {
namespace {

using Variable = at::Tensor;

constexpr int kHiddenLayers = 3;
constexpr size_t kBatch = 64;
constexpr size_t kMinSamples = 10;

struct Layer {
  Variable weight, bias;  // [out, in], [out]
};

// Perceptron and its Adam moments.
struct Model {
  std::vector<Layer> layers;
  double mean = 0, deviation = 1;  // of the targets it was fitted on; outputs are standardised

  Variable operator()(Variable x) const {
    for (size_t i = 0; i < layers.size(); ++i) {
      x = at::linear(x, layers[i].weight, layers[i].bias);
      if (i + 1 < layers.size()) x = at::relu(x);
    }
    return x.flatten();
  }
};

Variable random_weight(int out, int in, double scale, Rng& rng) {
  Variable w = at::empty({out, in});
  float* to = w.mutable_data_ptr<float>();
  for (int64_t i = 0; i < w.numel(); ++i) to[i] = static_cast<float>(scale * rng.normal());
  return w.set_requires_grad(true);
}

Model make_model(int in, int hidden, Rng& rng) {
  Model model;
  for (int i = 0; i <= kHiddenLayers; ++i) {
    const int out = i < kHiddenLayers ? hidden : 1;
    // He for ReLU; small at the end, so that it starts from the mean.
    const double scale = i < kHiddenLayers ? std::sqrt(2.0 / in) : 0.1 * std::sqrt(1.0 / in);
    model.layers.push_back(
        {random_weight(out, in, scale, rng), at::zeros({out}).set_requires_grad(true)});
    in = out;
  }
  return model;
}

class Adam {
 public:
  Adam(Model& model, double weight_decay) : weight_decay_(weight_decay) {
    for (Layer& layer : model.layers) {
      for (const Variable& p : {layer.weight, layer.bias}) {
        parameters_.push_back(p);
        first_.push_back(at::zeros_like(p));
        second_.push_back(at::zeros_like(p));
      }
    }
  }

  void step(double rate) {
    const at::NoGradGuard no_gradients;
    constexpr double kBeta1 = 0.9, kBeta2 = 0.999;
    ++steps_;
    const double correction1 = 1 - std::pow(kBeta1, steps_);
    const double correction2 = std::sqrt(1 - std::pow(kBeta2, steps_));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      Variable& p = parameters_[i];
      const Variable g = p.dim() > 1 ? p.grad() + weight_decay_ * p : p.grad();
      first_[i].mul_(kBeta1).add_(g, 1 - kBeta1);
      second_[i].mul_(kBeta2).addcmul_(g, g, 1 - kBeta2);
      p.addcdiv_(first_[i], second_[i].sqrt().div_(correction2).add_(1e-8), -rate / correction1);
      p.mutable_grad().reset();
    }
  }

 private:
  double weight_decay_;
  int steps_ = 0;
  std::vector<Variable> parameters_, first_, second_;
};

// Rows of encodings and accuracies.
struct Table {
  int columns = 0;
  std::vector<float> x;
  std::vector<double> y;

  size_t rows() const { return y.size(); }
  Variable take(std::span<const size_t> rows) const {
    Variable out = at::empty({static_cast<int64_t>(rows.size()), columns});
    float* to = out.mutable_data_ptr<float>();
    for (const size_t row : rows) {
      const auto from = x.begin() + static_cast<std::ptrdiff_t>(row) * columns;
      to = std::copy(from, from + columns, to);
    }
    return out;
  }
};

// `seed` tells apart the folds' models. on_epoch may end it early (cancelled).
StatusOr<Model> fit_model(const Table& table, std::vector<size_t> rows,
                          const PredictorConfig& config, uint64_t seed,
                          const std::function<void()>& on_epoch) {
  Rng rng(config.seed, "predictor", seed);
  Model model = make_model(table.columns, config.hidden, rng);
  double square = 0;
  for (const size_t row : rows) model.mean += table.y[row] / static_cast<double>(rows.size());
  for (const size_t row : rows) square += std::pow(table.y[row] - model.mean, 2);
  model.deviation = std::max(1e-6, std::sqrt(square / static_cast<double>(rows.size())));
  Adam adam(model, config.weight_decay);
  for (int epoch = 0; epoch < config.epochs; ++epoch) {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    rng.shuffle(rows);
    // Linear decay: the last epochs settle.
    const double rate = config.learning_rate * (1 - static_cast<double>(epoch) / config.epochs);
    for (size_t begin = 0; begin < rows.size(); begin += kBatch) {
      const auto batch = std::span(rows).subspan(begin, std::min(kBatch, rows.size() - begin));
      Variable target = at::empty({static_cast<int64_t>(batch.size())});
      float* to = target.mutable_data_ptr<float>();
      for (const size_t row : batch) {
        *to++ = static_cast<float>((table.y[row] - model.mean) / model.deviation);
      }
      (model(table.take(batch)) - target).square().mean().backward();
      adam.step(rate);
    }
    on_epoch();
  }
  return model;
}

std::vector<double> predict(const Model& model, const Table& table, std::span<const size_t> rows) {
  const at::NoGradGuard no_gradients;
  const Variable out = model(table.take(rows)).contiguous();
  std::vector<double> predicted;
  for (size_t i = 0; i < rows.size(); ++i) {
    predicted.push_back(model.mean +
                        model.deviation * static_cast<double>(out.const_data_ptr<float>()[i]));
  }
  return predicted;
}

Tensor to_plain(const Variable& variable, double scale) {
  const Variable scaled = (variable.detach() * scale).contiguous();
  const float* data = scaled.const_data_ptr<float>();
  return {scaled.sizes().vec(), {data, data + scaled.numel()}};
}

// As AccuracyPredictor::load wants it; the last layer takes the standardisation in.
Status write_model(const ArchSpace& space, const Model& model, const PredictorFit& quality,
                   const std::string& path) {
  SafetensorsFile file;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const double scale = i + 1 == model.layers.size() ? model.deviation : 1;
    file.parameters.set(fmt::format("layers.{}.weight", i),
                        to_plain(model.layers[i].weight, scale));
    file.parameters.set(fmt::format("layers.{}.bias", i), to_plain(model.layers[i].bias, scale));
  }
  const Json json = {{"samples", quality.samples},
                     {"rmse", quality.rmse},
                     {"kendall_tau", quality.kendall_tau},
                     {"spearman", quality.spearman}};
  file.metadata = {{"space", space_fingerprint(space)},
                   {"offset", fmt::format("{}", model.mean)},
                   {"quality", json.dump()}};
  return write_safetensors(path, file);
}

Status check(const std::vector<PredictorSample>& samples, const PredictorConfig& config) {
  if (samples.size() < kMinSamples) {
    return absl::InvalidArgumentError(fmt::format(
        "{} samples to fit a predictor on, expected at least {}", samples.size(), kMinSamples));
  }
  for (size_t i = 0; i < samples.size(); ++i) {
    if (samples[i].accuracy >= 0 && samples[i].accuracy <= 1) continue;
    return absl::InvalidArgumentError(
        fmt::format("sample {} has accuracy {}, expected 0 to 1", i, samples[i].accuracy));
  }
  const auto in = [](std::string_view name, double value, double low, double high) -> Status {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{} is {}, expected {} to {}", name, value, low, high));
  };
  CHANAS_RETURN_IF_ERROR(in("hidden", config.hidden, 1, 4096));
  CHANAS_RETURN_IF_ERROR(in("epochs", config.epochs, 1, 1e6));
  CHANAS_RETURN_IF_ERROR(in("learning_rate", config.learning_rate, 1e-9, 1));
  CHANAS_RETURN_IF_ERROR(in("weight_decay", config.weight_decay, 0, 1));
  return in("folds", config.folds, 2, static_cast<double>(samples.size()));
}

}  // namespace

StatusOr<PredictorFit> fit(const ArchSpace& space, const std::vector<PredictorSample>& samples,
                           const PredictorConfig& config, const std::string& path,
                           const std::function<void(double)>& on_progress) {
  CHANAS_RETURN_IF_ERROR(check(samples, config));
  set_threads(config.threads);
  Table table;
  table.columns = encoding_size(space);
  table.x.resize(samples.size() * static_cast<size_t>(table.columns));
  for (size_t i = 0; i < samples.size(); ++i) {
    encode(space, samples[i].arch, &table.x[i * static_cast<size_t>(table.columns)]);
    table.y.push_back(samples[i].accuracy);
  }
  std::vector<size_t> order(samples.size());
  std::iota(order.begin(), order.end(), 0);
  Rng(config.seed, "folds").shuffle(order);

  double epochs = 0;
  const auto on_epoch = [&] {
    if (on_progress) on_progress(++epochs / (config.epochs * (config.folds + 1)));
  };
  PredictorFit result;
  result.samples = static_cast<int>(samples.size());
  result.predicted.resize(samples.size());
  const auto folds = static_cast<size_t>(config.folds);
  for (size_t fold = 0; fold < folds; ++fold) {
    std::vector<size_t> fitted, held;
    for (size_t i = 0; i < order.size(); ++i)
      (i % folds == fold ? held : fitted).push_back(order[i]);
    CHANAS_ASSIGN_OR_RETURN(Model model, fit_model(table, fitted, config, fold + 1, on_epoch));
    const std::vector<double> predicted = predict(model, table, held);
    for (size_t i = 0; i < held.size(); ++i) result.predicted[held[i]] = predicted[i];
  }
  double square = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    square += std::pow(result.predicted[i] - table.y[i], 2);
  }
  result.rmse = std::sqrt(square / static_cast<double>(samples.size()));
  result.kendall_tau = kendall_tau_b(result.predicted, table.y);
  result.spearman = spearman(result.predicted, table.y);
  CHANAS_ASSIGN_OR_RETURN(Model model, fit_model(table, order, config, 0, on_epoch));
  CHANAS_RETURN_IF_ERROR(write_model(space, model, result, path));
  return result;
}

}  // namespace chanas
