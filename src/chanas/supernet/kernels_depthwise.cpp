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

// A block of channels of an image or of the weights.
struct Block {
  int first, lanes;
};
Block block_at(int index, int c) { return {index * kLanes, std::min(kLanes, c - index * kLanes)}; }
int block_count(int c) { return (c + kLanes - 1) / kLanes; }

// Copies one block of an image [h, w, c], mapped, behind a margin and `step` apart. The plane must
// be zero elsewhere.
CHANAS_CLONES void copy_block(const float* image, int h, int w, int c, Block b, const InputMap& map,
                              int margin, int step, Plane to) {
  const auto copy = [&](auto value) __attribute__((always_inline)) {
    const float* from = image + b.first;
    for (int y = 0; y < h; ++y) {
      Lanes* row = to.data + (margin + y * step) * to.width + margin;
      for (int x = 0; x < w; ++x, from += c) {
        row[x * step] = value(load(from, b.lanes));
      }
    }
  };
  if (map.scale == nullptr) return copy([](Lanes v) { return v; });
  const Lanes k = load(map.scale + b.first, b.lanes), shift = load(map.shift + b.first, b.lanes);
  with_activation(
      map.act, [&](auto a) __attribute__((always_inline)) {
        copy([&](Lanes v) __attribute__((always_inline)) {
          return activate<decltype(a)::value>(v * k + shift);
        });
      });
}

