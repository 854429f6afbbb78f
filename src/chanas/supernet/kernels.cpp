#include "chanas/supernet/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

// One build of each function below for every instruction set; the loader picks.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CHANAS_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define CHANAS_CLONES
#endif
#define CHANAS_INLINE inline __attribute__((always_inline))

namespace chanas {
namespace {

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

// Sums are taken over this many groups and then over groups in order, so that they do not depend on
// the number of threads.
constexpr int kGroups = 16;

CHANAS_INLINE Lanes load(const float* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
CHANAS_INLINE void store(float* to, Lanes v) { std::memcpy(to, &v, sizeof v); }
CHANAS_INLINE Lanes load(const float* from, int lanes) {
  if (lanes == kLanes) return load(from);
  Lanes v = {};
  std::memcpy(&v, from, static_cast<size_t>(lanes) * sizeof(float));
  return v;
}
CHANAS_INLINE void store(float* to, Lanes v, int lanes) {
  if (lanes == kLanes) {
    store(to, v);
  } else {
    std::memcpy(to, &v, static_cast<size_t>(lanes) * sizeof(float));
  }
}

// --- Depthwise ----------------------------------------------------------------------------------
// Per image and block of 16 channels: the input is copied into a zero-padded buffer that stays in
// the first caches, and a few neighbouring outputs are summed in registers.

struct Plane {  // [height, width] of Lanes
  int height = 0, width = 0;
  Lanes* data = nullptr;
};

// Copies one block of channels, `step` apart, behind a margin. The buffer must be zero elsewhere.
CHANAS_INLINE void copy_in(const float* from, int h, int w, int c, int lanes, int margin, int step,
                           Plane to) {
  for (int y = 0; y < h; ++y) {
    Lanes* row = to.data + (margin + y * step) * to.width + margin;
    for (int x = 0; x < w; ++x) row[x * step] = load(from + int64_t{y * w + x} * c, lanes);
  }
}

template <int kKernel, int kTile>
CHANAS_INLINE void convolve_tile(const Lanes* in, int width, int kernel, int stride, int ky_begin,
                                 int ky_end, const Lanes* weight, Lanes* sums) {
  const int k = kKernel == 0 ? kernel : kKernel;
  Lanes sum[kTile] = {};
  for (int ky = ky_begin; ky < ky_end; ++ky) {
    const Lanes* row = in + ky * width;
#pragma GCC unroll 7
    for (int kx = 0; kx < k; ++kx) {
      const Lanes w = weight[ky * k + kx];
#pragma GCC unroll 8
      for (int t = 0; t < kTile; ++t) sum[t] += w * row[t * stride + kx];
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTile; ++t) sums[t] = sum[t];
}

// y [h_out, w_out] with `c` floats between pixels; `margin`: rows at top and bottom of the plane
// that are zero, whose taps are left out.
template <int kKernel, int kStride>
CHANAS_INLINE void convolve(Plane in, int kernel, int margin, const Lanes* weight, int h_out,
                            int w_out, float* y, int c, int lanes) {
  for (int oy = 0; oy < h_out; ++oy) {
    const int ky_begin = std::clamp(margin - oy * kStride, 0, kernel);
    const int ky_end = std::clamp(in.height - margin - oy * kStride, ky_begin, kernel);
    const Lanes* row = in.data + oy * kStride * in.width;
    float* to = y + int64_t{oy} * w_out * c;
    int ox = 0;
    Lanes sums[8];
    const auto tile = [&](auto size) __attribute__((always_inline)) {
      constexpr int kTile = decltype(size)::value;
      for (; ox + kTile <= w_out; ox += kTile) {
        convolve_tile<kKernel, kTile>(row + ox * kStride, in.width, kernel, kStride, ky_begin,
                                      ky_end, weight, sums);
        for (int t = 0; t < kTile; ++t) store(to + int64_t{ox + t} * c, sums[t], lanes);
      }
    };
    tile(std::integral_constant<int, 8>());
    tile(std::integral_constant<int, 4>());
    tile(std::integral_constant<int, 2>());
    tile(std::integral_constant<int, 1>());
  }
}

// sums[ky * k + kx] += dy * shifted input.
template <int kKernel, int kStride>
CHANAS_INLINE void correlate(Plane in, int kernel, int margin, const float* dy, int h_out,
                             int w_out, int c, int lanes, Lanes* sums) {
  const int k = kKernel == 0 ? kernel : kKernel;
  constexpr int kMax = kKernel == 0 ? kMaxKernel : kKernel;
  for (int ky = 0; ky < k; ++ky) {
    Lanes sum[kMax], second[kMax];
    for (int kx = 0; kx < k; ++kx) {
      sum[kx] = sums[ky * k + kx];
      second[kx] = Lanes{};
    }
    for (int oy = 0; oy < h_out; ++oy) {
      const int iy = oy * kStride + ky;
      if (iy < margin || iy >= in.height - margin) continue;
      const Lanes* row = in.data + iy * in.width;
      const float* from = dy + int64_t{oy} * w_out * c;
      int ox = 0;
      for (; ox + 2 <= w_out; ox += 2) {
        const Lanes d0 = load(from + int64_t{ox} * c, lanes);
        const Lanes d1 = load(from + int64_t{ox + 1} * c, lanes);
#pragma GCC unroll 7
        for (int kx = 0; kx < k; ++kx) {
          sum[kx] += d0 * row[ox * kStride + kx];
          second[kx] += d1 * row[(ox + 1) * kStride + kx];
        }
      }
      if (ox < w_out) {
        const Lanes d0 = load(from + int64_t{ox} * c, lanes);
        for (int kx = 0; kx < k; ++kx) sum[kx] += d0 * row[ox * kStride + kx];
      }
    }
    for (int kx = 0; kx < k; ++kx) sums[ky * k + kx] = sum[kx] + second[kx];
  }
}

// One block's weights, one vector per tap; `flip` turns the window by half a circle.
CHANAS_INLINE void pack(const float* weight, int taps, int lanes, bool flip, Lanes* out) {
  for (int t = 0; t < taps; ++t) {
    Lanes v = {};
    for (int l = 0; l < lanes; ++l) v[l] = weight[l * taps + (flip ? taps - 1 - t : t)];
    out[t] = v;
  }
}

// Zeros, on whole cache lines.
class Scratch {
 public:
  explicit Scratch(size_t vectors)
      : data_(static_cast<float*>(
            ::operator new (vectors * sizeof(Lanes), std::align_val_t{sizeof(Lanes)}))) {
    std::memset(data_, 0, vectors * sizeof(Lanes));
  }
  ~Scratch() { ::operator delete (data_, std::align_val_t{sizeof(Lanes)}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Lanes* data() { return reinterpret_cast<Lanes*>(data_); }

 private:
  float* data_;
};

// What one (image range, block of channels) needs.
struct Block {
  int first, lanes;  // channels
};
CHANAS_INLINE Block block_at(int index, int c) {
  return {index * kLanes, std::min(kLanes, c - index * kLanes)};
}
int block_count(int c) { return (c + kLanes - 1) / kLanes; }

template <int kKernel, int kStride>
CHANAS_INLINE void forward_image(const DepthwiseShape& s, const float* x, Block b, Plane padded,
                                 const Lanes* weight, float* y) {
  const int margin = s.kernel / 2;
  copy_in(x + b.first, s.h, s.w, s.c, b.lanes, margin, 1, padded);
  convolve<kKernel, kStride>(padded, s.kernel, margin, weight, s.h_out(), s.w_out(), y + b.first,
                             s.c, b.lanes);
}

template <int kKernel, int kStride>
CHANAS_INLINE void backward_image(const DepthwiseShape& s, const float* x, const float* dy, Block b,
                                  Plane padded, Plane padded_dy, const Lanes* flipped, float* dx,
                                  Lanes* sums) {
  const int margin = s.kernel / 2;
  copy_in(x + b.first, s.h, s.w, s.c, b.lanes, margin, 1, padded);
  correlate<kKernel, kStride>(padded, s.kernel, margin, dy + b.first, s.h_out(), s.w_out(), s.c,
                              b.lanes, sums);
  if (dx == nullptr) return;
  copy_in(dy + b.first, s.h_out(), s.w_out(), s.c, b.lanes, margin, kStride, padded_dy);
  convolve<kKernel, 1>(padded_dy, s.kernel, margin, flipped, s.h, s.w, dx + b.first, s.c, b.lanes);
}

template <typename F>
CHANAS_INLINE void with_window(int kernel, int stride, const F& f) {
  const auto with_stride = [&](auto k) __attribute__((always_inline)) {
    switch (stride) {
      case 1:
        return f(k, std::integral_constant<int, 1>());
      case 2:
        return f(k, std::integral_constant<int, 2>());
      case 3:
        return f(k, std::integral_constant<int, 3>());
      default:
        return f(k, std::integral_constant<int, 4>());
    }
  };
  switch (kernel) {
    case 3:
      return with_stride(std::integral_constant<int, 3>());
    case 5:
      return with_stride(std::integral_constant<int, 5>());
    case 7:
      return with_stride(std::integral_constant<int, 7>());
    default:
      return with_stride(std::integral_constant<int, 0>());
  }
}

// Bodies that a thread runs, one build per instruction set. OpenMP's own outlined functions would
// not be cloned.
CHANAS_CLONES void forward_task(const DepthwiseShape& s, const float* x, const float* weight,
                                int block, int begin, int end, float* y) {
  const int taps = s.kernel * s.kernel, margin = s.kernel / 2;
  Plane padded{s.h + 2 * margin, s.w + 2 * margin, nullptr};
  const size_t plane = static_cast<size_t>(padded.height * padded.width);
  Scratch scratch(static_cast<size_t>(taps) + plane);
  Lanes* packed = scratch.data();
  padded.data = packed + taps;
  const Block b = block_at(block, s.c);
  pack(weight + int64_t{b.first} * taps, taps, b.lanes, false, packed);
  with_window(
      s.kernel, s.stride, [&](auto k, auto stride) __attribute__((always_inline)) {
        for (int i = begin; i < end; ++i) {
          forward_image<decltype(k)::value, decltype(stride)::value>(
              s, x + int64_t{i} * s.h * s.w * s.c, b, padded, packed,
              y + int64_t{i} * s.h_out() * s.w_out() * s.c);
        }
      });
}

CHANAS_CLONES void backward_task(const DepthwiseShape& s, const float* x, const float* weight,
                                 const float* dy, int block, int begin, int end, float* dx,
                                 float* sums) {
  const int taps = s.kernel * s.kernel, margin = s.kernel / 2;
  Plane padded{s.h + 2 * margin, s.w + 2 * margin, nullptr};
  Plane padded_dy = padded;
  const size_t plane = static_cast<size_t>(padded.height * padded.width);
  Scratch scratch(2 * static_cast<size_t>(taps) + 2 * plane);
  Lanes* flipped = scratch.data();
  Lanes* total = flipped + taps;
  padded.data = total + taps;
  padded_dy.data = padded.data + plane;
  const Block b = block_at(block, s.c);
  pack(weight + int64_t{b.first} * taps, taps, b.lanes, true, flipped);
  with_window(
      s.kernel, s.stride, [&](auto k, auto stride) __attribute__((always_inline)) {
        for (int i = begin; i < end; ++i) {
          const int64_t in = int64_t{i} * s.h * s.w * s.c;
          backward_image<decltype(k)::value, decltype(stride)::value>(
              s, x + in, dy + int64_t{i} * s.h_out() * s.w_out() * s.c, b, padded, padded_dy,
              flipped, dx == nullptr ? nullptr : dx + in, total);
        }
      });
  for (int t = 0; t < taps; ++t) {
    for (int l = 0; l < b.lanes; ++l) sums[l * taps + t] = total[t][l];
  }
}

// --- Columns ------------------------------------------------------------------------------------

template <Activation kAct>
CHANAS_INLINE Lanes activate(Lanes z) {
  const Lanes zero = {}, six = zero + 6;
  if constexpr (kAct == Activation::kRelu) return z > zero ? z : zero;
  if constexpr (kAct == Activation::kRelu6) {
    z = z > zero ? z : zero;
    return z < six ? z : six;
  }
  if constexpr (kAct == Activation::kHSwish) {
    Lanes g = z + 3;
    g = g > zero ? g : zero;
    g = g < six ? g : six;
    return z * g * (1.0f / 6);
  }
  return z;
}

// dz of dy; at the corners as LibTorch has it.
template <Activation kAct>
CHANAS_INLINE Lanes activate_backward(Lanes z, Lanes dy) {
  const Lanes zero = {}, six = zero + 6, three = zero + 3;
  if constexpr (kAct == Activation::kRelu) return z > zero ? dy : zero;
  if constexpr (kAct == Activation::kRelu6) {
    return z > zero ? (z < six ? dy : zero) : zero;
  }
  if constexpr (kAct == Activation::kHSwish) {
    const Lanes middle = dy * (z * (1.0f / 3) + 0.5f);
    return z <= -three ? zero : (z < three ? middle : dy);
  }
  return dy;
}

template <typename F>
CHANAS_INLINE void with_activation(Activation act, const F& f) {
  switch (act) {
    case Activation::kRelu:
      return f(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kRelu6:
      return f(std::integral_constant<Activation, Activation::kRelu6>());
    case Activation::kHSwish:
      return f(std::integral_constant<Activation, Activation::kHSwish>());
    default:
      CHANAS_CHECK(act == Activation::kNone);
      return f(std::integral_constant<Activation, Activation::kNone>());
  }
}

// Rows of a tile stay in the first cache while blocks of columns pass over them.
constexpr int kTileRows = 64;

// sums [2, c] in double: of x - pivot and of its square.
CHANAS_CLONES void statistics_task(int64_t begin, int64_t end, int c, const float* x,
                                   const float* pivot, double* sums) {
  for (int64_t tile = begin; tile < end; tile += kTileRows) {
    const int64_t tile_end = std::min(tile + kTileRows, end);
    for (int first = 0; first < c; first += kLanes) {
      const int lanes = std::min(kLanes, c - first);
      const Lanes p = load(pivot + first, lanes);
      Lanes sum = {}, square = {};
      for (int64_t r = tile; r < tile_end; ++r) {
        const Lanes d = load(x + r * c + first, lanes) - p;
        sum += d;
        square += d * d;
      }
      for (int l = 0; l < lanes; ++l) {
        sums[first + l] += static_cast<double>(sum[l]);
        sums[c + first + l] += static_cast<double>(square[l]);
      }
    }
  }
}

CHANAS_CLONES void scale_activate_task(int64_t begin, int64_t end, int c, const float* x,
                                       const float* scale, const float* shift, Activation act,
                                       const float* residual, float* y) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        for (int64_t tile = begin; tile < end; tile += kTileRows) {
          const int64_t tile_end = std::min(tile + kTileRows, end);
          for (int first = 0; first < c; first += kLanes) {
            const int lanes = std::min(kLanes, c - first);
            const Lanes k = load(scale + first, lanes), b = load(shift + first, lanes);
            for (int64_t r = tile; r < tile_end; ++r) {
              const int64_t at = r * c + first;
              Lanes value = activate<decltype(a)::value>(load(x + at, lanes) * k + b);
              if (residual != nullptr) value += load(residual + at, lanes);
              store(y + at, value, lanes);
            }
          }
        }
      });
}

// sums [2, c]: of dz, and of dz * (x - mean).
CHANAS_CLONES void backward_sums_task(int64_t begin, int64_t end, int c, const float* x,
                                      const float* mean, const float* scale, const float* shift,
                                      Activation act, const float* dy, double* sums) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        for (int64_t tile = begin; tile < end; tile += kTileRows) {
          const int64_t tile_end = std::min(tile + kTileRows, end);
          for (int first = 0; first < c; first += kLanes) {
            const int lanes = std::min(kLanes, c - first);
            const Lanes k = load(scale + first, lanes), b = load(shift + first, lanes);
            const Lanes m = load(mean + first, lanes);
            Lanes sum = {}, product = {};
            for (int64_t r = tile; r < tile_end; ++r) {
              const int64_t at = r * c + first;
              const Lanes v = load(x + at, lanes);
              const Lanes dz =
                  activate_backward<decltype(a)::value>(v * k + b, load(dy + at, lanes));
              sum += dz;
              product += dz * (v - m);
            }
            for (int l = 0; l < lanes; ++l) {
              sums[first + l] += static_cast<double>(sum[l]);
              sums[c + first + l] += static_cast<double>(product[l]);
            }
          }
        }
      });
}

// dx = scale * dz + slope * (x - mean) + offset.
CHANAS_CLONES void backward_input_task(int64_t begin, int64_t end, int c, const float* x,
                                       const float* mean, const float* scale, const float* shift,
                                       const float* slope, const float* offset, Activation act,
                                       const float* dy, float* dx) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        for (int64_t tile = begin; tile < end; tile += kTileRows) {
          const int64_t tile_end = std::min(tile + kTileRows, end);
          for (int first = 0; first < c; first += kLanes) {
            const int lanes = std::min(kLanes, c - first);
            const Lanes k = load(scale + first, lanes), b = load(shift + first, lanes);
            const Lanes s = load(slope + first, lanes), o = load(offset + first, lanes);
            const Lanes m = load(mean + first, lanes);
            for (int64_t r = tile; r < tile_end; ++r) {
              const int64_t at = r * c + first;
              const Lanes v = load(x + at, lanes);
              const Lanes dz =
                  activate_backward<decltype(a)::value>(v * k + b, load(dy + at, lanes));
              store(dx + at, k * dz + (s * (v - m) + o), lanes);
            }
          }
        }
      });
}

