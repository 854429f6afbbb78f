#include "chanas/data/generator.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "chanas/base/rng.h"

namespace chanas {
namespace {

// Only + - * / and square roots below: those are rounded alike everywhere, sines are not.

// Figures, textures and edges are laid out on a side of this many units.
constexpr double kSide = 32;

struct Point {
  double x = 0, y = 0;
};

// Uniform on the unit circle.
Point random_direction(Rng& rng) {
  for (;;) {
    const Point p{rng.uniform_real(-1, 1), rng.uniform_real(-1, 1)};
    const double length = std::sqrt(p.x * p.x + p.y * p.y);
    if (length > 0.1 && length <= 1) return {p.x / length, p.y / length};
  }
}

using Color = std::array<double, 3>;  // 0..1

Color random_color(Rng& rng) { return {rng.uniform01(), rng.uniform01(), rng.uniform01()}; }

double distance(const Color& a, const Color& b) {
  double sum = 0;
  for (size_t c = 0; c < 3; ++c) sum += (a[c] - b[c]) * (a[c] - b[c]);
  return std::sqrt(sum);
}

Color color_away_from(const Color& other, double least, Rng& rng) {
  for (;;) {
    const Color color = random_color(rng);
    if (distance(color, other) >= least) return color;
  }
}

Color blend(const Color& a, const Color& b, double share) {
  Color out;
  for (size_t c = 0; c < 3; ++c) out[c] = a[c] + (b[c] - a[c]) * share;
  return out;
}

enum class Outline { kDisc, kSquare, kTriangle, kCross, kStar };
constexpr int kOutlines = 5;

// Signed distance to the outline (negative inside); all outlines fill about the area of the unit
// disc, so that size tells nothing.
double outline_distance(Outline outline, Point p) {
  const double ax = std::abs(p.x), ay = std::abs(p.y);
  switch (outline) {
    case Outline::kDisc:
      return std::sqrt(p.x * p.x + p.y * p.y) - 0.95;
    case Outline::kSquare:
      return std::max(ax, ay) - 0.86;
    case Outline::kTriangle:
      return std::max(p.y, 0.8660254037844386 * ax - 0.5 * p.y) - 0.72;
    case Outline::kCross:
      return std::min(std::max(ax - 1.12, ay - 0.44), std::max(ax - 0.44, ay - 1.12));
    case Outline::kStar: {
      // Folded by the symmetry of five points; 0.809.. and 0.588.. are cosine and sine of 36
      // degrees.
      constexpr double kC = 0.8090169943749475, kS = 0.5877852522924731;
      Point q{ax, p.y};
      const double fold1 = 2 * std::max(kC * q.x - kS * q.y, 0.0);
      q = {q.x - fold1 * kC, q.y + fold1 * kS};
      const double fold2 = 2 * std::max(-kC * q.x - kS * q.y, 0.0);
      q = {std::abs(q.x + fold2 * kC), q.y + fold2 * kS};
      // The edge from the tip (0, 1.3) to the inner corner, whose normal is (nx, ny).
      constexpr double kNx = 0.89100652418836786, kNy = 0.45399049973954675;
      return kNx * q.x + kNy * (q.y - 1.3);
    }
  }
  return 1;
}

enum class Texture { kPlain, kStripes, kChecks, kDots, kRings };

// Textures are told apart by a look at a few pixels, outlines only by the whole figure; every
// texture comes with two outlines. So a small network gets about half of the way at once.
struct ClassSpec {
  const char* name;
  Texture texture;
  Outline outline;
};
constexpr std::array<ClassSpec, kBuiltinClasses> kClasses = {{
    {"plain square", Texture::kPlain, Outline::kSquare},
    {"plain star", Texture::kPlain, Outline::kStar},
    {"striped disc", Texture::kStripes, Outline::kDisc},
    {"striped triangle", Texture::kStripes, Outline::kTriangle},
    {"checked square", Texture::kChecks, Outline::kSquare},
    {"checked cross", Texture::kChecks, Outline::kCross},
    {"dotted triangle", Texture::kDots, Outline::kTriangle},
    {"dotted disc", Texture::kDots, Outline::kDisc},
    {"ringed cross", Texture::kRings, Outline::kCross},
    {"ringed star", Texture::kRings, Outline::kStar},
}};

struct Figure {
  Outline outline = Outline::kDisc;
  Texture texture = Texture::kPlain;
  Point center, turn, texture_turn, phase;
  double radius = 1, period = 4;
  Color first{}, second{};
};

// Between 0 and 1 with an edge about a unit wide: which of the two colours a texture shows.
double texture_share(const Figure& figure, Point pixel) {
  if (figure.texture == Texture::kPlain) return 0;
  // A triangle wave cut flat: -1 .. 1.
  const auto wave = [&](double position) {
    const double turns = position / figure.period;
    const double triangle = std::abs(turns - std::floor(turns) - 0.5) * 2 - 0.5;
    return std::clamp(triangle * figure.period, -1.0, 1.0);
  };
  const Point d{pixel.x - figure.center.x, pixel.y - figure.center.y};
  if (figure.texture == Texture::kRings) {
    return 0.5 + 0.5 * wave(std::sqrt(d.x * d.x + d.y * d.y) + figure.phase.x);
  }
  const double u = figure.texture_turn.x * d.x + figure.texture_turn.y * d.y + figure.phase.x;
  const double v = figure.texture_turn.x * d.y - figure.texture_turn.y * d.x + figure.phase.y;
  if (figure.texture == Texture::kStripes) return 0.5 + 0.5 * wave(u);
  if (figure.texture == Texture::kChecks) return 0.5 + 0.5 * wave(u) * wave(v);
  // Distance to the nearest point of a square lattice.
  const double du = u - figure.period * std::floor(u / figure.period + 0.5);
  const double dv = v - figure.period * std::floor(v / figure.period + 0.5);
  return std::clamp(0.3 * figure.period + 0.5 - std::sqrt(du * du + dv * dv), 0.0, 1.0);
}

class Canvas {
 public:
  Canvas() : pixels_(static_cast<size_t>(kBuiltinSize * kBuiltinSize)) {}