// f(kernel, stride), both known when compiling; 0: others.
template <typename F>
CHANAS_INLINE void with_window(int kernel, int stride, const F& f) {
  const auto with_stride = [&](auto k) __attribute__((always_inline)) {
    if (stride == 1) return f(k, std::integral_constant<int, 1>());
    if (stride == 2) return f(k, std::integral_constant<int, 2>());
    f(k, std::integral_constant<int, 0>());
  };
  if (kernel == 3) return with_stride(std::integral_constant<int, 3>());
  if (kernel == 5) return with_stride(std::integral_constant<int, 5>());
  if (kernel == 7) return with_stride(std::integral_constant<int, 7>());
  with_stride(std::integral_constant<int, 0>());
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

template <int kKernel, int kStride>
CHANAS_INLINE void convolve(Plane in, int kernel, int any_stride, int margin, const Lanes* weight,
                            int h_out, int w_out, float* y, int c, int lanes) {
  const int stride = kStride == 0 ? any_stride : kStride;
  for (int oy = 0; oy < h_out; ++oy) {
    const int ky_begin = std::clamp(margin - oy * stride, 0, kernel);
    const int ky_end = std::clamp(in.height - margin - oy * stride, ky_begin, kernel);
    const Lanes* row = in.data + oy * stride * in.width;
    float* to = y + int64_t{oy} * w_out * c;
    int ox = 0;
    Lanes sums[8];
    const auto tile = [&](auto size) __attribute__((always_inline)) {
      constexpr int kTile = decltype(size)::value;
      for (; ox + kTile <= w_out; ox += kTile) {
        convolve_tile<kKernel, kTile>(row + ox * stride, in.width, kernel, stride, ky_begin, ky_end,
                                      weight, sums);
        for (int t = 0; t < kTile; ++t) store(to + int64_t{ox + t} * c, sums[t], lanes);
      }
    };
    tile(std::integral_constant<int, 8>());
    tile(std::integral_constant<int, 4>());
    tile(std::integral_constant<int, 2>());
    tile(std::integral_constant<int, 1>());
  }
}

// The block b of y [h_out, w_out, c]. `margin`: rows at top and bottom of the plane that are zero,
// whose taps are left out.
CHANAS_CLONES void convolve_block(Plane in, int kernel, int stride, int margin, const Lanes* weight,
                                  int h_out, int w_out, float* y, int c, Block b) {
  with_window(
      kernel, stride, [&](auto k, auto s) __attribute__((always_inline)) {
        convolve<decltype(k)::value, decltype(s)::value>(in, kernel, stride, margin, weight, h_out,
                                                         w_out, y + b.first, c, b.lanes);
      });
}

template <int kKernel, int kStride>
CHANAS_INLINE void correlate(Plane in, Plane dy, int kernel, int any_stride, int margin, int h_out,
                             int w_out, Lanes* sums) {
  const int k = kKernel == 0 ? kernel : kKernel, stride = kStride == 0 ? any_stride : kStride;
  constexpr int kMax = kKernel == 0 ? kMaxKernel : kKernel;
  for (int ky = 0; ky < k; ++ky) {
    Lanes sum[kMax], second[kMax];
    for (int kx = 0; kx < k; ++kx) {
      sum[kx] = sums[ky * k + kx];
      second[kx] = Lanes{};
    }
    for (int oy = 0; oy < h_out; ++oy) {
      const int iy = oy * stride + ky;
      if (iy < margin || iy >= in.height - margin) continue;
      const Lanes* row = in.data + iy * in.width;
      const Lanes* from = dy.data + (margin + oy * stride) * dy.width + margin;
      int ox = 0;
      for (; ox + 2 <= w_out; ox += 2) {
        const Lanes d0 = from[ox * stride], d1 = from[(ox + 1) * stride];
#pragma GCC unroll 7
        for (int kx = 0; kx < k; ++kx) {
          sum[kx] += d0 * row[ox * stride + kx];
          second[kx] += d1 * row[(ox + 1) * stride + kx];
        }
      }
      if (ox < w_out) {
        const Lanes d0 = from[ox * stride];
        for (int kx = 0; kx < k; ++kx) sum[kx] += d0 * row[ox * stride + kx];
      }
    }
    for (int kx = 0; kx < k; ++kx) sums[ky * k + kx] = sum[kx] + second[kx];
  }
}

// sums[ky * k + kx] += dy * shifted input; dy [h_out, w_out] behind the margin, `stride` apart.
CHANAS_CLONES void correlate_block(Plane in, Plane dy, int kernel, int stride, int margin,
                                   int h_out, int w_out, Lanes* sums) {
  with_window(
      kernel, stride, [&](auto k, auto s) __attribute__((always_inline)) {
        correlate<decltype(k)::value, decltype(s)::value>(in, dy, kernel, stride, margin, h_out,
                                                          w_out, sums);
      });
}

// One block's weights, one vector per tap; `flip` turns the window by half a circle.
CHANAS_CLONES void pack(const float* weight, int taps, Block b, bool flip, Lanes* out) {
  weight += int64_t{b.first} * taps;
  for (int t = 0; t < taps; ++t) {
    Lanes v = {};
    for (int l = 0; l < b.lanes; ++l) v[l] = weight[l * taps + (flip ? taps - 1 - t : t)];
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

// Images [begin, end) of one block.
void forward_task(const DepthwiseShape& s, const float* x, const InputMap& map, const float* weight,
                  Block b, int begin, int end, float* y) {
  const int taps = s.kernel * s.kernel, margin = s.kernel / 2;
  Plane padded{s.h + 2 * margin, s.w + 2 * margin, nullptr};
  Scratch scratch(static_cast<size_t>(taps + padded.height * padded.width));
  Lanes* packed = scratch.data();
  padded.data = packed + taps;
  pack(weight, taps, b, false, packed);
  for (int i = begin; i < end; ++i) {
    copy_block(x + int64_t{i} * s.h * s.w * s.c, s.h, s.w, s.c, b, map, margin, 1, padded);
    convolve_block(padded, s.kernel, s.stride, margin, packed, s.h_out(), s.w_out(),
                   y + int64_t{i} * s.h_out() * s.w_out() * s.c, s.c, b);
  }
}

void backward_task(const DepthwiseShape& s, const float* x, const InputMap& map,
                   const float* weight, const float* dy, Block b, int begin, int end, float* dx,
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
  pack(weight, taps, b, true, flipped);
  for (int i = begin; i < end; ++i) {
    const int64_t in = int64_t{i} * s.h * s.w * s.c, out = int64_t{i} * s.h_out() * s.w_out() * s.c;
    copy_block(x + in, s.h, s.w, s.c, b, map, margin, 1, padded);
    copy_block(dy + out, s.h_out(), s.w_out(), s.c, b, {}, margin, s.stride, padded_dy);
    correlate_block(padded, padded_dy, s.kernel, s.stride, margin, s.h_out(), s.w_out(), total);
    if (dx == nullptr) continue;
    convolve_block(padded_dy, s.kernel, 1, margin, flipped, s.h, s.w, dx + in, s.c, b);
  }
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
    forward_task(s, x, map, weight, block_at(task % blocks, s.c), begin,
                 std::min(s.n, begin + step), y);
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
    backward_task(s, x, map, weight, dy, block_at(block, s.c), begin, std::min(s.n, begin + step),
                  dx,
                  &sums[static_cast<size_t>(task / blocks) * size +
                        static_cast<size_t>(block * kLanes * taps)]);
  }
  std::copy_n(sums.begin(), size, dweight);
  for (size_t g = 1; g < static_cast<size_t>(groups); ++g) {
    for (size_t i = 0; i < size; ++i) dweight[i] += sums[g * size + i];
  }
}

}  // namespace chanas