CHANAS_CLONES void image_scale_task(int area, int c, const float* x, const float* scale,
                                    const float* shift, float* y) {
  for (int first = 0; first < c; first += kLanes) {
    const int lanes = std::min(kLanes, c - first);
    const Lanes k = load(scale + first, lanes);
    const Lanes b = shift == nullptr ? Lanes{} : load(shift + first, lanes);
    for (int i = 0; i < area; ++i) {
      const int64_t at = int64_t{i} * c + first;
      store(y + at, load(x + at, lanes) * k + b, lanes);
    }
  }
}

CHANAS_CLONES void image_dot_task(int area, int c, const float* a, const float* b, float* sum) {
  for (int first = 0; first < c; first += kLanes) {
    const int lanes = std::min(kLanes, c - first);
    Lanes total = {};
    for (int i = 0; i < area; ++i) {
      const int64_t at = int64_t{i} * c + first;
      const Lanes v = load(a + at, lanes);
      total += b == nullptr ? v : v * load(b + at, lanes);
    }
    store(sum + first, total, lanes);
  }
}

// work(begin, end, group) over ranges of rows that do not depend on the number of threads.
template <typename F>
void over_groups(int64_t rows, const F& work) {
  const int64_t step = (rows + kGroups - 1) / kGroups;
#pragma omp parallel for schedule(static)
  for (int g = 0; g < kGroups; ++g) {
    const int64_t begin = std::min(rows, g * step), end = std::min(rows, begin + step);
    if (begin < end) work(begin, end, g);
  }
}

