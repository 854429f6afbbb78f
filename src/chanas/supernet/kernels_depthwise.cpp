#include <algorithm>
#include <new>
#include <vector>

#include "chanas/supernet/kernels.h"
#include "chanas/supernet/lanes.h"

namespace chanas {
namespace {

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

// The same of a mapped input; scale and shift begin at this block.
CHANAS_INLINE void copy_in_mapped(const float* from, int h, int w, int c, int lanes, int margin,
                                  const float* scale, const float* shift, Activation act,
                                  Plane to) {
  const Lanes k = load(scale, lanes), b = load(shift, lanes);
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        for (int y = 0; y < h; ++y) {
          Lanes* row = to.data + (margin + y) * to.width + margin;
          for (int x = 0; x < w; ++x) {
            const Lanes v = load(from + int64_t{y * w + x} * c, lanes);
            row[x] = activate<decltype(a)::value>(v * k + b);
          }
        }
      });
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

CHANAS_INLINE void copy_input(const DepthwiseShape& s, const float* x, const InputMap& map, Block b,
                              Plane padded) {
  const int margin = s.kernel / 2;
  if (map.scale == nullptr) {
    copy_in(x + b.first, s.h, s.w, s.c, b.lanes, margin, 1, padded);
  } else {
    copy_in_mapped(x + b.first, s.h, s.w, s.c, b.lanes, margin, map.scale + b.first,
                   map.shift + b.first, map.act, padded);
  }
}

template <int kKernel, int kStride>
CHANAS_INLINE void forward_image(const DepthwiseShape& s, const float* x, const InputMap& map,
                                 Block b, Plane padded, const Lanes* weight, float* y) {
  const int margin = s.kernel / 2;
  copy_input(s, x, map, b, padded);
  convolve<kKernel, kStride>(padded, s.kernel, margin, weight, s.h_out(), s.w_out(), y + b.first,
                             s.c, b.lanes);
}

template <int kKernel, int kStride>
CHANAS_INLINE void backward_image(const DepthwiseShape& s, const float* x, const InputMap& map,
                                  const float* dy, Block b, Plane padded, Plane padded_dy,
                                  const Lanes* flipped, float* dx, Lanes* sums) {
  const int margin = s.kernel / 2;
  copy_input(s, x, map, b, padded);
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

CHANAS_CLONES void forward_task(const DepthwiseShape& s, const float* x, const InputMap& map,
                                const float* weight, int block, int begin, int end, float* y) {
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
              s, x + int64_t{i} * s.h * s.w * s.c, map, b, padded, packed,
              y + int64_t{i} * s.h_out() * s.w_out() * s.c);
        }
      });
}

CHANAS_CLONES void backward_task(const DepthwiseShape& s, const float* x, const InputMap& map,
                                 const float* weight, const float* dy, int block, int begin,
                                 int end, float* dx, float* sums) {
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
              s, x + in, map, dy + int64_t{i} * s.h_out() * s.w_out() * s.c, b, padded, padded_dy,
              flipped, dx == nullptr ? nullptr : dx + in, total);
        }
      });
  for (int t = 0; t < taps; ++t) {
    for (int l = 0; l < b.lanes; ++l) sums[l * taps + t] = total[t][l];
  }
}

}  // namespace

void depthwise_forward(const DepthwiseShape& s, const float* x, const InputMap& map,
                       const float* weight, float* y) {
  const int blocks = block_count(s.c), groups = std::min(s.n, kGroups);
  const int step = (s.n + groups - 1) / groups;
#pragma omp parallel for schedule(static)
  for (int task = 0; task < groups * blocks; ++task) {
    const int begin = task / blocks * step;
    forward_task(s, x, map, weight, task % blocks, begin, std::min(s.n, begin + step), y);
  }
}

void depthwise_backward(const DepthwiseShape& s, const float* x, const InputMap& map,
                        const float* weight, const float* dy, float* dx, float* dweight) {
  const int blocks = block_count(s.c), groups = std::min(s.n, kGroups);
  const int step = (s.n + groups - 1) / groups, taps = s.kernel * s.kernel;
  const size_t size = static_cast<size_t>(s.c) * static_cast<size_t>(taps);
  std::vector<float> sums(size * static_cast<size_t>(groups));
#pragma omp parallel for schedule(static)
  for (int task = 0; task < groups * blocks; ++task) {
    const int begin = task / blocks * step, block = task % blocks;
    backward_task(s, x, map, weight, dy, block, begin, std::min(s.n, begin + step), dx,
                  &sums[static_cast<size_t>(task / blocks) * size +
                        static_cast<size_t>(block * kLanes * taps)]);
  }
  std::copy_n(sums.begin(), size, dweight);
  for (size_t g = 1; g < static_cast<size_t>(groups); ++g) {
    for (size_t i = 0; i < size; ++i) dweight[i] += sums[g * size + i];
  }
}

}  // namespace chanas