  template <typename F>
  void each(F&& paint) {
    constexpr double kPixel = kSide / kBuiltinSize;
    for (int y = 0; y < kBuiltinSize; ++y) {
      for (int x = 0; x < kBuiltinSize; ++x) {
        paint(Point{(x + 0.5) * kPixel, (y + 0.5) * kPixel},
              pixels_[static_cast<size_t>(y * kBuiltinSize + x)]);
      }
    }
  }

  void draw(const Figure& figure) {
    each([&](Point pixel, Color& color) {
      const Point d{(pixel.x - figure.center.x) / figure.radius,
                    (pixel.y - figure.center.y) / figure.radius};
      if (d.x * d.x + d.y * d.y > 2.3) return;
      const Point p{figure.turn.x * d.x + figure.turn.y * d.y,
                    figure.turn.x * d.y - figure.turn.y * d.x};
      const double inside =
          std::clamp(0.5 - outline_distance(figure.outline, p) * figure.radius, 0.0, 1.0);
      if (inside == 0) return;
      const Color paint = blend(figure.first, figure.second, texture_share(figure, pixel));
      color = blend(color, paint, inside);
    });
  }

  const std::vector<Color>& pixels() const { return pixels_; }

 private:
  std::vector<Color> pixels_;
};

// Two colours that blend into each other, with soft blotches.
void draw_background(Canvas& canvas, Rng& rng) {
  const Color from = random_color(rng), to = random_color(rng);
  const Point along = random_direction(rng);
  constexpr int kGrid = 6;
  std::array<double, kGrid * kGrid> blotches;
  for (double& value : blotches) value = rng.uniform_real(-0.22, 0.22);
  canvas.each([&](Point pixel, Color& color) {
    const double share =
        0.5 + (along.x * (pixel.x - kSide / 2) + along.y * (pixel.y - kSide / 2)) / (1.2 * kSide);
    color = blend(from, to, std::clamp(share, 0.0, 1.0));
    const double gx = pixel.x * (kGrid - 1) / kSide, gy = pixel.y * (kGrid - 1) / kSide;
    const int ix = static_cast<int>(gx), iy = static_cast<int>(gy);
    const double fx = gx - ix, fy = gy - iy;
    const auto at = [&](int x, int y) { return blotches[static_cast<size_t>(y * kGrid + x)]; };
    const double top = at(ix, iy) + (at(ix + 1, iy) - at(ix, iy)) * fx;
    const double bottom = at(ix, iy + 1) + (at(ix + 1, iy + 1) - at(ix, iy + 1)) * fx;
    for (double& c : color) c += top + (bottom - top) * fy;
  });
}

Figure random_figure(Rng& rng, double radius) {
  Figure figure;
  figure.outline = static_cast<Outline>(rng.uniform(kOutlines));
  figure.radius = radius;
  figure.center = {rng.uniform_real(0, kSide), rng.uniform_real(0, kSide)};
  figure.turn = random_direction(rng);
  figure.texture_turn = random_direction(rng);
  figure.phase = {rng.uniform_real(0, 8), rng.uniform_real(0, 8)};
  figure.period = rng.uniform_real(3.6, 6.0);
  figure.first = random_color(rng);
  figure.second = color_away_from(figure.first, 0.45, rng);
  return figure;
}

}  // namespace

const std::vector<std::string>& builtin_class_names() {
  static const auto& names = *[] {
    auto* all = new std::vector<std::string>;
    for (const ClassSpec& spec : kClasses) all->emplace_back(spec.name);
    return all;
  }();
  return names;
}

RgbImage generate_image(uint64_t seed, int64_t index, double noise) {
  Rng rng(seed, "builtin image", static_cast<uint64_t>(index));
  const ClassSpec& spec = kClasses[static_cast<size_t>(index % kBuiltinClasses)];
  Canvas canvas;
  draw_background(canvas, rng);
  for (uint64_t i = 1 + rng.uniform(3); i > 0; --i) {
    canvas.draw(random_figure(rng, rng.uniform_real(2, 4)));
  }
  Figure figure = random_figure(rng, rng.uniform_real(8, 11.5));
  figure.outline = spec.outline;
  figure.texture = spec.texture;
  const double margin = figure.radius * 1.1;
  figure.center = {rng.uniform_real(margin, kSide - margin),
                   rng.uniform_real(margin, kSide - margin)};
  canvas.draw(figure);
  // Something plain may lie in front.
  for (uint64_t i = rng.uniform(3); i > 0; --i) {
    canvas.draw(random_figure(rng, rng.uniform_real(1.5, 3)));
  }
  const double deviation = noise * kBuiltinSize / kSide * rng.uniform_real(0.01, 0.06);
  RgbImage image{kBuiltinSize, kBuiltinSize, {}};
  image.pixels.reserve(canvas.pixels().size() * 3);
  for (const Color& color : canvas.pixels()) {
    for (const double value : color) {
      const double noisy = std::clamp(value + deviation * rng.normal(), 0.0, 1.0);
      image.pixels.push_back(static_cast<uint8_t>(noisy * 255 + 0.5));
    }
  }
  return image;
}

}  // namespace chanas
