#pragma once
// The accuracy predictor: a multi-layer perceptron on the arch encoding (paper section 5; encoding
// in arch/space.h). Trained by chanas-nn, evaluated here.

#include <span>
#include <string>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/predict/dense.h"

namespace chanas {

// How good it is on architectures it was not fitted on (cross-validated).
struct PredictorQuality {
  int samples = 0;
  double rmse = 0;  // accuracy as a fraction
  double kendall_tau = 0;
  double spearman = 0;
};

// Immutable, thread safe; copies are deep.
class AccuracyPredictor {
 public:
  // Reads the safetensors file that chanas-nn wrote. Tensors, for layers i = 0, 1, ...:
  //   layers.<i>.weight [out, in] and layers.<i>.bias [out], float32, ReLU between layers;
  //   layers.0 takes encoding_size(space) inputs, the last layer has one output.
  // Metadata, all text:
  //   "space"    space_fingerprint(space)
  //   "offset"   decimal number, added to the output of the last layer (mean accuracy)
  //   "quality"  {"samples": n, "rmse": x, "kendall_tau": x, "spearman": x}
  // kNotFound: no file. kInvalidArgument: it belongs to another space; fit a predictor for this
  // one. kDataLoss: damaged (parts missing, shapes that do not fit, values that are not finite);
  // the message says what, and the mend is to run the predict stage again.
  static StatusOr<AccuracyPredictor> load(const ArchSpace& space, const std::string& path);

  // Predicted accuracy, one per arch, as a fraction; not clamped, so that ranks stay. Every arch
  // must be in the space. An arch's value does not depend on the others in the call nor on the
  // machine. Batches of 64 and more are fastest.
  std::vector<double> predict(std::span<const Arch> archs) const;
  const PredictorQuality& quality() const { return quality_; }

 private:
  ArchSpace space_;
  std::vector<DenseLayer> layers_;
  double offset_ = 0;
  PredictorQuality quality_;
};

}  // namespace chanas
