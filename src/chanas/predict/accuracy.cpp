#include "chanas/predict/accuracy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "chanas/arch/document.h"
#include "chanas/graph/safetensors.h"

namespace chanas {
namespace {

// Rows of one pass: their activations stay in the second-level cache while weights stream by.
constexpr int kBatch = 64;
static_assert(kBatch % kDenseRows == 0);

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// The tensor, with the shape asked for (-1: any size from 1) and finite values.
StatusOr<const Tensor*> expect_tensor(const Parameters& parameters, const std::string& name,
                                      const std::vector<int64_t>& shape) {
  const Tensor* tensor = parameters.find(name);
  if (tensor == nullptr) return absl::DataLossError(fmt::format("tensor {} is missing", name));
  bool fits = tensor->shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] < 0
               ? tensor->shape[i] >= 1 && tensor->shape[i] <= std::numeric_limits<int>::max()
               : tensor->shape[i] == shape[i];
  }
  if (!fits) {
    return absl::DataLossError(fmt::format("tensor {}: found shape {}, expected {} (-1: any)", name,
                                           shape_text(tensor->shape), shape_text(shape)));
  }
  for (size_t i = 0; i < tensor->data.size(); ++i) {
    if (!std::isfinite(tensor->data[i])) {
      return absl::DataLossError(fmt::format("tensor {}: value {} is not finite", name, i));
    }
  }
  return tensor;
}

StatusOr<std::vector<DenseLayer>> read_layers(const Parameters& parameters, int inputs) {
  std::vector<DenseLayer> layers;
  const int64_t count = static_cast<int64_t>(parameters.items.size()) / 2;
  if (count < 1 || parameters.items.size() % 2 != 0) {
    return absl::DataLossError(fmt::format(
        "found {} tensors, expected a weight and a bias per layer", parameters.items.size()));
  }
  for (int64_t i = 0, in = inputs; i < count; ++i) {
    const std::string name = fmt::format("layers.{}", i);
    const int64_t out = i + 1 == count ? 1 : -1;
    CHANAS_ASSIGN_OR_RETURN(const Tensor* weight,
                            expect_tensor(parameters, name + ".weight", {out, in}));
    CHANAS_ASSIGN_OR_RETURN(const Tensor* bias,
                            expect_tensor(parameters, name + ".bias", {weight->shape[0]}));
    layers.push_back(pack_dense(static_cast<int>(in), static_cast<int>(weight->shape[0]),
                                weight->data.data(), bias->data.data()));
    in = weight->shape[0];
  }
  return layers;
}

StatusOr<std::string> metadata(const SafetensorsFile& file, const std::string& key) {
  auto found = file.metadata.find(key);
  if (found != file.metadata.end()) return found->second;
  return absl::DataLossError(fmt::format("metadata \"{}\" is missing", key));
}

StatusOr<PredictorQuality> parse_quality(const std::string& text) {
  auto json = parse_json(text);
  if (!json.ok()) return absl::DataLossError(json.status().message());
  PredictorQuality quality;
  const Document document = Document::from_json(*json);
  Fields fields(document);
  fields.require("samples", &quality.samples, 0, std::numeric_limits<int>::max());
  fields.require("rmse", &quality.rmse, 0.0, 1e6);
  fields.require("kendall_tau", &quality.kendall_tau, -1.0, 1.0);
  fields.require("spearman", &quality.spearman, -1.0, 1.0);
  if (Status status = fields.finish(); !status.ok()) return absl::DataLossError(status.message());
  return quality;
}

}  // namespace

StatusOr<AccuracyPredictor> AccuracyPredictor::load(const ArchSpace& space,
                                                    const std::string& path) {
  const std::string context = fmt::format("accuracy predictor {}", path);
  auto file = read_safetensors(path);
  if (!file.ok()) return annotate(file.status(), "accuracy predictor");
  auto owner = metadata(*file, "space");
  if (!owner.ok()) return annotate(owner.status(), context);
  if (const std::string own = space_fingerprint(space); *owner != own) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: belongs to space {}, expected {} ({}); run the predict stage for this space", context,
        *owner, own, space.name));
  }
  AccuracyPredictor predictor;
  predictor.space_ = space;
  Status status = [&]() -> Status {
    CHANAS_ASSIGN_OR_RETURN(std::string offset, metadata(*file, "offset"));
    if (!absl::SimpleAtod(offset, &predictor.offset_) || !std::isfinite(predictor.offset_)) {
      return absl::DataLossError(
          fmt::format("metadata \"offset\": found '{}', expected a finite number", offset));
    }
    CHANAS_ASSIGN_OR_RETURN(std::string quality, metadata(*file, "quality"));
    auto parsed = parse_quality(quality);
    CHANAS_RETURN_IF_ERROR(annotate(parsed.status(), "metadata \"quality\""));
    predictor.quality_ = *parsed;
    CHANAS_ASSIGN_OR_RETURN(predictor.layers_, read_layers(file->parameters, encoding_size(space)));
    return absl::OkStatus();
  }();
  CHANAS_RETURN_IF_ERROR(annotate(status, context));
  return predictor;
}

std::vector<double> AccuracyPredictor::predict(std::span<const Arch> archs) const {
  CHANAS_CHECK(!layers_.empty()) << "predictor without layers";
  int stride = layers_.front().in;
  for (const DenseLayer& layer : layers_) stride = std::max(stride, layer.padded_out());
  const DenseFunction dense = dense_function();
  std::vector<float> from(static_cast<size_t>(kBatch) * stride), to(from.size());
  std::vector<double> accuracies;
  accuracies.reserve(archs.size());
  for (size_t first = 0; first < archs.size(); first += kBatch) {
    const int count = static_cast<int>(std::min<size_t>(kBatch, archs.size() - first));
    // Rows that fill up the last group hold an earlier pass; nobody reads what comes of them.
    const int rows = (count + kDenseRows - 1) / kDenseRows * kDenseRows;
    for (int row = 0; row < count; ++row) {
      encode(space_, archs[first + row], &from[static_cast<size_t>(row) * stride]);
    }
    for (const DenseLayer& layer : layers_) {
      const bool relu = &layer != &layers_.back();
      dense(layer, rows, from.data(), stride, relu, to.data(), stride);
      from.swap(to);
    }
    for (int row = 0; row < count; ++row) {
      accuracies.push_back(offset_ + from[static_cast<size_t>(row) * stride]);
    }
  }
  return accuracies;
}

}  // namespace chanas
