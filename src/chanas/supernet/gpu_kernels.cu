// Device code of gpu_kernels.cpp: what kernels.h does, on NHWC activations of a GPU. NVRTC compiles
// it when a program runs, for each that is needed of
//   CHANAS_WIDE     1: numbers are float32, 0: bfloat16
//   CHANAS_KERNEL   of the depthwise convolutions; 0: all other kernels
//   CHANAS_STRIDE   of the depthwise convolutions
// and the tests compile it as C++, with what it takes from CUDA emulated (testing_gpu.h).
//
// Channels are a multiple of 8, and one thread takes 8 or 2 of them. Sums are in float32 per
// thread, then per block, then in double over the blocks, always in the same order.

#define K CHANAS_KERNEL
#define S CHANAS_STRIDE

struct alignas(16) Words {
  unsigned a, b, c, d;
};
struct alignas(8) Two {
  float lo, hi;
};

#ifdef __CUDACC_RTC__
#define CHANAS_GLOBAL extern "C" __global__
extern __shared__ Words memory[];
#endif

#if CHANAS_WIDE
typedef float Number;
typedef Two Pair;  // two numbers side by side in shared memory
#else
typedef unsigned short Number;
typedef unsigned Pair;
#endif

// One depthwise convolution: x [n, h, w, c] -> y [n, h_out, w_out, c]. A block takes `chunk`
// channels of `rows` rows (a multiple of what a thread takes) of `images` images, one after
// another.
struct Tiling {
  int n, h, w, c, h_out, w_out;
  int chunk, rows, images;
};

// --- Numbers ------------------------------------------------------------------------------------

static __device__ Two two_of(float lo, float hi) {
  Two two;
  two.lo = lo;
  two.hi = hi;
  return two;
}

#if CHANAS_WIDE

static __device__ float wide(Number x) { return x; }
static __device__ Two wide2(Pair p) { return p; }
static __device__ Pair narrow2(float lo, float hi) { return two_of(lo, hi); }

static __device__ void load8(const Number* from, float* v) {
  const Words one = reinterpret_cast<const Words*>(from)[0];
  const Words two = reinterpret_cast<const Words*>(from)[1];
  v[0] = __uint_as_float(one.a);
  v[1] = __uint_as_float(one.b);
  v[2] = __uint_as_float(one.c);
  v[3] = __uint_as_float(one.d);
  v[4] = __uint_as_float(two.a);
  v[5] = __uint_as_float(two.b);
  v[6] = __uint_as_float(two.c);
  v[7] = __uint_as_float(two.d);
}

static __device__ void store8(const float* v, Number* to) {
  Words one, two;
  one.a = __float_as_uint(v[0]);
  one.b = __float_as_uint(v[1]);
  one.c = __float_as_uint(v[2]);
  one.d = __float_as_uint(v[3]);
  two.a = __float_as_uint(v[4]);
  two.b = __float_as_uint(v[5]);
  two.c = __float_as_uint(v[6]);
  two.d = __float_as_uint(v[7]);
  reinterpret_cast<Words*>(to)[0] = one;
  reinterpret_cast<Words*>(to)[1] = two;
}

#else

static __device__ float wide(Number x) { return __uint_as_float(static_cast<unsigned>(x) << 16); }

static __device__ Two wide2(Pair p) {
  return two_of(__uint_as_float(p << 16), __uint_as_float(p & 0xffff0000u));
}

// To the nearest, ties to even.
static __device__ Pair narrow2(float lo, float hi) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
  return packed;
#else
  unsigned a = __float_as_uint(lo), b = __float_as_uint(hi);
  a += 0x7fffu + ((a >> 16) & 1u);
  b += 0x7fffu + ((b >> 16) & 1u);
  return (a >> 16) | (b & 0xffff0000u);
#endif
}

static __device__ void load8(const Number* from, float* v) {
  const Words w = *reinterpret_cast<const Words*>(from);
  v[0] = __uint_as_float(w.a << 16);
  v[1] = __uint_as_float(w.a & 0xffff0000u);
  v[2] = __uint_as_float(w.b << 16);
  v[3] = __uint_as_float(w.b & 0xffff0000u);
  v[4] = __uint_as_float(w.c << 16);
  v[5] = __uint_as_float(w.c & 0xffff0000u);
  v[6] = __uint_as_float(w.d << 16);
  v[7] = __uint_as_float(w.d & 0xffff0000u);
}