// Sums of `count` doubles per group.
class GroupSums {
 public:
  explicit GroupSums(size_t count) : count_(count), sums_(count * kGroups) {}
  double* of(int group) { return &sums_[static_cast<size_t>(group) * count_]; }
  double total(size_t i) const {
    double sum = 0;
    for (size_t g = 0; g < kGroups; ++g) sum += sums_[g * count_ + i];
    return sum;
  }

 private:
  size_t count_;
  std::vector<double> sums_;
};

}  // namespace

void depthwise_forward(const DepthwiseShape& s, const float* x, const float* weight, float* y) {
  const int blocks = block_count(s.c), groups = std::min(s.n, kGroups);
  const int step = (s.n + groups - 1) / groups;
#pragma omp parallel for schedule(static)
  for (int task = 0; task < groups * blocks; ++task) {
    const int begin = task / blocks * step;
    forward_task(s, x, weight, task % blocks, begin, std::min(s.n, begin + step), y);
  }
}

void depthwise_backward(const DepthwiseShape& s, const float* x, const float* weight,
                        const float* dy, float* dx, float* dweight) {
  const int blocks = block_count(s.c), groups = std::min(s.n, kGroups);
  const int step = (s.n + groups - 1) / groups, taps = s.kernel * s.kernel;
  const size_t size = static_cast<size_t>(s.c) * static_cast<size_t>(taps);
  std::vector<float> sums(size * static_cast<size_t>(groups));
#pragma omp parallel for schedule(static)
  for (int task = 0; task < groups * blocks; ++task) {
    const int begin = task / blocks * step, block = task % blocks;
    backward_task(s, x, weight, dy, block, begin, std::min(s.n, begin + step), dx,
                  &sums[static_cast<size_t>(task / blocks) * size +
                        static_cast<size_t>(block * kLanes * taps)]);
  }
  std::copy_n(sums.begin(), size, dweight);
  for (size_t g = 1; g < static_cast<size_t>(groups); ++g) {
    for (size_t i = 0; i < size; ++i) dweight[i] += sums[g * size + i];
  }
}

