#include "chanas/report/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "chanas/report/plot.h"

namespace chanas {
namespace {

using svg::percent;
using svg::significant;
using svg::TimeUnit;

std::vector<PlotPoint> places(const std::vector<ReportData::Point>& points, const TimeUnit& unit) {
  std::vector<PlotPoint> out;
  for (const ReportData::Point& point : points) {
    out.push_back({unit.of(point.latency_us), 100 * point.accuracy,
                   fmt::format("{}{}{}, {}", point.label, point.label.empty() ? "" : ": ",
                               unit.text(point.latency_us), percent(point.accuracy))});
  }
  return out;
}

// A point whose `get` is 0 was not taken.
template <typename Item, typename Get>
std::vector<PlotPoint> curve(const std::vector<Item>& items, double Item::*x, Get get,
                             double scale) {
  std::vector<PlotPoint> out;
  for (const Item& item : items) {
    if (get(item) != 0) out.push_back({item.*x, scale * get(item)});
  }
  return out;
}

Series limit_rule(const ReportData& data, const TimeUnit& unit) {
  if (!(data.limit_us > 0)) return {};
  return {Series::kRule,
          "limit " + unit.text(data.limit_us),
          svg::kRed,
          2,
          {{unit.of(data.limit_us), 0}}};
}

}  // namespace

std::string pareto_figure(const ReportData& data, const TimeUnit& unit) {
  Plot plot("Accuracy against latency", "latency, " + unit.name, "accuracy, %");
  plot.add(
      {Series::kDot, "sampled networks (predicted)", svg::kGrey, 2.5, places(data.cloud, unit)});
  std::vector<PlotPoint> front = places(data.front_predicted, unit);
  plot.add({Series::kSteps, "best found (predicted)", svg::kBlue, 2, front});
  plot.add({Series::kDot, "", svg::kBlue, 2.5, front});
  plot.add(limit_rule(data, unit));
  plot.add(
      {Series::kRing, "measured on the device", svg::kOrange, 4.5, places(data.measured, unit)});
  std::string caption =
      "Up and to the left is better: the staircase joins the best networks that the search found.";
  if (data.winner) {
    plot.add({Series::kStar, "returned network (measured)", svg::kGreen, 10,
              places({*data.winner}, unit)});
    caption =
        fmt::format("Up and to the left is better: the returned network (star) reaches {} in {}",
                    percent(data.winner->accuracy), unit.text(data.winner->latency_us));
    caption += data.limit_us > 0
                   ? fmt::format(", {} {} the limit.",
                                 percent(std::abs(1 - data.winner->latency_us / data.limit_us)),
                                 data.winner->latency_us <= data.limit_us ? "below" : "above")
                   : ".";
  }
  return plot.figure(caption);
}

std::string cells_figure(const ReportData& data, const TimeUnit& unit) {
  Plot plot("How fast the networks of each sub-space are", "latency, " + unit.name,
            "share of sampled networks, %");
  const ReportData::Cell* chosen = nullptr;
  bool others_named = false;
  // The chosen one last, on top.
  for (bool draw_chosen : {false, true}) {
    for (const ReportData::Cell& cell : data.cells) {
      if (cell.chosen != draw_chosen) continue;
      if (cell.chosen) chosen = &cell;
      std::vector<PlotPoint> points;
      const size_t count = cell.latencies_us.size();
      // About a hundred steps are all that can be seen.
      const size_t stride = std::max<size_t>(1, count / 100);
      for (size_t i = 0; i < count;
           i = i + stride < count || i + 1 == count ? i + stride : count - 1) {
        if (points.empty()) points.push_back({unit.of(cell.latencies_us[i]), 0});
        points.push_back({unit.of(cell.latencies_us[i]),
                          100.0 * static_cast<double>(i + 1) / static_cast<double>(count)});
      }
      std::string name;
      if (cell.chosen) name = "chosen: " + cell.label;
      if (!cell.chosen && !others_named && !points.empty()) {
        name = "other sub-spaces";
        others_named = true;
      }
      plot.add({count > 20 ? Series::kLine : Series::kSteps, name,
                cell.chosen ? svg::kBlue : svg::kGrey, cell.chosen ? 3.0 : 1.5, std::move(points)});
    }
  }
  plot.add(limit_rule(data, unit));
  std::string caption = "Lines further left are faster sub-spaces.";
  if (chosen != nullptr && chosen->sampled > 0) {
    caption = fmt::format(
        "Lines further left are faster sub-spaces; {} of {} networks sampled from the chosen one, "
        "{}, "
        "are inside the limit.",
        chosen->inside, chosen->sampled, chosen->label);
  }
  return plot.figure(caption);
}

std::string latency_check_figure(const ReportData& data, const TimeUnit& unit) {
  Plot plot("Predicted against measured latency", "predicted from the table, " + unit.name,
            "measured on the device, " + unit.name);
  std::vector<PlotPoint> points;
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const ReportData::Pair& pair : data.latency_check) {
    const double x = unit.of(pair.predicted_us), y = unit.of(pair.measured_us);
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    points.push_back({x, y,
                      fmt::format("predicted {}, measured {}", unit.text(pair.predicted_us),
                                  unit.text(pair.measured_us))});
    low = std::min({low, x, y});
    high = std::max({high, x, y});
  }
  if (points.empty()) return "";
  low *= 0.95;
  high *= 1.05;
  plot.add({Series::kBand,
            "within 10 %",
            svg::kSky,
            1,
            {{low, 0.9 * low}, {high, 0.9 * high}, {high, 1.1 * high}, {low, 1.1 * low}}});
  plot.add({Series::kLine, "exact", svg::kGrey, 1.5, {{low, low}, {high, high}}, true});
  plot.add({Series::kDot, "whole networks", svg::kBlue, 4, std::move(points)});
  return plot.figure(
      fmt::format("Dots on the dashed line were predicted exactly: over {} whole networks the mean "
                  "error is {}, "
                  "{} are within 10 %, and the rank correlation is {:.3f}.",
                  data.latency_check.size(), percent(data.latency_mape),
                  percent(data.latency_hit10), data.latency_spearman));
}