static __device__ void store8(const float* v, Number* to) {
  Words w;
  w.a = narrow2(v[0], v[1]);
  w.b = narrow2(v[2], v[3]);
  w.c = narrow2(v[4], v[5]);
  w.d = narrow2(v[6], v[7]);
  *reinterpret_cast<Words*>(to) = w;
}

#endif

static __device__ void load8_wide(const float* from, float* v) {
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = from[i];
}

// Numbers of chanas::Activation.
static __device__ float activated(float z, int act) {
  switch (act) {
    case 1:
      return fmaxf(z, 0);
    case 2:
      return fminf(fmaxf(z, 0), 6);
    case 3:
      return z * fminf(fmaxf(z + 3, 0), 6) * (1.0f / 6);
    default:
      return z;
  }
}

static __device__ float slope(float z, int act) {
  switch (act) {
    case 1:
      return z > 0 ? 1 : 0;
    case 2:
      return z > 0 && z < 6 ? 1 : 0;
    case 3:
      return z <= -3 ? 0 : z < 3 ? z * (1.0f / 3) + 0.5f : 1;
    default:
      return 1;
  }
}

#if CHANAS_KERNEL == 0

// --- Columns of [rows, c] -----------------------------------------------------------------------
// Blocks are (groups of 8 columns, rows); the grid is (blocks of columns, blocks of rows).

static __device__ int column_of_thread() { return (blockIdx.x * blockDim.x + threadIdx.x) * 8; }

// The block's sums of two values for each column, to partial [blocks of rows, 2, c].
static __device__ void sum_of_block(const float* s, int c, float* partial) {
  float* shared = reinterpret_cast<float*>(memory);  // [16, rows, groups]
  for (int i = 0; i < 16; ++i) {
    shared[(i * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] = s[i];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < 16; i += blockDim.y) {
    const int column = column_of_thread();
    if (column >= c) continue;
    float sum = 0;
    for (int row = 0; row < blockDim.y; ++row) {
      sum += shared[(i * blockDim.y + row) * blockDim.x + threadIdx.x];
    }
    partial[(blockIdx.y * 2 + i / 8) * c + column + i % 8] = sum;
  }
}

// Sums of x and its square, seen from the first row, which keeps them small.
CHANAS_GLOBAL void column_sums(const Number* x, long long rows, int c, float* partial) {
  const int column = column_of_thread();
  float s[16] = {};
  if (column < c) {
    float origin[8], v[8];
    load8(x + column, origin);
    const long long step = static_cast<long long>(gridDim.y) * blockDim.y;
#pragma unroll 4
    for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
      load8(x + row * c + column, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float d = v[i] - origin[i];
        s[i] += d;
        s[8 + i] += d * d;
      }
    }
  }
  sum_of_block(s, c, partial);
}

// What eight columns are normalised with.
struct Norm8 {
  float scale[8], shift[8], mean[8], inverse[8];
};

static __device__ void load_norm(const float* scale, const float* shift, const float* mean,
                                 const float* inverse, int column, Norm8& n) {
  load8_wide(scale + column, n.scale);
  load8_wide(shift + column, n.shift);
  load8_wide(mean + column, n.mean);
  load8_wide(inverse + column, n.inverse);
}

// Gradient before the activation, of column i.
static __device__ float before(const Norm8& n, int i, int act, float x, float dy) {
  return dy * slope(x * n.scale[i] + n.shift[i], act);
}

// Sums of dz and dz * normed, dz being the gradient before the activation.
CHANAS_GLOBAL void norm_backward_sums(const Number* x, const Number* dy, const float* scale,
                                      const float* shift, const float* mean, const float* inverse,
                                      int act, long long rows, int c, float* partial) {
  const int column = column_of_thread();
  float s[16] = {};
  if (column < c) {
    float v[8], d[8];
    Norm8 n;
    load_norm(scale, shift, mean, inverse, column, n);
    const long long step = static_cast<long long>(gridDim.y) * blockDim.y;
#pragma unroll 2
    for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
      load8(x + row * c + column, v);
      load8(dy + row * c + column, d);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float dz = before(n, i, act, v[i], d[i]);
        s[i] += dz;
        s[8 + i] += dz * ((v[i] - n.mean[i]) * n.inverse[i]);
      }
    }
  }
  sum_of_block(s, c, partial);
}

