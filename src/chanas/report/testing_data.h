#pragma once
// A made-up run with all its parts, for the tests of this module.

#include <algorithm>
#include <cmath>

#include "chanas/arch/space.h"
#include "chanas/base/rng.h"
#include "chanas/report/report.h"

namespace chanas {

// `space`: a built-in space; the latencies are about `scale_us` whichever it is.
inline ReportData sample_report(const std::string& space_name = "demo", double scale_us = 400) {
  const ArchSpace space = *load_space(space_name);
  Rng rng(1);
  ReportData data;
  data.title = "CHaNAS: the most accurate network inside its limit";
  data.device = "AMD EPYC, 2 cores, AVX-512";
  data.space_name = space_name;
  data.data_name = "synthetic";
  data.command = "chanas run --run-dir runs/demo";
  data.threads = 2;
  data.limit_us = scale_us;
  auto accuracy_at = [](double share) { return 0.93 - 0.25 * std::exp(-3 * share); };
  for (int i = 0; i < 400; ++i) {
    const double share = rng.uniform_real(0.4, 1.6);
    data.cloud.push_back({"", share * scale_us, accuracy_at(share) - 0.03 * rng.uniform01()});
  }
  for (int i = 0; i <= 20; ++i) {
    const double share = 0.42 + 0.0285 * i;
    data.front_predicted.push_back({"", share * scale_us, accuracy_at(share) + 0.002});
  }
  for (int i = 0; i < 8; ++i) {
    const double share = 0.99 - 0.02 * i + 0.01 * rng.normal();
    data.measured.push_back({"r32-w1.1-d1.2.2-k3.35.55-e6.36.66", share * scale_us,
                             accuracy_at(share) - 0.01 * rng.uniform01()});
  }
  data.winner = ReportData::Point{"returned network", 0.965 * scale_us, 0.917};
  const std::vector<SubSpace> cells = space.cells();
  for (size_t i = 0; i < cells.size(); ++i) {
    ReportData::Cell cell;
    cell.label = describe(cells[i]);
    const double centre = 0.5 + 0.9 * static_cast<double>(i) / static_cast<double>(cells.size());
    for (int k = 0; k < 1000; ++k) {
      cell.latencies_us.push_back(scale_us * centre * (1 + 0.15 * rng.normal()));
    }
    std::sort(cell.latencies_us.begin(), cell.latencies_us.end());
    cell.chosen = i == cells.size() / 2;
    cell.note = cell.chosen ? "tinynas, acc" : i == 0 ? "paper" : "";
    cell.sampled = 1000;
    cell.inside = static_cast<int>(
        std::upper_bound(cell.latencies_us.begin(), cell.latencies_us.end(), data.limit_us) -
        cell.latencies_us.begin());
    cell.mean_latency_us = std::min(0.97, centre) * scale_us;
    cell.mean_macs = 4.1e6 * centre;
    cell.accuracy_q90 = accuracy_at(centre);
    data.cells.push_back(cell);
  }
  for (int i = 0; i < 50; ++i) {
    const double predicted = scale_us * rng.uniform_real(0.5, 1.6);
    data.latency_check.push_back({predicted, predicted * (1 + 0.04 * rng.normal())});
  }
  data.latency_mape = 0.032;
  data.latency_spearman = 0.991;
  data.latency_hit10 = 0.98;
  for (int i = 0; i <= 200; ++i) {
    const double part = i / 200.0;
    data.search_progress.push_back(
        {100.0 + 95 * i, 0.915 - 0.04 * std::exp(-9 * part), 0.91 - 0.09 * std::exp(-6 * part)});
  }
  for (int i = 0; i <= 60; ++i) {
    const double part = i / 60.0;
    ReportData::TrainPoint point{40.0 * i, 0.3 + 2 * std::exp(-5 * part) + 0.03 * rng.normal(),
                                 0.2 * (1 - part), 0, 0};
    if (i % 10 == 0 && i > 0) {
      point.accuracy_largest = 0.94 - 0.7 * std::exp(-5 * part);
      point.accuracy_smallest = 0.82 - 0.65 * std::exp(-4 * part);
    }
    data.training.push_back(point);
  }
  double speedup = 1;
  for (int i = 0; i < 900; i += 6) {
    speedup += (1.9 - speedup) * 0.04 * rng.uniform01();
    data.tuning.push_back({i, speedup});
  }
  Arch arch = largest(space, cells.back());
  for (UnitGene& gene : arch.units) gene = {rng.choose(space.kernels), rng.choose(space.expands)};
  data.network = to_network(space, arch);
  auto add_row = [&](const std::string& element, const std::string& cut) {
    const double tuned = scale_us * rng.uniform_real(0.01, 0.08);
    data.rows.push_back({element, cut, tuned * rng.uniform_real(1, 3), tuned, 24, 4e4 * tuned,
                         tuned * rng.uniform_real(0.4, 1)});
  };
  add_row("stem 3->8 @32", "whole");
  for (const Unit& unit : data.network->units) {
    add_row(describe(unit), unit.expand ? "expand+depthwise | project" : "depthwise+project");
  }
  add_row("head 56->96, mix 128, 10 classes", "conv | pool | mix | classifier");
  data.facts = {{"test accuracy", "91.7 %"},
                {"latency", "0.386 ms"},
                {"limit", "0.400 ms"},
                {"tuned over default schedules", "1.87x"},
                {"smallest / largest network", "81.9 % / 93.8 %"},
                {"size", "4.12M multiply-adds, 0.231M parameters"}};
  data.stage_seconds = {{"tune", "1 m 32 s"}, {"train", "2 m 04 s"}, {"search", "0.8 s"}};
  data.versions = {{"chanas", "0.1.0"}, {"halide", "21.0.0"}, {"torch", "2.11.0"}};
  return data;
}

}  // namespace chanas