void column_statistics(int64_t rows, int c, const float* x, float* mean, float* variance) {
  // The first row as pivot: a variance far below the square of the mean loses no digits.
  GroupSums sums(2 * static_cast<size_t>(c));
  over_groups(rows, [&](int64_t begin, int64_t end, int group) {
    statistics_task(begin, end, c, x, x, sums.of(group));
  });
  for (int i = 0; i < c; ++i) {
    const double d = sums.total(static_cast<size_t>(i)) / static_cast<double>(rows);
    const double square = sums.total(static_cast<size_t>(c + i)) / static_cast<double>(rows);
    mean[i] = static_cast<float>(static_cast<double>(x[i]) + d);
    variance[i] = static_cast<float>(std::max(0.0, square - d * d));
  }
}

void scale_activate(int64_t rows, int c, const float* x, const float* scale, const float* shift,
                    Activation act, const float* residual, float* y) {
  over_groups(rows, [&](int64_t begin, int64_t end, int) {
    scale_activate_task(begin, end, c, x, scale, shift, act, residual, y);
  });
}

void batch_norm_backward(int64_t rows, int c, const float* x, const float* mean,
                         const float* inverse_std, const float* weight, const float* bias,
                         Activation act, const float* dy, float* dx, float* dweight, float* dbias) {
  const auto n = static_cast<size_t>(c);
  std::vector<float> scale(n), shift(n), slope(n), offset(n);
  for (size_t i = 0; i < n; ++i) {
    scale[i] = weight[i] * inverse_std[i];
    shift[i] = bias[i] - mean[i] * scale[i];
  }
  GroupSums sums(2 * n);
  over_groups(rows, [&](int64_t begin, int64_t end, int group) {
    backward_sums_task(begin, end, c, x, mean, scale.data(), shift.data(), act, dy, sums.of(group));
  });
  for (size_t i = 0; i < n; ++i) {
    const double dz = sums.total(i), product = sums.total(n + i);
    const double inverse = static_cast<double>(inverse_std[i]);
    dbias[i] = static_cast<float>(dz);
    dweight[i] = static_cast<float>(product * inverse);
    // dx = scale * (dz - mean(dz) - (x - mean) * inverse^2 * mean(dz * (x - mean)))
    const double k = static_cast<double>(scale[i]), count = static_cast<double>(rows);
    slope[i] = static_cast<float>(-k * inverse * inverse * product / count);
    offset[i] = static_cast<float>(-k * dz / count);
  }
  over_groups(rows, [&](int64_t begin, int64_t end, int) {
    backward_input_task(begin, end, c, x, mean, scale.data(), shift.data(), slope.data(),
                        offset.data(), act, dy, dx);
  });
}