// sums [2, c] of norm_backward_sums over all rows of the batch, `share` 1 / their number. dx may be
// dy.
CHANAS_GLOBAL void norm_backward(const Number* x, const Number* dy, const float* scale,
                                 const float* shift, const float* mean, const float* inverse,
                                 const float* sums, float share, int act, long long rows, int c,
                                 Number* dx) {
  const int column = column_of_thread();
  if (column >= c) return;
  float s1[8], s2[8], v[8], d[8];
  Norm8 n;
  load_norm(scale, shift, mean, inverse, column, n);
  load8_wide(sums + column, s1);
  load8_wide(sums + c + column, s2);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    s1[i] *= share;
    s2[i] *= share * n.inverse[i];
  }
  const long long step = static_cast<long long>(gridDim.y) * blockDim.y;
#pragma unroll 2
  for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
    load8(x + row * c + column, v);
    load8(dy + row * c + column, d);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float dz = before(n, i, act, v[i], d[i]);
      d[i] = n.scale[i] * (dz - s1[i] - (v[i] - n.mean[i]) * s2[i]);
    }
    store8(d, dx + row * c + column);
  }
}

// y = act(x * scale + shift) + residual (null: none).
CHANAS_GLOBAL void scale_activate(const Number* x, const float* scale, const float* shift, int act,
                                  const Number* residual, long long rows, int c, Number* y) {
  const int column = column_of_thread();
  if (column >= c) return;
  float a[8], b[8], v[8], other[8];
  load8_wide(scale + column, a);
  load8_wide(shift + column, b);
  const long long step = static_cast<long long>(gridDim.y) * blockDim.y;
#pragma unroll 4
  for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
    load8(x + row * c + column, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = activated(v[i] * a[i] + b[i], act);
    if (residual != nullptr) {
      load8(residual + row * c + column, other);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += other[i];
    }
    store8(v, y + row * c + column);
  }
}

// --- Sums over blocks ---------------------------------------------------------------------------
// Blocks are (columns, parts of the sum).

static __device__ double sum_of_parts(const float* partial, int parts, long long size,
                                      long long at) {
  double* shared = reinterpret_cast<double*>(memory);
  double sum = 0;
  if (at < size) {
    for (int part = threadIdx.y; part < parts; part += blockDim.y) sum += partial[part * size + at];
  }
  __syncthreads();  // of an earlier sum
  shared[threadIdx.y * blockDim.x + threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < blockDim.y; ++i) sum += shared[i * blockDim.x + threadIdx.x];
  return sum;
}

// From column_sums. scale null: statistics only; else also what normalisation comes to with weight
// and bias: x * scale + shift.
CHANAS_GLOBAL void finish_statistics(const float* partial, int parts, const Number* x,
                                     long long rows, int c, const float* weight, const float* bias,
                                     float epsilon, float* mean, float* variance, float* inverse,
                                     float* scale, float* shift) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  const long long size = 2LL * c;
  const double sum = sum_of_parts(partial, parts, size, column < c ? column : size);
  const double squares = sum_of_parts(partial, parts, size, column < c ? c + column : size);
  if (column >= c || threadIdx.y != 0) return;
  const double distance = sum / rows, spread = squares / rows - distance * distance;
  const float m = static_cast<float>(wide(x[column]) + distance);
  const float v = static_cast<float>(spread > 0 ? spread : 0);
  mean[column] = m;
  variance[column] = v;
  if (scale == nullptr) return;
  const float r = 1 / sqrtf(v + epsilon), a = weight[column] * r;
  inverse[column] = r;
  scale[column] = a;
  shift[column] = bias[column] - m * a;
}

// out [size] from partial [parts, size].
CHANAS_GLOBAL void finish_sums(const float* partial, int parts, int size, float* out) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  const double sum = sum_of_parts(partial, parts, size, at);
  if (at < size && threadIdx.y == 0) out[at] = static_cast<float>(sum);
}

// --- Per image and channel ----------------------------------------------------------------------
// The grid is (blocks of columns, images).

