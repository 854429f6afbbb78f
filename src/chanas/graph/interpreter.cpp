#include "chanas/graph/interpreter.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chanas {
namespace {

using Values = std::vector<float>;

// The taps [first, last) of a window that lie inside [0, size), for output position `out`; tap t
// reads start + t. Bounds are checked here, once per row and column, not in the inner loops.
struct Window {
  int start, first, last;
  Window(int out, const Op& op, int size)
      : start(out * op.stride - op.kernel / 2),
        first(std::max(0, -start)),
        last(std::min(op.kernel, size - start)) {}
};

// Calls body(pixel) for every output pixel and lets it add to `sums`, one double per channel that
// starts at the bias; then applies the epilogue.
template <typename Body>
Values convolve(const Op& op, const Tensor* bias, const Values* residual, Body body) {
  const int channels = op.shape.c;
  Values out(op.shape.elements());
  std::vector<double> sums(channels);
  for (int y = 0; y < op.shape.h; ++y) {
    for (int x = 0; x < op.shape.w; ++x) {
      for (int c = 0; c < channels; ++c) sums[c] = bias ? bias->data[c] : 0.0;
      body(y, x, sums.data());
      const int64_t pixel = (int64_t{y} * op.shape.w + x) * channels;
      for (int c = 0; c < channels; ++c) {
        const double value = apply_activation(op.act, sums[c]);
        out[pixel + c] = static_cast<float>(residual ? value + (*residual)[pixel + c] : value);
      }
    }
  }
  return out;
}

// [c_out, depth, k, k] -> [k, k, depth, c_out]: the inner loop runs over neighbours in memory.
std::vector<double> channels_last(const Tensor& weight) {
  const int64_t c_out = weight.shape[0], depth = weight.shape[1];
  const int64_t taps = weight.shape[2] * weight.shape[3];
  std::vector<double> result(weight.data.size());
  for (int64_t o = 0; o < c_out; ++o)
    for (int64_t i = 0; i < depth; ++i)
      for (int64_t t = 0; t < taps; ++t)
        result[(t * depth + i) * c_out + o] = weight.data[(o * depth + i) * taps + t];
  return result;
}

Values convolution(const Op& op, const Shape& in, const Values& x, const Values* residual,
                   const Parameters& parameters) {
  const std::vector<double> weight = channels_last(*parameters.find(op.name + ".weight"));
  const Tensor* bias = op.bias ? parameters.find(op.name + ".bias") : nullptr;
  const int c_out = op.shape.c;
  const bool depthwise = op.kind == OpKind::kDepthwise;
  return convolve(op, bias, residual, [&](int out_y, int out_x, double* sums) {
    const Window rows(out_y, op, in.h), columns(out_x, op, in.w);
    for (int ky = rows.first; ky < rows.last; ++ky) {
      for (int kx = columns.first; kx < columns.last; ++kx) {
        const float* pixel = &x[(int64_t{rows.start + ky} * in.w + (columns.start + kx)) * in.c];
        const int64_t tap = int64_t{ky} * op.kernel + kx;
        if (depthwise) {
          const double* w = &weight[tap * c_out];
          for (int c = 0; c < c_out; ++c) sums[c] += w[c] * pixel[c];
        } else {
          const double* w = &weight[tap * in.c * c_out];
          for (int i = 0; i < in.c; ++i, w += c_out) {
            const double value = pixel[i];
            for (int c = 0; c < c_out; ++c) sums[c] += w[c] * value;
          }
        }
      }
    }
  });
}

Values batch_norm(const Op& op, const Values& x, const Parameters& parameters) {
  const Values& gamma = parameters.find(op.name + ".weight")->data;
  const Values& shift = parameters.find(op.name + ".bias")->data;
  const Values& mean = parameters.find(op.name + ".running_mean")->data;
  const Values& variance = parameters.find(op.name + ".running_var")->data;
  Values out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i % op.shape.c;
    out[i] = static_cast<float>((x[i] - static_cast<double>(mean[c])) /
                                    std::sqrt(variance[c] + op.epsilon) * gamma[c] +
                                shift[c]);
  }
  return out;
}

Values global_pool(const Shape& in, const Values& x) {
  std::vector<double> sums(in.c);
  for (size_t i = 0; i < x.size(); ++i) sums[i % in.c] += x[i];
  Values out(in.c);
  for (int c = 0; c < in.c; ++c) out[c] = static_cast<float>(sums[c] / (int64_t{in.h} * in.w));
  return out;
}

Values run_op(const Graph& graph, const Op& op, const Parameters& parameters,
              const std::vector<Values>& values) {
  const Values& x = values[op.inputs[0]];
  const Shape& in = graph.ops[op.inputs[0]].shape;
  Values out;
  switch (op.kind) {
    case OpKind::kInput:
      CHANAS_CHECK(false) << "inputs are given";
      break;
    case OpKind::kConv2d:
    case OpKind::kDepthwise:
      return convolution(op, in, x, op.residual ? &values[op.inputs[1]] : nullptr, parameters);
    case OpKind::kBatchNorm:
      return batch_norm(op, x, parameters);
    case OpKind::kGlobalPool:
      return global_pool(in, x);
    case OpKind::kActivation:
      out.reserve(x.size());
      for (float value : x) out.push_back(static_cast<float>(apply_activation(op.act, value)));
      return out;
    case OpKind::kAdd:
      out = x;
      for (size_t i = 0; i < out.size(); ++i) out[i] += values[op.inputs[1]][i];
      return out;
    case OpKind::kScale:
      out = x;
      for (size_t i = 0; i < out.size(); ++i) out[i] *= values[op.inputs[1]][i % in.c];
      return out;
  }
  return out;
}

}  // namespace

double apply_activation(Activation activation, double x) {
  const auto relu6 = [](double v) { return std::clamp(v, 0.0, 6.0); };
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kRelu6:
      return relu6(x);
    case Activation::kHSwish:
      return x * relu6(x + 3) / 6;
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kHSigmoid:
      return relu6(x + 3) / 6;
  }
  return x;
}

std::vector<Values> interpret(const Graph& graph, const Parameters& parameters,
                              const std::vector<Values>& inputs, bool all) {
  Status status = verify(graph);
  if (status.ok()) status = check_parameters(graph, parameters);
  CHANAS_CHECK(status.ok()) << status.message();
  CHANAS_CHECK(inputs.size() == graph.input_ops().size())
      << inputs.size() << " inputs for " << graph.input_ops().size();

  std::vector<Values> values;
  size_t next_input = 0;
  for (const Op& op : graph.ops) {
    if (op.kind == OpKind::kInput)
      values.push_back(inputs[next_input++]);
    else
      values.push_back(run_op(graph, op, parameters, values));
    CHANAS_CHECK(static_cast<int64_t>(values.back().size()) == op.shape.elements())
        << op.name << " has " << values.back().size() << " elements";
  }
  if (!all) values.erase(values.begin(), values.end() - 1);
  return values;
}

double max_relative_error(const std::vector<float>& a, const std::vector<float>& reference) {
  CHANAS_CHECK(a.size() == reference.size()) << a.size() << " against " << reference.size();
  double largest = 1, difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(reference[i]))
      return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(static_cast<double>(reference[i])));
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - reference[i]));
  }
  return difference / largest;
}

}  // namespace chanas
