#pragma once
// One self-contained HTML page of a run: figures as inline SVG, numbers in tables, no script needed
// to read it, nothing loaded from elsewhere.

#include <optional>
#include <string>
#include <vector>

#include "chanas/arch/network.h"
#include "chanas/base/status.h"

namespace chanas {

// Everything the page shows; the pipeline fills it from the run directory. Missing parts are left
// out of the page, so that an unfinished run has a report too.
struct ReportData {
  std::string title, device, space_name, data_name, command;
  int threads = 1;
  double limit_us = 0;

  struct Point {
    std::string label;
    double latency_us = 0, accuracy = 0;  // accuracy is a fraction
  };
  std::vector<Point> front_predicted;  // Pareto front, latency ascending
  std::vector<Point> cloud;            // a sample of evaluated architectures (predicted)
  std::vector<Point> measured;         // verified: measured latency, measured accuracy
  std::optional<Point> winner;         // measured

  struct Cell {
    std::string label;                 // "r32 w1.3"
    std::vector<double> latencies_us;  // ascending
    bool chosen = false;
    std::string note;  // "paper, tinynas"
    int sampled = 0, inside = 0;
    double mean_latency_us = 0, mean_macs = 0, accuracy_q90 = 0;
  };
  std::vector<Cell> cells;

  struct Pair {
    double predicted_us = 0, measured_us = 0;
  };
  std::vector<Pair> latency_check;  // whole networks, predicted against measured
  double latency_mape = 0, latency_spearman = 0, latency_hit10 = 0;

  struct Step {
    double x = 0;  // evaluations, or training images
    double best = 0, mean = 0;
  };
  std::vector<Step> search_progress;  // accuracy
  struct TrainPoint {
    double step = 0, loss = 0, learning_rate = 0;
    double accuracy_largest = 0, accuracy_smallest = 0, accuracy_random = 0;  // 0: not taken
    double gap = 0;  // loss on the gap part - loss; 0: not taken
  };
  std::vector<TrainPoint> training;
  struct Trial {
    int index = 0;
    double speedup = 1;  // geometric mean default / best so far
  };
  std::vector<Trial> tuning;

  struct TableRow {
    std::string element, cut;
    double default_us = 0, tuned_us = 0;
    int trials = 0;
    double macs = 0;         // 0: not known
    double roofline_us = 0;  // the least time by the machine's limits; 0: not known
  };
  std::vector<TableRow> rows;  // of the winner, in order

  std::optional<Network> network;  // the chosen architecture, drawn as in the paper's Fig. 12
  struct Fact {
    std::string name, value;
  };
  std::vector<Fact> facts;  // key numbers, first in the page
  std::vector<Fact> versions;
  std::vector<Fact> stage_seconds;
};

std::string render_report(const ReportData& data);

// Fig. 12's architecture strip alone: one box per unit, width by channels, height by kernel, colour
// by kernel, expansion and SE marked.
std::string architecture_svg(const Network& network);

}  // namespace chanas