// sum[n, c] = sum over i of a[n, i, c] * b[n, i, c]   (b null: 1)
CHANAS_GLOBAL void image_dot(const Number* a, const Number* b, int area, int c, Number* sum) {
  const int column = column_of_thread();
  float s[8] = {}, v[8], other[8];
  if (column < c) {
    const long long first = static_cast<long long>(blockIdx.y) * area * c + column;
    for (int i = threadIdx.y; i < area; i += blockDim.y) {
      load8(a + first + static_cast<long long>(i) * c, v);
      if (b != nullptr) {
        load8(b + first + static_cast<long long>(i) * c, other);
#pragma unroll
        for (int k = 0; k < 8; ++k) s[k] += v[k] * other[k];
      } else {
#pragma unroll
        for (int k = 0; k < 8; ++k) s[k] += v[k];
      }
    }
  }
  float* shared = reinterpret_cast<float*>(memory);  // [8, rows, groups]
  for (int i = 0; i < 8; ++i) {
    shared[(i * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] = s[i];
  }
  __syncthreads();
  if (column >= c || threadIdx.y != 0) return;
  for (int i = 0; i < 8; ++i) {
    s[i] = 0;
    for (int row = 0; row < blockDim.y; ++row) {
      s[i] += shared[(i * blockDim.y + row) * blockDim.x + threadIdx.x];
    }
  }
  store8(s, sum + static_cast<long long>(blockIdx.y) * c + column);
}

// y[n, i, c] = x[n, i, c] * scale[n, c] + shift[n, c]   (shift null: 0)
CHANAS_GLOBAL void image_scale(const Number* x, const Number* scale, const Number* shift, int area,
                               int c, Number* y) {
  const int column = column_of_thread();
  if (column >= c) return;
  float a[8], b[8] = {}, v[8];
  load8(scale + static_cast<long long>(blockIdx.y) * c + column, a);
  if (shift != nullptr) load8(shift + static_cast<long long>(blockIdx.y) * c + column, b);
  const long long first = static_cast<long long>(blockIdx.y) * area * c + column;
#pragma unroll 2
  for (int i = threadIdx.y; i < area; i += blockDim.y) {
    load8(x + first + static_cast<long long>(i) * c, v);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = v[k] * a[k] + b[k];
    store8(v, y + first + static_cast<long long>(i) * c);
  }
}

#else  // CHANAS_KERNEL

// --- Depthwise convolution ----------------------------------------------------------------------
// Blocks are (pairs of channels, pixels); shared memory holds the windows of the block's channels
// and a tile of its input, [row, column, pair]: neighbours in a warp read neighbours in memory.

// Windows [c, K, K] of the block's channels as [K, K, pair].
static __device__ void load_windows(const Number* window, int first, int channels, int pairs,
                                    bool turned, Two* to) {
  const int threads = blockDim.x * blockDim.y;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < K * K * pairs; i += threads) {
    const int pair = i / (K * K), tap = i % (K * K);
    const int from = turned ? K * K - 1 - tap : tap;
    Two w = two_of(0, 0);
    if (2 * pair < channels) {
      const Number* at = window + (static_cast<long long>(first) + 2 * pair) * K * K + from;
      w = two_of(wide(at[0]), wide(at[K * K]));
    }
    to[tap * pairs + pair] = w;
  }
}

// act(x * scale + shift) of one image (scale null: x) from pixel (row0, column0) on, zero outside;
// UP: pixels of x are UP apart, with zeros between them. x [h, w, c] at the block's first channel.
template <int UP>
static __device__ void load_tile(const Number* x, const float* scale, const float* shift, int act,
                                 int h, int w, int c, int channels, int pairs, int row0,
                                 int column0, int rows, int columns, int pitch, Pair* to) {
  const int groups = pairs / 4, threads = blockDim.x * blockDim.y * blockDim.z;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int workers = threads / groups, worker = thread / groups, group = thread % groups;
  if (worker >= workers) return;
  const bool inside = group * 8 < channels;
  float a[8], b[8], v[8];
  if (scale != nullptr && inside) {
    load8_wide(scale + group * 8, a);
    load8_wide(shift + group * 8, b);
  }
#pragma unroll 2
  for (int i = worker; i < rows * columns; i += workers) {
    const int r = i / columns, k = i % columns;
    const int row = (row0 + r) / UP, column = (column0 + k) / UP;
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = 0;
    if (inside && row0 + r >= 0 && column0 + k >= 0 && row < h && column < w &&
        (row0 + r) % UP == 0 && (column0 + k) % UP == 0) {
      load8(x + (static_cast<long long>(row) * w + column) * c + group * 8, v);
      if (scale != nullptr) {
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = activated(v[j] * a[j] + b[j], act);
      }
    }
    Pair* at = to + (r * pitch + k) * pairs + group * 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) at[j] = narrow2(v[2 * j], v[2 * j + 1]);
  }
}