void image_scale(int n, int area, int c, const float* x, const float* scale, const float* shift,
                 float* y) {
#pragma omp parallel for schedule(static)
  for (int i = 0; i < n; ++i) {
    const int64_t at = int64_t{i} * area * c, row = int64_t{i} * c;
    image_scale_task(area, c, x + at, scale + row, shift == nullptr ? nullptr : shift + row,
                     y + at);
  }
}

void image_dot(int n, int area, int c, const float* a, const float* b, float* sum) {
#pragma omp parallel for schedule(static)
  for (int i = 0; i < n; ++i) {
    const int64_t at = int64_t{i} * area * c;
    image_dot_task(area, c, a + at, b == nullptr ? nullptr : b + at, sum + int64_t{i} * c);
  }
}

void patches(int n, int h, int c, int kernel, int stride, const float* x, float* out) {
  const int margin = kernel / 2, h_out = strided(h, stride);
  const size_t row = static_cast<size_t>(kernel * kernel * c);
#pragma omp parallel for schedule(static)
  for (int i = 0; i < n; ++i) {
    const float* image = x + int64_t{i} * h * h * c;
    float* to = out + static_cast<size_t>(i) * static_cast<size_t>(h_out * h_out) * row;
    for (int oy = 0; oy < h_out; ++oy) {
      for (int ox = 0; ox < h_out; ++ox) {
        for (int ky = 0; ky < kernel; ++ky) {
          for (int kx = 0; kx < kernel; ++kx, to += c) {
            const int iy = oy * stride + ky - margin, ix = ox * stride + kx - margin;
            const bool inside = iy >= 0 && iy < h && ix >= 0 && ix < h;
            if (inside) {
              std::memcpy(to, image + (iy * h + ix) * c, static_cast<size_t>(c) * sizeof(float));
            } else {
              std::fill_n(to, c, 0.0f);
            }
          }
        }
      }
    }
  }
}

}  // namespace chanas
