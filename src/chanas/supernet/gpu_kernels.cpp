#include "chanas/supernet/gpu_kernels.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace chanas::gpu {
namespace {

using at::Tensor;

constexpr int kGroup = 8;          // channels that belong together
constexpr int kThreads = 256;      // of most blocks
constexpr int kMaxRowBytes = 512;  // of one channel of an image whose rows fit in shared memory

std::unique_ptr<Launcher>& launcher() {
  static std::unique_ptr<Launcher> launcher;
  return launcher;
}

// As in gpu_kernels.cu.
struct Tiling {
  int n, h, w, c, h_out, w_out;
  int chunk, rows, images;
};

int to_int(int64_t value) { return static_cast<int>(value); }
int64_t up(int64_t value, int64_t by) { return (value + by - 1) / by; }

bool is_wide(const Tensor& x) { return x.scalar_type() == at::kFloat; }
size_t pair_bytes(const Tensor& x) { return 2 * x.element_size(); }

void* data(const Tensor& x) { return x.defined() ? x.mutable_data_ptr() : nullptr; }
const void* read(const Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

// Arguments are passed by their addresses, so each has to have the kernel's type.
template <typename... Arguments>
void start(const Variant& variant, const char* kernel, Extent grid, Extent block, size_t shared,
           Arguments... arguments) {
  void* addresses[] = {&arguments...};
  launcher()->launch(variant, kernel, grid, block, shared, addresses);
}

// How threads share out columns and rows of [rows, c].
struct Columns {
  Extent grid, block;
  Columns(int64_t rows, int64_t c, int rows_per_thread, int blocks_per_processor) {
    const int64_t groups = c / kGroup;
    block.x = to_int(up(groups, up(groups, 32)));
    block.y = std::max(1, kThreads / block.x);
    grid.x = to_int(up(groups, block.x));
    const int64_t most =
        std::max<int64_t>(1, int64_t{blocks_per_processor} * launcher()->processors() / grid.x);
    grid.y = to_int(std::min(most, up(rows, int64_t{block.y} * rows_per_thread)));
  }
  size_t shared(int values) const {
    return sizeof(float) * static_cast<size_t>(values * block.x * block.y);
  }
};

constexpr Extent kFinish = {32, 16};  // columns, parts
constexpr size_t kFinishShared = sizeof(double) * 32 * 16;

// out [size] from partial [parts, size].
void finish_sums(const Tensor& partial, const Tensor& out) {
  const int size = to_int(out.numel());
  start({}, "finish_sums", {to_int(up(size, kFinish.x))}, kFinish, kFinishShared, read(partial),
        to_int(partial.size(0)), size, data(out));
}

int64_t rows_of(const Tensor& x) { return x.numel() / x.size(-1); }

// The channels of a block: as even as groups of 8 allow, at most `most`.
int chunk_of(int64_t c, int64_t most) {
  const int64_t groups = c / kGroup;
  return to_int(kGroup * up(groups, up(groups, most / kGroup)));
}

Tiling tiling_of(const Tensor& x, const Tensor& y) {
  return {to_int(x.size(0)),
          to_int(x.size(1)),
          to_int(x.size(2)),
          to_int(x.size(3)),
          to_int(y.size(1)),
          to_int(y.size(2)),
          0,
          0,
          0};
}

// Makes a tiling small enough for several blocks on one processor: first fewer rows, then fewer
// channels. bytes_of gives what a block takes; `least` rows have to stay.
template <typename Bytes>
size_t shrink(Tiling& t, int least, size_t wanted, const Bytes& bytes_of) {
  while (bytes_of(t) > wanted && t.rows > least) t.rows = std::max(least, t.rows / 2);
  while (bytes_of(t) > wanted && t.chunk > kGroup) t.chunk = chunk_of(t.c, t.chunk / 2);
  return bytes_of(t);
}

// A convolution of the tile's rows, from x [n, h, w, c] with `stride` over the tile (that of the
// gradient is 1).
void convolve(const std::string& kernel, const Tensor& from, const Tensor& scale,
              const Tensor& shift, Activation act, const Tensor& window, int64_t stride,
              bool backward, Tiling t, const Tensor& to) {
  const int k = to_int(window.size(3)), step = backward ? 1 : to_int(stride);
  const int h_to = to_int(to.size(1)), w_to = to_int(to.size(2));
  const int rows_of_thread = h_to <= 4 || h_to == 12 ? 4 : 8;
  t.chunk = chunk_of(t.c, h_to <= 8 ? 64 : 32);
  t.rows = to_int(std::min(up(h_to, rows_of_thread) * rows_of_thread, int64_t{16}));
  const size_t shared = shrink(t, rows_of_thread, 72 << 10, [&](const Tiling& tiling) {
    const auto pairs = static_cast<size_t>(tiling.chunk / 2);
    const size_t rows = static_cast<size_t>((tiling.rows - 1) * step + k);
    const size_t columns = static_cast<size_t>((w_to - 1) * step + k);
    return static_cast<size_t>(k * k) * pairs * sizeof(float) * 2 +
           rows * columns * pairs * pair_bytes(from);
  });
  const int pairs = t.chunk / 2, items = t.rows / rows_of_thread * w_to;
  Extent grid, block;
  block.x = pairs;
  block.y = to_int(up(items, up(items, std::max(1, kThreads / pairs))));
  grid.x = to_int(up(t.c, t.chunk));
  grid.y = to_int(up(h_to, t.rows));
  // A block that goes on to the next image has its windows already.
  const int64_t blocks = int64_t{t.n} * grid.x * grid.y;
  t.images = to_int(std::clamp<int64_t>(blocks / (8 * launcher()->processors()), 1, 16));
  grid.z = to_int(up(t.n, t.images));
  const std::string name = kernel + (rows_of_thread == 4 ? "_4" : "_8");
  const Variant variant{is_wide(from), k, to_int(stride)};
  if (backward) {
    start(variant, name.c_str(), grid, block, shared, read(from), read(window), data(to), t);
  } else {
    start(variant, name.c_str(), grid, block, shared, read(from), read(scale), read(shift),
          static_cast<int>(act), read(window), data(to), t);
  }
}

}  // namespace

void use(std::unique_ptr<Launcher> wanted) { launcher() = std::move(wanted); }

bool runs(const Tensor& x) {
  return launcher() != nullptr && x.is_cpu() == launcher()->on_cpu() &&
         (is_wide(x) || x.scalar_type() == at::kBFloat16) && x.size(-1) % kGroup == 0;
}

bool runs_depthwise(const Tensor& x, const Tensor& window, int64_t stride) {
  const int64_t k = window.size(3);
  return runs(x) && x.size(2) * x.element_size() <= kMaxRowBytes && (k == 3 || k == 5 || k == 7) &&
         (stride == 1 || stride == 2);
}

void column_statistics(const Tensor& x, const Tensor& mean, const Tensor& variance) {
  column_scaling(x, {}, {}, 0, mean, variance, {}, {}, {});
}

void column_scaling(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                    const Tensor& mean, const Tensor& variance, const Tensor& inverse,
                    const Tensor& scale, const Tensor& shift) {
  const int64_t rows = rows_of(x);
  const int c = to_int(x.size(-1));
  const Columns columns(rows, c, 8, 4);
  const Tensor partial = at::empty({columns.grid.y, 2, c}, mean.options());
  const Variant variant{.wide = is_wide(x)};
  start(variant, "column_sums", columns.grid, columns.block, columns.shared(16), read(x),
        static_cast<long long>(rows), c, data(partial));
  start(variant, "finish_statistics", {to_int(up(c, kFinish.x))}, kFinish, kFinishShared,
        read(partial), columns.grid.y, read(x), static_cast<long long>(rows), c, read(weight),
        read(bias), static_cast<float>(epsilon), data(mean), data(variance), data(inverse),
        data(scale), data(shift));
}

void scale_activate(const Tensor& x, const Tensor& scale, const Tensor& shift, Activation act,
                    const Tensor& residual, const Tensor& y) {
  const int64_t rows = rows_of(x);
  const int c = to_int(x.size(-1));
  const Columns columns(rows, c, 4, 16);
  start({.wide = is_wide(x)}, "scale_activate", columns.grid, columns.block, 0, read(x),
        read(scale), read(shift), static_cast<int>(act), read(residual),
        static_cast<long long>(rows), c, data(y));
}

Tensor norm_backward_sums(const Tensor& x, const Norm& norm, Activation act, const Tensor& dy) {
  const int64_t rows = rows_of(x);
  const int c = to_int(x.size(-1));
  const Columns columns(rows, c, 8, 4);
  const Tensor partial = at::empty({columns.grid.y, 2, c}, norm.scale.options());
  start({.wide = is_wide(x)}, "norm_backward_sums", columns.grid, columns.block, columns.shared(16),
        read(x), read(dy), read(norm.scale), read(norm.shift), read(norm.mean), read(norm.inverse),
        static_cast<int>(act), static_cast<long long>(rows), c, data(partial));
  Tensor sums = at::empty({2, c}, norm.scale.options());
  finish_sums(partial, sums);
  return sums;
}

void norm_backward(const Tensor& x, const Norm& norm, Activation act, const Tensor& dy,
                   const Tensor& sums, double batch_rows, const Tensor& dx) {
  const int64_t rows = rows_of(x);
  const int c = to_int(x.size(-1));
  const Columns columns(rows, c, 4, 16);
  start({.wide = is_wide(x)}, "norm_backward", columns.grid, columns.block, 0, read(x), read(dy),
        read(norm.scale), read(norm.shift), read(norm.mean), read(norm.inverse), read(sums),
        static_cast<float>(1 / batch_rows), static_cast<int>(act), static_cast<long long>(rows), c,
        data(dx));
}

void depthwise_forward(const Tensor& x, const Tensor& scale, const Tensor& shift, Activation act,
                       const Tensor& window, int64_t stride, const Tensor& y) {
  convolve("depthwise_forward", x, scale, shift, act, window, stride, false, tiling_of(x, y), y);
}

void depthwise_backward(const Tensor& x, const Tensor& scale, const Tensor& shift, Activation act,
                        const Tensor& window, int64_t stride, const Tensor& dy, const Tensor& dx,
                        const Tensor& dwindow) {
  Tiling t = tiling_of(x, dy);
  if (dx.defined()) {
    convolve("depthwise_backward", dy, {}, {}, Activation::kNone, window, stride, true, t, dx);
  }
  const int k = to_int(window.size(3)), step = to_int(stride);
  // Pixels of a row that a thread takes at a time.
  const int columns_of_thread = (t.w_out - 1) % 8 < 4 ? 4 : 8;
  const int w_tile = to_int(up(t.w_out, columns_of_thread)) * columns_of_thread;
  t.chunk = chunk_of(t.c, t.h_out <= 8 ? 64 : 32);
  t.rows = std::min(t.h_out, 16);
  size_t shared = shrink(t, std::min(t.rows, 4), 56 << 10, [&](const Tiling& tiling) {
    const auto pairs = static_cast<size_t>(tiling.chunk / 2);
    const auto rows = static_cast<size_t>((tiling.rows - 1) * step + k);
    const auto pitch = static_cast<size_t>(((w_tile - 1) * step + k) | 1);
    return (rows * pitch + static_cast<size_t>(tiling.rows * w_tile)) * pairs * pair_bytes(x);
  });
  Extent grid, block;
  block.x = t.chunk / 2;
  block.y = k;
  block.z = std::clamp(2 * kThreads / (block.x * block.y), 1, std::min(t.rows, 8));
  shared = std::max(shared, sizeof(float) * 2 * static_cast<size_t>(block.z * k * k * block.x));
  grid.x = to_int(up(t.c, t.chunk));
  t.images = to_int(up(int64_t{t.n} * grid.x, 4 * launcher()->processors()));
  grid.y = to_int(up(t.n, t.images));
  const Tensor partial =
      at::empty({grid.y, t.c, k, k}, at::TensorOptions(x.device()).dtype(at::kFloat));
  start({is_wide(x), k, step}, columns_of_thread == 4 ? "window_gradient_4" : "window_gradient_8",
        grid, block, shared, read(x), read(scale), read(shift), static_cast<int>(act), read(dy), t,
        data(partial));
  const Tensor sums = is_wide(x) ? dwindow : at::empty(dwindow.sizes(), partial.options());
  finish_sums(partial, sums);
  if (!is_wide(x)) Tensor(dwindow).copy_(sums);
}

void image_scale(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& y) {
  const int area = to_int(x.size(1) * x.size(2)), c = to_int(x.size(3));
  Columns columns(area, c, 1, 1);
  columns.grid.y = to_int(x.size(0));
  columns.block.y = std::min(columns.block.y, area);
  start({.wide = is_wide(x)}, "image_scale", columns.grid, columns.block, 0, read(x), read(scale),
        read(shift), area, c, data(y));
}

void image_dot(const Tensor& a, const Tensor& b, const Tensor& sum) {
  const int area = to_int(a.size(1) * a.size(2)), c = to_int(a.size(3));
  Columns columns(area, c, 1, 1);
  columns.grid.y = to_int(a.size(0));
  columns.block.y = std::min(columns.block.y, area);
  start({.wide = is_wide(a)}, "image_dot", columns.grid, columns.block, columns.shared(8), read(a),
        read(b), area, c, data(sum));
}

}  // namespace chanas::gpu
