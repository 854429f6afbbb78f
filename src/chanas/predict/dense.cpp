#include "chanas/predict/dense.h"

#include "chanas/base/status.h"

namespace chanas {
namespace {

// One panel of outputs for `kRows` rows, in registers. `kLanes` floats make a vector register; the
// compiler turns the arithmetic of Vector into the instructions of the function it is inlined in.
template <int kLanes, int kRows>
[[gnu::always_inline]] inline void panel(const float* weight, const float* bias, int in,
                                         const float* x, int x_stride, bool relu, float* y,
                                         int y_stride) {
  typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
  constexpr int kVectors = kDensePanel / kLanes;
  Vector sum[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      sum[row][v] = *reinterpret_cast<const Vector*>(bias + v * kLanes);
    }
  }
  for (int i = 0; i < in; ++i) {
    const Vector* w = reinterpret_cast<const Vector*>(weight + i * kDensePanel);
    for (int row = 0; row < kRows; ++row) {
      for (int v = 0; v < kVectors; ++v) sum[row][v] += w[v] * x[row * x_stride + i];
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      Vector result = sum[row][v];
      if (relu) result = result > 0 ? result : Vector{};
      *reinterpret_cast<Vector*>(y + row * y_stride + v * kLanes) = result;
    }
  }
}

template <int kLanes, int kRows>
[[gnu::always_inline]] inline void dense(const DenseLayer& layer, int rows, const float* x,
                                         int x_stride, bool relu, float* y, int y_stride) {
  static_assert(kDenseRows % kRows == 0 && kDensePanel % kLanes == 0);
  for (int column = 0; column < layer.padded_out(); column += kDensePanel) {
    for (int row = 0; row < rows; row += kRows) {
      panel<kLanes, kRows>(layer.weight.data() + static_cast<size_t>(column) * layer.in,
                           layer.bias.data() + column, layer.in, x + row * x_stride, x_stride, relu,
                           y + row * y_stride + column, y_stride);
    }
  }
}

void dense_plain(const DenseLayer& layer, int rows, const float* x, int x_stride, bool relu,
                 float* y, int y_stride) {
  dense<4, 2>(layer, rows, x, x_stride, relu, y, y_stride);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void dense_avx2(const DenseLayer& layer, int rows, const float* x,
                                        int x_stride, bool relu, float* y, int y_stride) {
  dense<8, 4>(layer, rows, x, x_stride, relu, y, y_stride);
}

[[gnu::target("avx512f")]] void dense_avx512(const DenseLayer& layer, int rows, const float* x,
                                             int x_stride, bool relu, float* y, int y_stride) {
  dense<16, 8>(layer, rows, x, x_stride, relu, y, y_stride);
}
#endif

}  // namespace

DenseLayer pack_dense(int in, int out, const float* weight, const float* bias) {
  CHANAS_CHECK(in > 0 && out > 0) << in << " inputs, " << out << " outputs";
  const int panels = (out + kDensePanel - 1) / kDensePanel;
  DenseLayer layer{in, out, {}, {}};
  layer.weight.assign(static_cast<size_t>(panels) * in * kDensePanel, 0.0f);
  layer.bias.assign(static_cast<size_t>(panels) * kDensePanel, 0.0f);
  for (int o = 0; o < out; ++o) {
    float* column =
        &layer.weight[static_cast<size_t>(o / kDensePanel) * in * kDensePanel + o % kDensePanel];
    for (int i = 0; i < in; ++i) column[i * kDensePanel] = weight[static_cast<size_t>(o) * in + i];
    layer.bias[o] = bias[o];
  }
  return layer;
}

std::vector<DenseVariant> dense_variants() {
  std::vector<DenseVariant> variants = {{"plain", dense_plain}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) variants.push_back({"avx2", dense_avx2});
  if (__builtin_cpu_supports("avx512f")) variants.push_back({"avx512", dense_avx512});
#endif
  return variants;
}

DenseFunction dense_function() {
  static const DenseFunction best = dense_variants().back().run;
  return best;
}

}  // namespace chanas
