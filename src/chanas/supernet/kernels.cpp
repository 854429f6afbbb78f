#include "chanas/supernet/kernels.h"

#include <algorithm>
#include <vector>

#include "chanas/supernet/lanes.h"

namespace chanas {
namespace {

// Rows are passed over in tiles, a tile in blocks of columns. Blocks of several vectors are read in
// long runs, which memory delivers faster than single vectors with gaps between them.
constexpr int kTileRows = 64;

template <int kCount>
struct Block {
  Lanes v[kCount];
};

template <int kCount>
CHANAS_INLINE Block<kCount> load_block(const float* from, int lanes) {
  Block<kCount> block;
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) block.v[i] = load(from + i * kLanes, lanes);
  return block;
}

// block(number of vectors, first column, lanes of its vectors) for all blocks of c columns.
template <typename F>
CHANAS_INLINE void over_columns(int c, const F& block) {
  int first = 0;
  const auto next = [&](auto count) __attribute__((always_inline)) {
    block(count, first, kLanes);
    first += decltype(count)::value * kLanes;
  };
  while (c - first >= 4 * kLanes) next(std::integral_constant<int, 4>());
  if (c - first >= 3 * kLanes) next(std::integral_constant<int, 3>());
  if (c - first >= 2 * kLanes) next(std::integral_constant<int, 2>());
  if (c - first >= kLanes) next(std::integral_constant<int, 1>());
  if (first < c) block(std::integral_constant<int, 1>(), first, c - first);
}

// block(number of vectors, first row, last row, first column, lanes) for all tiles of rows
// [begin, end).
template <typename F>
CHANAS_INLINE void over_tiles(int64_t begin, int64_t end, int c, const F& block) {
  for (int64_t row = begin; row < end; row += kTileRows) {
    const int64_t row_end = std::min(row + kTileRows, end);
    over_columns(
        c, [&](auto count, int first, int lanes)
               __attribute__((always_inline)) { block(count, row, row_end, first, lanes); });
  }
}

template <int kCount>
CHANAS_INLINE void add_to(const Block<kCount>& block, int lanes, double* sums) {
  for (int i = 0; i < kCount; ++i) {
    for (int l = 0; l < lanes; ++l) sums[i * kLanes + l] += static_cast<double>(block.v[i][l]);
  }
}

// sums [2, c] in double: of x - pivot and of its square.
CHANAS_CLONES void statistics_task(int64_t begin, int64_t end, int c, const float* x,
                                   const float* pivot, double* sums) {
  over_tiles(
      begin, end, c,
      [&](auto count, int64_t row, int64_t row_end, int first, int lanes)
          __attribute__((always_inline)) {
            constexpr int kCount = decltype(count)::value;
            const auto p = load_block<kCount>(pivot + first, lanes);
            Block<kCount> sum = {}, square = {};
            for (int64_t r = row; r < row_end; ++r) {
              const float* const at = x + r * c + first;
#pragma GCC unroll 4
              for (int i = 0; i < kCount; ++i) {
                const Lanes d = load(at + i * kLanes, lanes) - p.v[i];
                sum.v[i] += d;
                square.v[i] += d * d;
              }
            }
            add_to(sum, lanes, sums + first);
            add_to(square, lanes, sums + c + first);
          });
}

CHANAS_CLONES void scale_activate_task(int64_t begin, int64_t end, int c, const float* x,
                                       const float* scale, const float* shift, Activation act,
                                       const float* residual, float* y) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        over_tiles(
            begin, end, c,
            [&](auto count, int64_t row, int64_t row_end, int first,
                int lanes) __attribute__((always_inline)) {
              constexpr int kCount = decltype(count)::value;
              const auto k = load_block<kCount>(scale + first, lanes);
              const auto b = load_block<kCount>(shift + first, lanes);
              for (int64_t r = row; r < row_end; ++r) {
#pragma GCC unroll 4
                for (int i = 0; i < kCount; ++i) {
                  const int64_t at = r * c + first + i * kLanes;
                  Lanes value = activate<decltype(a)::value>(load(x + at, lanes) * k.v[i] + b.v[i]);
                  if (residual != nullptr) value += load(residual + at, lanes);
                  store(y + at, value, lanes);
                }
              }
            });
      });
}