// R pixels below each other, of stride STRIDE over the tile.
template <int STRIDE, int R>
static __device__ void convolve(const Pair* tile, int columns, const Two* windows, int pairs,
                                int row, int column, Two* sums) {
#pragma unroll
  for (int r = 0; r < R; ++r) sums[r] = two_of(0, 0);
#pragma unroll
  for (int kx = 0; kx < K; ++kx) {
    constexpr int kInput = (R - 1) * STRIDE + K;
    Two in[kInput];
    const Pair* from = tile + (row * STRIDE * columns + column * STRIDE + kx) * pairs + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kInput; ++i) in[i] = wide2(from[i * columns * pairs]);
#pragma unroll
    for (int ky = 0; ky < K; ++ky) {
      const Two w = windows[(ky * K + kx) * pairs + threadIdx.x];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        sums[r].lo += in[r * STRIDE + ky].lo * w.lo;
        sums[r].hi += in[r * STRIDE + ky].hi * w.hi;
      }
    }
  }
}

// STRIDE S, UP 1: the convolution itself; STRIDE 1, UP S with TURNED windows: the gradient of its
// input. `from` [n, h, w, c], `to` [n, h_to, w_to, c].
template <int STRIDE, int UP, bool TURNED, int R>
static __device__ void depthwise(const Number* from, const float* scale, const float* shift,
                                 int act, const Number* window, const Tiling& t, int h, int w,
                                 int h_to, int w_to, Number* to) {
  const int pairs = t.chunk / 2, first = blockIdx.x * t.chunk;
  const int channels = t.c - first < t.chunk ? t.c - first : t.chunk;
  const int rows = (t.rows - 1) * STRIDE + K, columns = (w_to - 1) * STRIDE + K;
  Two* windows = reinterpret_cast<Two*>(memory);
  Pair* tile = reinterpret_cast<Pair*>(windows + K * K * pairs);
  load_windows(window, first, channels, pairs, TURNED, windows);
  const int row0 = blockIdx.y * t.rows, begin = blockIdx.z * t.images;
  const int end = begin + t.images < t.n ? begin + t.images : t.n;
  for (int image = begin; image < end; ++image) {
    __syncthreads();
    load_tile<UP>(from + static_cast<long long>(image) * h * w * t.c + first,
                  scale == nullptr ? nullptr : scale + first,
                  scale == nullptr ? nullptr : shift + first, act, h, w, t.c, channels, pairs,
                  row0 * STRIDE - K / 2, -(K / 2), rows, columns, columns, tile);
    __syncthreads();
    if (2 * threadIdx.x >= channels) continue;
    Number* image_to =
        to + static_cast<long long>(image) * h_to * w_to * t.c + first + 2 * threadIdx.x;
    const int items = t.rows / R * w_to;
    for (int item = threadIdx.y; item < items; item += blockDim.y) {
      const int row = item / w_to * R, column = item % w_to;
      if (row0 + row >= h_to) break;
      Two sums[R];
      convolve<STRIDE, R>(tile, columns, windows, pairs, row, column, sums);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if (row0 + row + r >= h_to) break;
        *reinterpret_cast<Pair*>(image_to +
                                 (static_cast<long long>(row0 + row + r) * w_to + column) * t.c) =
            narrow2(sums[r].lo, sums[r].hi);
      }
    }
  }
}

#define CHANAS_DEPTHWISE(R)                                                                       \
  CHANAS_GLOBAL void depthwise_forward_##R(const Number* x, const float* scale,                   \
                                           const float* shift, int act, const Number* window,     \
                                           Number* y, Tiling t) {                                 \
    depthwise<S, 1, false, R>(x, scale, shift, act, window, t, t.h, t.w, t.h_out, t.w_out, y);    \
  }                                                                                               \
  CHANAS_GLOBAL void depthwise_backward_##R(const Number* dy, const Number* window, Number* dx,   \
                                            Tiling t) {                                           \
    depthwise<1, S, true, R>(dy, nullptr, nullptr, 0, window, t, t.h_out, t.w_out, t.h, t.w, dx); \
  }
CHANAS_DEPTHWISE(4)
CHANAS_DEPTHWISE(8)

