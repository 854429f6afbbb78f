#pragma once
// A plot with two linear axes: give it series, get an SVG with ticks, grid and a legend that wraps.
// Internal to the module.

#include <string>
#include <string_view>
#include <vector>

#include "chanas/report/svg.h"

namespace chanas {

struct PlotPoint {
  double x = 0, y = 0;
  std::string title = {};  // shown while the pointer rests on a mark
};

struct Series {
  enum Kind {
    kLine,
    kSteps,  // level until the next point
    kBand,   // filled polygon
    kRule,   // vertical line over the whole height at each point's x
    kDot,
    kRing,
    kDiamond,
    kStar
  };
  Kind kind = kLine;
  std::string name;  // in the legend; "": not there
  std::string_view colour = svg::kBlue;
  double size = 2;  // stroke width of lines, radius of marks
  std::vector<PlotPoint> points;
  bool dashed = false;
};

class Plot {
 public:
  // Labels name the unit: "latency, µs".
  Plot(std::string title, std::string x_label, std::string y_label);

  // Drawn in the order of the calls. Points that are not finite are left out.
  void add(Series series);
  // Makes the axes reach this point.
  void include(double x, double y);
  // Neither a point nor a polygon to see: the figure is then "".
  bool empty() const;
  std::string figure(std::string_view caption) const;

 private:
  std::string title_, x_label_, y_label_;
  std::vector<Series> series_;
  std::vector<PlotPoint> included_;
};

// Ascending multiples of 1, 2 or 5 times a power of ten inside [low, high]: two to `count` + 2 of
// them (count >= 4); `low` alone when high is not above it.
std::vector<double> nice_ticks(double low, double high, int count);
// "0.25", "1,500" or "20k": as many decimals as the step needs, thousands short.
std::string tick_label(double value, double step);

}  // namespace chanas