// sums [2, c]: of dz, and of dz * (x - mean).
CHANAS_CLONES void backward_sums_task(int64_t begin, int64_t end, int c, const float* x,
                                      const float* mean, const float* scale, const float* shift,
                                      Activation act, const float* dy, double* sums) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        over_tiles(
            begin, end, c,
            [&](auto count, int64_t row, int64_t row_end, int first, int lanes)
                __attribute__((always_inline)) {
                  constexpr int kCount = decltype(count)::value;
                  const auto k = load_block<kCount>(scale + first, lanes);
                  const auto b = load_block<kCount>(shift + first, lanes);
                  const auto m = load_block<kCount>(mean + first, lanes);
                  Block<kCount> sum = {}, product = {};
                  for (int64_t r = row; r < row_end; ++r) {
#pragma GCC unroll 4
                    for (int i = 0; i < kCount; ++i) {
                      const int64_t at = r * c + first + i * kLanes;
                      const Lanes v = load(x + at, lanes);
                      const Lanes dz = activate_backward<decltype(a)::value>(v * k.v[i] + b.v[i],
                                                                             load(dy + at, lanes));
                      sum.v[i] += dz;
                      product.v[i] += dz * (v - m.v[i]);
                    }
                  }
                  add_to(sum, lanes, sums + first);
                  add_to(product, lanes, sums + c + first);
                });
      });
}

// dx = scale * dz + slope * (x - mean) + offset.
CHANAS_CLONES void backward_input_task(int64_t begin, int64_t end, int c, const float* x,
                                       const float* mean, const float* scale, const float* shift,
                                       const float* slope, const float* offset, Activation act,
                                       const float* dy, float* dx) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        over_tiles(
            begin, end, c,
            [&](auto count, int64_t row, int64_t row_end, int first, int lanes)
                __attribute__((always_inline)) {
                  constexpr int kCount = decltype(count)::value;
                  const auto k = load_block<kCount>(scale + first, lanes);
                  const auto b = load_block<kCount>(shift + first, lanes);
                  const auto s = load_block<kCount>(slope + first, lanes);
                  const auto o = load_block<kCount>(offset + first, lanes);
                  const auto m = load_block<kCount>(mean + first, lanes);
                  for (int64_t r = row; r < row_end; ++r) {
#pragma GCC unroll 4
                    for (int i = 0; i < kCount; ++i) {
                      const int64_t at = r * c + first + i * kLanes;
                      const Lanes v = load(x + at, lanes);
                      const Lanes dz = activate_backward<decltype(a)::value>(v * k.v[i] + b.v[i],
                                                                             load(dy + at, lanes));
                      store(dx + at, k.v[i] * dz + (s.v[i] * (v - m.v[i]) + o.v[i]), lanes);
                    }
                  }
                });
      });
}

CHANAS_CLONES void image_scale_task(int area, int c, const float* x, const float* scale,
                                    const float* shift, float* y) {
  over_columns(
      c, [&](auto count, int first, int lanes) __attribute__((always_inline)) {
        constexpr int kCount = decltype(count)::value;
        const auto k = load_block<kCount>(scale + first, lanes);
        const auto b =
            shift == nullptr ? Block<kCount>() : load_block<kCount>(shift + first, lanes);
        for (int r = 0; r < area; ++r) {
#pragma GCC unroll 4
          for (int i = 0; i < kCount; ++i) {
            const int64_t at = int64_t{r} * c + first + i * kLanes;
            store(y + at, load(x + at, lanes) * k.v[i] + b.v[i], lanes);
          }
        }
      });
}

CHANAS_CLONES void image_dot_task(int area, int c, const float* a, const float* b, float* sum) {
  over_columns(
      c, [&](auto count, int first, int lanes) __attribute__((always_inline)) {
        constexpr int kCount = decltype(count)::value;
        Block<kCount> total = {};
        for (int r = 0; r < area; ++r) {
#pragma GCC unroll 4
          for (int i = 0; i < kCount; ++i) {
            const int64_t at = int64_t{r} * c + first + i * kLanes;
            const Lanes v = load(a + at, lanes);
            total.v[i] += b == nullptr ? v : v * load(b + at, lanes);
          }
        }
        for (int i = 0; i < kCount; ++i) store(sum + first + i * kLanes, total.v[i], lanes);
      });
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
                         Activation act, const float* dy, float* dx, float* dweight, float* dbias,
                         const std::function<void(std::span<double>)>& over_parts) {
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
  // dz, dz * (x - mean), rows
  std::vector<double> totals(2 * n + 1, static_cast<double>(rows));
  for (size_t i = 0; i < 2 * n; ++i) totals[i] = sums.total(i);
  for (size_t i = 0; i < n; ++i) {
    dbias[i] = static_cast<float>(totals[i]);
    dweight[i] = static_cast<float>(totals[n + i] * static_cast<double>(inverse_std[i]));
  }
  if (over_parts) over_parts(totals);
  const double count = totals.back();
  for (size_t i = 0; i < n; ++i) {
    const double dz = totals[i], product = totals[n + i];
    const double inverse = static_cast<double>(inverse_std[i]);
    // dx = scale * (dz - mean(dz) - (x - mean) * inverse^2 * mean(dz * (x - mean)))
    const double k = static_cast<double>(scale[i]);
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