// Sums over the block's images of dy * act(x * scale + shift) per tap, to partial [blocks of
// images, c, K, K]. Blocks are (pairs of channels, rows of the window, rows of the tile); a thread
// takes C pixels of a row at a time.
template <int C>
static __device__ void window_gradient(const Number* x, const float* scale, const float* shift,
                                       int act, const Number* dy, const Tiling& t, float* partial) {
  const int pairs = t.chunk / 2, first = blockIdx.x * t.chunk;
  const int channels = t.c - first < t.chunk ? t.c - first : t.chunk;
  const int w_tile = (t.w_out + C - 1) / C * C;
  const int rows = (t.rows - 1) * S + K, columns = (w_tile - 1) * S + K;
  const int pitch = columns | 1;  // odd: threads of two window rows meet in other banks
  Pair* tile = reinterpret_cast<Pair*>(memory);
  Pair* outer = tile + rows * pitch * pairs;
  float lo[K] = {}, hi[K] = {};
  const int begin = blockIdx.y * t.images;
  const int end = begin + t.images < t.n ? begin + t.images : t.n;
  for (int image = begin; image < end; ++image) {
    for (int row0 = 0; row0 < t.h_out; row0 += t.rows) {
      __syncthreads();
      load_tile<1>(x + static_cast<long long>(image) * t.h * t.w * t.c + first,
                   scale == nullptr ? nullptr : scale + first,
                   scale == nullptr ? nullptr : shift + first, act, t.h, t.w, t.c, channels, pairs,
                   row0 * S - K / 2, -(K / 2), rows, columns, pitch, tile);
      load_tile<1>(dy + static_cast<long long>(image) * t.h_out * t.w_out * t.c + first, nullptr,
                   nullptr, 0, t.h_out, t.w_out, t.c, channels, pairs, row0, 0, t.rows, w_tile,
                   w_tile, outer);
      __syncthreads();
      for (int row = threadIdx.z; row < t.rows && row0 + row < t.h_out; row += blockDim.z) {
        for (int column = 0; column < w_tile; column += C) {
          constexpr int kInput = (C - 1) * S + K;
          Two in[kInput];
          const Pair* from =
              tile + ((row * S + threadIdx.y) * pitch + column * S) * pairs + threadIdx.x;
#pragma unroll
          for (int i = 0; i < kInput; ++i) in[i] = wide2(from[i * pairs]);
          from = outer + (row * w_tile + column) * pairs + threadIdx.x;
#pragma unroll
          for (int i = 0; i < C; ++i) {
            const Two d = wide2(from[i * pairs]);
#pragma unroll
            for (int kx = 0; kx < K; ++kx) {
              lo[kx] += in[i * S + kx].lo * d.lo;
              hi[kx] += in[i * S + kx].hi * d.hi;
            }
          }
        }
      }
    }
  }
  __syncthreads();
  Two* shared = reinterpret_cast<Two*>(memory);  // [rows of the tile, K, K, pair]
  for (int kx = 0; kx < K; ++kx) {
    shared[((threadIdx.z * K + threadIdx.y) * K + kx) * pairs + threadIdx.x] =
        two_of(lo[kx], hi[kx]);
  }
  __syncthreads();
  if (threadIdx.z != 0 || 2 * threadIdx.x >= channels) return;
  for (int kx = 0; kx < K; ++kx) {
    Two sum = two_of(0, 0);
    for (int z = 0; z < blockDim.z; ++z) {
      const Two part = shared[((z * K + threadIdx.y) * K + kx) * pairs + threadIdx.x];
      sum.lo += part.lo;
      sum.hi += part.hi;
    }
    float* to =
        partial +
        ((static_cast<long long>(blockIdx.y) * t.c + first + 2 * threadIdx.x) * K + threadIdx.y) *
            K +
        kx;
    to[0] = sum.lo;
    to[K * K] = sum.hi;
  }
}

#define CHANAS_WINDOW_GRADIENT(C)                                                                 \
  CHANAS_GLOBAL void window_gradient_##C(const Number* x, const float* scale, const float* shift, \
                                         int act, const Number* dy, Tiling t, float* partial) {   \
    window_gradient<C>(x, scale, shift, act, dy, t, partial);                                     \
  }
CHANAS_WINDOW_GRADIENT(4)
CHANAS_WINDOW_GRADIENT(8)

#endif  // CHANAS_KERNEL

#undef K
#undef S