std::string search_figure(const ReportData& data) {
  using Step = ReportData::Step;
  Plot plot("Progress of the search", "architectures evaluated", "predicted accuracy, %");
  plot.add({Series::kLine, "best so far", svg::kBlue, 2.5,
            curve(
                data.search_progress, &Step::x, [](const Step& s) { return s.best; }, 100)});
  plot.add({Series::kLine, "mean of the population", svg::kOrange, 2,
            curve(
                data.search_progress, &Step::x, [](const Step& s) { return s.mean; }, 100)});
  if (plot.empty()) return "";
  const Step& first = data.search_progress.front();
  const Step& last = data.search_progress.back();
  return plot.figure(
      fmt::format("After {:.0f} evaluations the best network inside the limit is predicted at {}, "
                  "up from {} at "
                  "the start.",
                  last.x, percent(last.best), percent(first.best)));
}

std::string loss_figure(const ReportData& data) {
  using TrainPoint = ReportData::TrainPoint;
  Plot plot("Training loss", "training step", "loss");
  plot.add({Series::kLine, "", svg::kBlue, 2,
            curve(
                data.training, &TrainPoint::step, [](const TrainPoint& p) { return p.loss; }, 1)});
  if (plot.empty()) return "";
  std::vector<PlotPoint> held_out;
  for (const TrainPoint& p : data.training) {
    if (p.gap != 0) held_out.push_back({p.step, p.loss + p.gap});
  }
  if (!held_out.empty()) {
    plot.add({Series::kLine, "on the gap part", svg::kOrange, 1.5, std::move(held_out)});
  }
  return plot.figure(
      fmt::format("One set of shared weights is trained for all networks; its loss "
                  "falls from {} to {}.",
                  significant(data.training.front().loss), significant(data.training.back().loss)));
}

