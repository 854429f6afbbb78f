#include "chanas/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace chanas {
namespace {

constexpr double kWidth = 560, kHeight = 340;
constexpr double kLeft = 62, kRight = 16, kTop = 34, kBottom = 56;
constexpr double kPad = 0.04;  // free share of an axis beyond the data

// From values to places on the page.
struct Axis {
  double low = 0, high = 1;  // values at the ends
  double from = 0, to = 1;   // their places
  double at(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

Axis axis_over(double low, double high, double from, double to) {
  double pad = kPad * (high - low);
  if (!(pad > 0)) pad = low == 0 ? 1 : 0.1 * std::abs(low);
  // Nothing is below zero here: an axis does not pretend so.
  const double start = low >= 0 ? std::max(low - pad, 0.0) : low - pad;
  return {start, high + pad, from, to};
}

bool is_mark(Series::Kind kind) { return kind >= Series::kDot; }

std::string path(const Series& series, const Axis& x, const Axis& y) {
  std::string d;
  for (size_t i = 0; i < series.points.size(); ++i) {
    const std::string px = svg::coordinate(x.at(series.points[i].x));
    const std::string py = svg::coordinate(y.at(series.points[i].y));
    if (i == 0) {
      d += fmt::format("M{} {}", px, py);
    } else if (series.kind == Series::kSteps) {
      d += fmt::format("H{}V{}", px, py);
    } else {
      d += fmt::format("L{} {}", px, py);
    }
  }
  return d;
}

// The shape of a mark around (0, 0).
std::string mark_shape(Series::Kind kind, double r, std::string_view colour) {
  std::string d;
  switch (kind) {
    case Series::kRing:
      return fmt::format("<circle r=\"{}\" fill=\"#fff\" stroke=\"{}\" stroke-width=\"2\"/>",
                         svg::coordinate(r), colour);
    case Series::kDiamond:
      d = fmt::format("M0 {0}L{1} 0L0 {1}L{0} 0Z", svg::coordinate(-r), svg::coordinate(r));
      break;
    case Series::kStar:
      for (int i = 0; i < 10; ++i) {
        const double radius = i % 2 == 0 ? r : 0.45 * r, angle = std::numbers::pi * (i / 5.0 - 0.5);
        d += fmt::format("{}{} {}", i == 0 ? "M" : "L", svg::coordinate(radius * std::cos(angle)),
                         svg::coordinate(radius * std::sin(angle)));
      }
      d += "Z";
      break;
    default:
      return fmt::format("<circle r=\"{}\" fill=\"{}\" fill-opacity=\"0.55\"/>", svg::coordinate(r),
                         colour);
  }
  return fmt::format("<path d=\"{}\" fill=\"{}\" stroke=\"#fff\"/>", d, colour);
}

std::string stroke(const Series& series) {
  return fmt::format(
      "stroke=\"{}\" stroke-width=\"{}\" fill=\"none\" stroke-linejoin=\"round\"{}", series.colour,
      svg::coordinate(series.size),
      series.dashed || series.kind == Series::kRule ? " stroke-dasharray=\"6 4\"" : "");
}

std::string draw(const Series& series, const Axis& x, const Axis& y) {
  std::string out;
  const bool lone = series.kind <= Series::kSteps && series.points.size() == 1;
  if (is_mark(series.kind) || lone) {
    for (const PlotPoint& point : series.points) {
      const std::string title =
          point.title.empty() ? "" : fmt::format("<title>{}</title>", svg::escape(point.title));
      out += fmt::format("<g transform=\"translate({} {})\">{}{}</g>\n",
                         svg::coordinate(x.at(point.x)), svg::coordinate(y.at(point.y)), title,
                         mark_shape(series.kind, lone ? 4 : series.size, series.colour));
    }
  } else if (series.kind == Series::kRule) {
    for (const PlotPoint& point : series.points) {
      out += svg::line(x.at(point.x), y.from, x.at(point.x), y.to, stroke(series));
    }
  } else if (series.kind == Series::kBand) {
    out = fmt::format("<path d=\"{}Z\" fill=\"{}\" fill-opacity=\"0.15\"/>\n", path(series, x, y),
                      series.colour);
  } else {
    out = fmt::format("<path d=\"{}\" {}/>\n", path(series, x, y), stroke(series));
  }
  return out;
}

std::string legend(const std::vector<Series>& series) {
  std::string out;
  for (const Series& entry : series) {
    if (entry.name.empty()) continue;
    std::string swatch;
    if (is_mark(entry.kind)) {
      swatch = fmt::format("<g transform=\"translate(12 8)\">{}</g>",
                           mark_shape(entry.kind, std::clamp(entry.size, 4.0, 7.0), entry.colour));
    } else if (entry.kind == Series::kBand) {
      swatch =
          svg::rect(2, 3, 20, 10, fmt::format("fill=\"{}\" fill-opacity=\"0.25\"", entry.colour));
    } else {
      swatch = svg::line(1, 8, 23, 8, stroke(entry));
    }
    out += fmt::format(
        "<li><svg class=\"swatch\" viewBox=\"0 0 24 16\" width=\"24\" height=\"16\" "
        "aria-hidden=\"true\">{}</svg>{}</li>\n",
        swatch, svg::escape(entry.name));
  }
  return out.empty() ? "" : fmt::format("<ul class=\"legend\">\n{}</ul>\n", out);
}

std::string axes(const Axis& x, const Axis& y, std::string_view x_label, std::string_view y_label) {
  std::string out;
  const std::string grid = fmt::format("stroke=\"{}\"", svg::kLine);
  const std::string muted = fmt::format("fill=\"{}\"", svg::kMuted);
  const std::vector<double> x_ticks = nice_ticks(x.low, x.high, 5);
  const std::vector<double> y_ticks = nice_ticks(y.low, y.high, 5);
  auto step = [](const std::vector<double>& ticks) {
    return ticks.size() > 1 ? ticks[1] - ticks[0] : 1.0;
  };
  for (double tick : x_ticks) {
    out += svg::line(x.at(tick), y.from, x.at(tick), y.to, grid);
    out += svg::text(x.at(tick), y.from + 19, "middle", tick_label(tick, step(x_ticks)), muted);
  }
  for (double tick : y_ticks) {
    out += svg::line(x.from, y.at(tick), x.to, y.at(tick), grid);
    out += svg::text(x.from - 8, y.at(tick) + 5, "end", tick_label(tick, step(y_ticks)), muted);
  }
  const std::string axis = fmt::format("stroke=\"{}\"", svg::kGrey);
  out += svg::line(x.from, y.from, x.to, y.from, axis);
  out += svg::line(x.from, y.from, x.from, y.to, axis);
  out += svg::text(x.to, kHeight - 10, "end", x_label);
  out += svg::text(8, 18, "start", y_label);
  return out;
}

}  // namespace

Plot::Plot(std::string title, std::string x_label, std::string y_label)
    : title_(std::move(title)), x_label_(std::move(x_label)), y_label_(std::move(y_label)) {}

void Plot::add(Series series) {
  std::erase_if(series.points, [](const PlotPoint& point) {
    return !std::isfinite(point.x) || !std::isfinite(point.y);
  });
  if (!series.points.empty()) series_.push_back(std::move(series));
}

void Plot::include(double x, double y) {
  if (std::isfinite(x) && std::isfinite(y)) included_.push_back({x, y});
}

bool Plot::empty() const {
  return std::all_of(series_.begin(), series_.end(), [](const Series& series) {
    return series.kind == Series::kRule || series.kind == Series::kBand;
  });
}

std::string Plot::figure(std::string_view caption) const {
  if (empty()) return "";
  std::vector<double> xs, ys;
  for (const PlotPoint& point : included_) {
    xs.push_back(point.x);
    ys.push_back(point.y);
  }
  for (const Series& series : series_) {
    for (const PlotPoint& point : series.points) {
      xs.push_back(point.x);
      if (series.kind != Series::kRule) ys.push_back(point.y);
    }
  }
  const auto [x_low, x_high] = std::minmax_element(xs.begin(), xs.end());
  const auto [y_low, y_high] = std::minmax_element(ys.begin(), ys.end());
  const Axis x = axis_over(*x_low, *x_high, kLeft, kWidth - kRight);
  const Axis y = axis_over(*y_low, *y_high, kHeight - kBottom, kTop);
  std::string body = axes(x, y, x_label_, y_label_);
  for (const Series& series : series_) body += draw(series, x, y);
  return svg::figure(
      "", title_, legend(series_) + svg::document(kWidth, kHeight, title_, "class=\"plot\"", body),
      caption);
}

std::vector<double> nice_ticks(double low, double high, int count) {
  // Closer than this, ticks could not be told apart.
  if (!(high - low > 1e-9 * std::max(std::abs(low), std::abs(high)))) return {low};
  double step = std::pow(10, std::floor(std::log10((high - low) / count)));
  for (double factor : {1.0, 2.0, 5.0, 10.0}) {
    if ((high - low) / (step * factor) > count + 1) continue;
    step *= factor;
    break;
  }
  std::vector<double> ticks;
  const double slack = 1e-9 * step;
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack; ++i) {
    ticks.push_back(i * step);
  }
  return ticks;
}

std::string tick_label(double value, double step) {
  std::string suffix;
  if (std::abs(value) >= 1e6 || step >= 1e6) {
    value /= 1e6, step /= 1e6, suffix = "M";
  } else if (std::abs(value) >= 1e4 || step >= 1e4) {
    value /= 1e3, step /= 1e3, suffix = "k";
  }
  if (value == 0) return "0";
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 9);
  return fmt::format("{:.{}f}{}", value, decimals, suffix);
}

}  // namespace chanas
