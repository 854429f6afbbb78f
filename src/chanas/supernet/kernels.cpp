#include "chanas/supernet/kernels.h"

#include <algorithm>
#include <vector>

#include "chanas/supernet/lanes.h"

namespace chanas {
namespace {

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