std::string training_accuracy_figure(const ReportData& data) {
  using TrainPoint = ReportData::TrainPoint;
  std::vector<PlotPoint> largest = curve(
      data.training, &TrainPoint::step, [](const TrainPoint& p) { return p.accuracy_largest; },
      100);
  std::vector<PlotPoint> smallest = curve(
      data.training, &TrainPoint::step, [](const TrainPoint& p) { return p.accuracy_smallest; },
      100);
  std::vector<PlotPoint> random = curve(
      data.training, &TrainPoint::step, [](const TrainPoint& p) { return p.accuracy_random; }, 100);
  if (largest.empty() || smallest.empty()) return "";
  const double top = largest.back().y / 100, bottom = smallest.back().y / 100;
  Plot plot("Accuracy while training", "training step", "accuracy, %");
  for (auto& [name, colour, points] : {std::tuple{"largest network", svg::kBlue, largest},
                                       std::tuple{"a random network", svg::kGreen, random},
                                       std::tuple{"smallest network", svg::kOrange, smallest}}) {
    if (points.empty()) continue;
    plot.add({Series::kLine, name, colour, 2, points});
    plot.add({Series::kDot, "", colour, 3, points});
  }
  return plot.figure(fmt::format(
      "The search chooses between these two ends of the space: with the same shared weights the "
      "largest network reaches {} and the smallest {}.",
      percent(top), percent(bottom)));
}

std::string tuning_figure(const ReportData& data) {
  Plot plot("Progress of the tuning", "schedules measured", "speed-up over default schedules");
  std::vector<PlotPoint> points;
  for (const ReportData::Trial& trial : data.tuning) {
    points.push_back({static_cast<double>(trial.index), trial.speedup});
  }
  plot.include(0, 1);
  plot.add({Series::kSteps, "", svg::kBlue, 2.5, std::move(points)});
  if (plot.empty()) return "";
  return plot.figure(fmt::format(
      "After {} measured schedules the elements of the space run {}x as fast as with their default "
      "schedules (geometric mean).",
      data.tuning.back().index, significant(data.tuning.back().speedup)));
}

std::string elements_figure(const ReportData& data, const TimeUnit& unit) {
  constexpr double kWidth = 560, kRow = 46, kBar = 9;
  double longest = 0, before = 0, after = 0;
  for (const ReportData::TableRow& row : data.rows) {
    longest = std::max({longest, row.default_us, row.tuned_us});
    before += row.default_us;
    after += row.tuned_us;
  }
  if (!(longest > 0) || !std::isfinite(before + after)) return "";
  std::string body;
  double y = 0;
  for (const ReportData::TableRow& row : data.rows) {
    body += svg::text(2, y + 15, "start", row.element);
    body += svg::text(
        kWidth - 2, y + 15, "end",
        fmt::format("{} → {}", significant(unit.of(row.default_us)), unit.text(row.tuned_us)),
        fmt::format("fill=\"{}\"", svg::kMuted));
    auto bar = [&](double top, double time_us, std::string_view colour) {
      body += svg::rect(2, top, std::max(1.0, time_us / longest * (kWidth - 4)), kBar,
                        fmt::format("fill=\"{}\" rx=\"1.5\"", colour));
    };
    bar(y + 20, row.default_us, svg::kGrey);
    bar(y + 20 + kBar, row.tuned_us, svg::kBlue);
    y += kRow;
  }
  const std::string title = "Every element before and after tuning";
  const std::string legend = fmt::format(
      "<ul class=\"legend\"><li><span class=\"box\" style=\"background:{}\"></span>default "
      "schedule</li><li><span class=\"box\" style=\"background:{}\"></span>tuned "
      "schedule</li></ul>\n",
      svg::kGrey, svg::kBlue);
  return svg::figure(
      "", title, legend + svg::document(kWidth, y, title, "class=\"plot\"", body),
      fmt::format(
          "Shorter is better: tuning takes the sum over the returned network's elements from "
          "{} to {}, {}x as fast.",
          unit.text(before), unit.text(after), significant(before / after)));
}

std::string architecture_figure(const ReportData& data) {
  if (!data.network) return "";
  int pixels = data.network->resolution;
  return svg::figure(
      "wide", "The returned architecture",
      "<div class=\"scroll\">\n" + architecture_svg(*data.network) + "</div>\n",
      fmt::format("From a {0} x {0} image to {1} classes, one box per unit: wider boxes make more "
                  "channels, taller and darker ones use a larger kernel, e is the expansion ratio, "
                  "and a dashed line marks where the map shrinks.",
                  pixels, data.network->head.classes));
}

}  // namespace chanas
