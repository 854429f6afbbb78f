#include <algorithm>
#include <cmath>

#include "chanas/data/image.h"

namespace chanas {
namespace {

// Weights of one axis: output o is the sum of weight[o * taps + t] * in[index[o * taps + t]].
struct Axis {
  int taps = 0;
  std::vector<int> index;
  std::vector<float> weight;
};

// Trimmed to the taps that matter: a copy of whole pixels has one.
Axis make_axis(double start, double extent, int in, int out, bool mirror) {
  const double step = extent / out;
  const double radius = std::max(1.0, step);
  const auto center_of = [&](int o) { return start + ((mirror ? out - 1 - o : o) + 0.5) * step; };
  const auto weight_at = [&](double center, int i) {
    return std::max(0.0, 1 - std::abs(i + 0.5 - center) / radius);
  };
  const int reach = static_cast<int>(std::ceil(radius)) + 1;
  int low = reach, high = -reach;
  for (int o = 0; o < out; ++o) {
    const double center = center_of(o);
    const int middle = static_cast<int>(std::floor(center));
    for (int t = -reach; t <= reach; ++t) {
      if (weight_at(center, middle + t) == 0) continue;
      low = std::min(low, t);
      high = std::max(high, t);
    }
  }
  Axis axis;
  axis.taps = high - low + 1;
  for (int o = 0; o < out; ++o) {
    const double center = center_of(o);
    const int first = static_cast<int>(std::floor(center)) + low;
    double sum = 0;
    for (int t = 0; t < axis.taps; ++t) sum += weight_at(center, first + t);
    for (int t = 0; t < axis.taps; ++t) {
      axis.weight.push_back(static_cast<float>(weight_at(center, first + t) / sum));
      axis.index.push_back(std::clamp(first + t, 0, in - 1));
    }
  }
  return axis;
}

}  // namespace

Box center_square(int width, int height) {
  const double side = std::min(width, height);
  return {std::floor((width - side) / 2), std::floor((height - side) / 2), side, side};
}

void resample(const uint8_t* pixels, int width, int height, const Box& box, bool mirror, int size,
              float scale, float offset, float* out) {
  const Axis across = make_axis(box.x, box.width, width, size, mirror);
  const Axis down = make_axis(box.y, box.height, height, size, false);
  const auto row = static_cast<size_t>(size) * 3;
  // Rows of the image that the box touches, resampled across once each.
  const auto [low, high] = std::minmax_element(down.index.begin(), down.index.end());
  const int first = *low;
  std::vector<float> lines(static_cast<size_t>(*high - first + 1) * row);
  for (int y = first; y <= *high; ++y) {
    const uint8_t* from = pixels + static_cast<size_t>(y) * static_cast<size_t>(width) * 3;
    float* line = &lines[static_cast<size_t>(y - first) * row];
    for (int o = 0; o < size; ++o) {
      float sum[3] = {0, 0, 0};
      for (int t = 0; t < across.taps; ++t) {
        const auto i = static_cast<size_t>(o * across.taps + t);
        const uint8_t* pixel = from + 3 * across.index[i];
        for (int c = 0; c < 3; ++c) sum[c] += across.weight[i] * static_cast<float>(pixel[c]);
      }
      for (int c = 0; c < 3; ++c) *line++ = sum[c];
    }
  }
  for (int o = 0; o < size; ++o) {
    float* to = out + static_cast<size_t>(o) * row;
    std::fill(to, to + row, offset);
    for (int t = 0; t < down.taps; ++t) {
      const auto i = static_cast<size_t>(o * down.taps + t);
      const float weight = down.weight[i] * scale;
      if (weight == 0) continue;
      const float* line = &lines[static_cast<size_t>(down.index[i] - first) * row];
      for (size_t j = 0; j < row; ++j) to[j] += weight * line[j];
    }
  }
}

void resample(const RgbImage& image, const Box& box, int size, uint8_t* out) {
  std::vector<float> values(static_cast<size_t>(size) * static_cast<size_t>(size) * 3);
  resample(image.pixels.data(), image.width, image.height, box, false, size, 1, 0, values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    out[i] = static_cast<uint8_t>(std::clamp(std::lround(values[i]), 0l, 255l));
  }
}

}  // namespace chanas
