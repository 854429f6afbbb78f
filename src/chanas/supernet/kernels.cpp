#include "chanas/supernet/kernels.h"

#include <algorithm>
#include <vector>

#include "chanas/supernet/lanes.h"

namespace chanas {
namespace {

// Rows are passed over in tiles, a tile in blocks of columns. Blocks of several vectors are read in
// long runs, which memory delivers faster than single vectors with gaps between them.
constexpr int kTileRows = 64;

// Columns [first, ...) of a row: kCount vectors of `lanes` floats.
template <int kCount>
struct Columns {
  static constexpr int count = kCount;
  int first, lanes;
};

// What belongs to such columns.
template <int kCount>
struct Vectors {
  Lanes v[kCount];
  Lanes& operator[](int i) { return v[i]; }
  const Lanes& operator[](int i) const { return v[i]; }
};

template <int kCount>
CHANAS_INLINE Vectors<kCount> load_vectors(const float* row, Columns<kCount> at) {
  Vectors<kCount> out;
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) out[i] = load(row + at.first + i * kLanes, at.lanes);
  return out;
}

// f(Columns<>) for all of c columns.
template <typename F>
CHANAS_INLINE void over_columns(int c, const F& f) {
  int first = 0;
  for (; c - first >= 4 * kLanes; first += 4 * kLanes) f(Columns<4>{first, kLanes});
  if (c - first >= 3 * kLanes) {
    f(Columns<3>{first, kLanes});
    first += 3 * kLanes;
  } else if (c - first >= 2 * kLanes) {
    f(Columns<2>{first, kLanes});
    first += 2 * kLanes;
  } else if (c - first >= kLanes) {
    f(Columns<1>{first, kLanes});
    first += kLanes;
  }
  if (first < c) f(Columns<1>{first, c - first});
}

// f(Columns<>, first row, last row) for all tiles of rows [begin, end).
template <typename F>
CHANAS_INLINE void over_tiles(int64_t begin, int64_t end, int c, const F& f) {
  for (int64_t row = begin; row < end; row += kTileRows) {
    const int64_t row_end = std::min(row + kTileRows, end);
    over_columns(
        c, [&](auto at) __attribute__((always_inline)) { f(at, row, row_end); });
  }
}

// f(i, offset) for each vector of these columns in rows [row, row_end).
template <int kCount, typename F>
CHANAS_INLINE void over_vectors(int64_t row, int64_t row_end, int c, Columns<kCount> at,
                                const F& f) {
  for (int64_t r = row; r < row_end; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) f(i, r * c + at.first + i * kLanes);
  }
}

template <int kCount>
CHANAS_INLINE void add_to(double* sums, Columns<kCount> at, const Vectors<kCount>& parts) {
  for (int i = 0; i < kCount; ++i) {
    for (int l = 0; l < at.lanes; ++l) {
      sums[at.first + i * kLanes + l] += static_cast<double>(parts[i][l]);
    }
  }
}

// sums [2, c] in double: of x - pivot and of its square.
CHANAS_CLONES void statistics_task(int64_t begin, int64_t end, int c, const float* x,
                                   const float* pivot, double* sums) {
  over_tiles(
      begin, end, c, [&](auto at, int64_t row, int64_t row_end) __attribute__((always_inline)) {
        const auto p = load_vectors(pivot, at);
        Vectors<at.count> sum = {}, square = {};
        over_vectors(
            row, row_end, c, at, [&](int i, int64_t offset) __attribute__((always_inline)) {
              const Lanes d = load(x + offset, at.lanes) - p[i];
              sum[i] += d;
              square[i] += d * d;
            });
        add_to(sums, at, sum);
        add_to(sums + c, at, square);
      });
}

CHANAS_CLONES void scale_activate_task(int64_t begin, int64_t end, int c, const float* x,
                                       const float* scale, const float* shift, Activation act,
                                       const float* residual, float* y) {
  with_activation(
      act, [&](auto a) __attribute__((always_inline)) {
        over_tiles(
            begin, end,
            c, [&](auto at, int64_t row, int64_t row_end) __attribute__((always_inline)) {
              const auto k = load_vectors(scale, at), b = load_vectors(shift, at);
              over_vectors(
                  row, row_end, c, at, [&](int i, int64_t offset) __attribute__((always_inline)) {
                    const Lanes z = load(x + offset, at.lanes) * k[i] + b[i];
                    Lanes value = activate<decltype(a)::value>(z);
                    if (residual != nullptr) value += load(residual + offset, at.lanes);
                    store(y + offset, value, at.lanes);
                  });
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
            begin, end,
            c, [&](auto at, int64_t row, int64_t row_end) __attribute__((always_inline)) {
              const auto k = load_vectors(scale, at), b = load_vectors(shift, at),
                         m = load_vectors(mean, at);
              Vectors<at.count> sum = {}, product = {};
              over_vectors(
                  row, row_end, c, at, [&](int i, int64_t offset) __attribute__((always_inline)) {
                    const Lanes v = load(x + offset, at.lanes), d = load(dy + offset, at.lanes);
                    const Lanes dz = activate_backward<decltype(a)::value>(v * k[i] + b[i], d);
                    sum[i] += dz;
                    product[i] += dz * (v - m[i]);
                  });
              add_to(sums, at, sum);
              add_to(sums + c, at, product);
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
            begin, end,
            c, [&](auto at, int64_t row, int64_t row_end) __attribute__((always_inline)) {
              const auto k = load_vectors(scale, at), b = load_vectors(shift, at),
                         m = load_vectors(mean, at);
              const auto s = load_vectors(slope, at), o = load_vectors(offset, at);
              over_vectors(
                  row, row_end, c, at, [&](int i, int64_t to) __attribute__((always_inline)) {
                    const Lanes v = load(x + to, at.lanes), d = load(dy + to, at.lanes);
                    const Lanes dz = activate_backward<decltype(a)::value>(v * k[i] + b[i], d);
                    store(dx + to, k[i] * dz + (s[i] * (v - m[i]) + o[i]), at.lanes);
                  });
            });
      });
}

CHANAS_CLONES void image_scale_task(int area, int c, const float* x, const float* scale,
                                    const float* shift, float* y) {
  over_columns(
      c, [&](auto at) __attribute__((always_inline)) {
        const auto k = load_vectors(scale, at);
        const auto b = shift == nullptr ? Vectors<at.count>() : load_vectors(shift, at);
        over_vectors(
            0, area, c, at, [&](int i, int64_t offset) __attribute__((always_inline)) {
              store(y + offset, load(x + offset, at.lanes) * k[i] + b[i], at.lanes);
            });
      });
}

CHANAS_CLONES void image_dot_task(int area, int c, const float* a, const float* b, float* sum) {
  over_columns(
      c, [&](auto at) __attribute__((always_inline)) {
        Vectors<at.count> total = {};
        over_vectors(
            0, area, c, at, [&](int i, int64_t offset) __attribute__((always_inline)) {
              const Lanes v = load(a + offset, at.lanes);
              total[i] += b == nullptr ? v : v * load(b + offset, at.lanes);
            });
        for (int i = 0; i < at.count; ++i) store(sum + at.first + i * kLanes, total[i], at.lanes);
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
