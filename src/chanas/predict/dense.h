#pragma once
// The inner loop of the accuracy predictor: fully connected layers over a batch of rows.
//
// Each instruction set has its own build of one loop, chosen when the program runs. Every output is
// summed over the inputs in order, with separate multiplication and addition, so that a result is
// bitwise the same on every machine and in every batch: a search repeats anywhere.

#include <string_view>
#include <vector>

namespace chanas {

// Outputs per panel of packed weights, and rows that are computed together.
inline constexpr int kDensePanel = 16;
inline constexpr int kDenseRows = 8;

struct DenseLayer {
  int in = 0, out = 0;
  std::vector<float> weight;  // [ceil(out / kDensePanel)][in][kDensePanel], zeros beyond `out`
  std::vector<float> bias;    // padded to whole panels, zeros beyond `out`

  int padded_out() const { return static_cast<int>(bias.size()); }
};

// From PyTorch order: weight [out, in], bias [out].
DenseLayer pack_dense(int in, int out, const float* weight, const float* bias);

// y = x * weight^T + bias, then ReLU if asked. x is [rows, x_stride], y is [rows, y_stride] with
// y_stride >= padded_out(); rows is a multiple of kDenseRows. Thread safe, no allocation.
using DenseFunction = void (*)(const DenseLayer& layer, int rows, const float* x, int x_stride,
                               bool relu, float* y, int y_stride);

// The build for this machine.
DenseFunction dense_function();

// All builds that this machine can run, for tests.
struct DenseVariant {
  std::string_view name;
  DenseFunction run;
};
std::vector<DenseVariant> dense_variants();

}  // namespace chanas
