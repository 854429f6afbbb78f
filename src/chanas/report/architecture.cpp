// The strip that draws a network: stem, units and head as boxes in the order of the data.

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "chanas/report/report.h"
#include "chanas/report/svg.h"

namespace chanas {
namespace {

constexpr double kWidest = 980;     // then a row ends
constexpr double kNarrowest = 620;  // room for the legend
constexpr double kReadable = 760;   // a window narrower than this scrolls
constexpr double kMargin = 6;
constexpr double kGap = 14;         // between boxes, where the arrow is
constexpr double kHeading = 40;     // above the boxes: size of the maps
constexpr double kFooting = 40;     // below: channels, then free space
constexpr double kFixedWidth = 46;  // stem and head, whose channels are not to scale

struct Ink {
  std::string_view fill, text;
};
constexpr Ink kNeutral = {"#e6e9ed", svg::kInk};

// Light to dark by size.
Ink kernel_ink(int kernel) {
  if (kernel <= 3) return {"#b9d6ee", svg::kInk};
  if (kernel <= 5) return {"#5a9fd4", svg::kInk};
  return {"#0b4f8a", "#ffffff"};
}

double kernel_height(int kernel) { return 18 + 8 * kernel; }

struct Box {
  std::string first, second, below, title;
  double width = kFixedWidth, height = 42;
  Ink ink = kNeutral;
  bool se = false;
  int size = 1;  // side of the map that it makes
};

std::vector<Box> boxes_of(const Network& network) {
  std::vector<Box> boxes;
  int size = strided(network.resolution, network.stem.stride);
  boxes.push_back({.first = "stem",
                   .second = fmt::format("k{}", network.stem.kernel),
                   .below = fmt::format("{}", network.stem.c_out),
                   .title = fmt::format("stem: {0}x{0} convolution, {1} to {2} channels",
                                        network.stem.kernel, network.channels, network.stem.c_out),
                   .size = size});
  int widest = 1;
  for (const Unit& unit : network.units) widest = std::max(widest, unit.c_out);
  for (const Unit& unit : network.units) {
    size = unit.h_out();
    const double ratio = static_cast<double>(unit.c_mid) / std::max(unit.c_in, 1);
    boxes.push_back({.first = fmt::format("k{}", unit.kernel),
                     .second = fmt::format("e{:.2g}", ratio),
                     .below = fmt::format("{}", unit.c_out),
                     .title = describe(unit),
                     .width = 30 + 40.0 * unit.c_out / widest,
                     .height = kernel_height(unit.kernel),
                     .ink = kernel_ink(unit.kernel),
                     .se = unit.se_channels > 0,
                     .size = size});
  }
  auto add_head = [&](std::string name, int channels, int side, std::string title) {
    boxes.push_back({.first = std::move(name),
                     .second = "k1",
                     .below = fmt::format("{}", channels),
                     .title = std::move(title),
                     .size = side});
  };
  const Head& head = network.head;
  if (head.conv_channels > 0) {
    add_head(
        "head", head.conv_channels, size,
        fmt::format("1x1 convolution to {} channels, then mean over the map", head.conv_channels));
  }
  if (head.mix_channels > 0) {
    add_head("mix", head.mix_channels, 1, fmt::format("linear to {} values", head.mix_channels));
  }
  add_head("class", head.classes, 1, fmt::format("linear to {} classes", head.classes));
  return boxes;
}

// One line of boxes around a common middle.
struct Row {
  std::vector<Box> boxes;
  std::vector<double> x;
};

std::vector<Row> wrap(const std::vector<Box>& boxes) {
  std::vector<Row> rows;
  double x = kWidest;
  for (const Box& box : boxes) {
    if (rows.empty() || x + box.width > kWidest - kMargin) {
      rows.emplace_back();
      x = kMargin;
    }
    rows.back().boxes.push_back(box);
    rows.back().x.push_back(x);
    x += box.width + kGap;
  }
  return rows;
}

std::string draw_box(const Box& box, double x, double middle, double bottom) {
  const double top = middle - box.height / 2, centre = x + box.width / 2;
  const std::string colour = fmt::format("fill=\"{}\"", box.ink.text);
  std::string out = fmt::format("<g><title>{}</title>\n", svg::escape(box.title));
  out +=
      svg::rect(x, top, box.width, box.height, fmt::format("fill=\"{}\" rx=\"4\"", box.ink.fill));
  out += svg::text(centre, middle - 3, "middle", box.first, colour + " font-weight=\"600\"");
  out += svg::text(centre, middle + 13, "middle", box.second, colour);
  if (box.se) {
    out += svg::rect(centre - 12, top - 9, 24, 15,
                     fmt::format("fill=\"{}\" stroke=\"#ffffff\" rx=\"4\"", svg::kOrange));
    out += svg::text(centre, top + 2.5, "middle", "SE", "font-size=\"11\" font-weight=\"600\"");
  }
  out +=
      svg::text(centre, bottom + 16, "middle", box.below, fmt::format("fill=\"{}\"", svg::kMuted));
  return out + "</g>\n";
}

// Brackets that say how large the maps are, and dashed lines where they shrink.
std::string draw_sizes(const Row& row, int size_before, double top, double bottom) {
  std::string out;
  for (size_t first = 0; first < row.boxes.size();) {
    size_t last = first;
    while (last + 1 < row.boxes.size() && row.boxes[last + 1].size == row.boxes[first].size) ++last;
    const double from = row.x[first], to = row.x[last] + row.boxes[last].width;
    const int size = row.boxes[first].size;
    out += svg::line(from, top + 18, to, top + 18, fmt::format("stroke=\"{}\"", svg::kGrey));
    out += svg::text((from + to) / 2, top + 13, "middle", fmt::format("{0}×{0}", size),
                     fmt::format("font-size=\"12\" fill=\"{}\"", svg::kMuted));
    if (first > 0 || (size_before != size && size_before > 0)) {
      const double x = first > 0 ? from - kGap / 2 : from - kMargin / 2;
      out += svg::line(x, top + 6, x, bottom + 20,
                       fmt::format("stroke=\"{}\" stroke-dasharray=\"3 3\"", svg::kGrey));
    }
    first = last + 1;
  }
  return out;
}

std::string draw_arrow(double from, double to, double y) {
  return fmt::format(
      "<path d=\"M{0} {2}H{1}m-4 -3.5l4 3.5l-4 3.5\" fill=\"none\" stroke=\"{3}\" "
      "stroke-width=\"1.3\"/>\n",
      svg::coordinate(from), svg::coordinate(to), svg::coordinate(y), svg::kMuted);
}

std::string draw_legend(const Network& network, double y) {
  std::string out;
  double x = kMargin;
  auto entry = [&](std::string_view label, std::string_view fill) {
    out += svg::rect(x, y, 14, 14, fmt::format("fill=\"{}\" rx=\"3\"", fill));
    out += svg::text(x + 20, y + 12, "start", label, "font-size=\"12\"");
    x += 34 + 6.6 * static_cast<double>(label.size());
  };
  std::set<int> kernels;
  bool se = false;
  for (const Unit& unit : network.units) {
    kernels.insert(unit.kernel);
    se = se || unit.se_channels > 0;
  }
  for (int kernel : kernels) {
    entry(fmt::format("k{0}: {0}x{0} kernel", kernel), kernel_ink(kernel).fill);
  }
  if (se) entry("SE: squeeze-and-excitation", svg::kOrange);
  out += svg::text(x, y + 12, "start", "below a box: its channels",
                   fmt::format("font-size=\"12\" fill=\"{}\"", svg::kMuted));
  return out;
}

}  // namespace

std::string architecture_svg(const Network& network) {
  const std::vector<Row> rows = wrap(boxes_of(network));
  std::string body;
  double top = 0, width = kNarrowest;
  int size_before = 0;
  for (const Row& row : rows) {
    width = std::max(width, row.x.back() + row.boxes.back().width + kMargin);
    double height = 0;
    for (const Box& box : row.boxes) height = std::max(height, box.height);
    const double middle = top + kHeading + height / 2, bottom = top + kHeading + height;
    body += draw_sizes(row, size_before, top, bottom);
    for (size_t i = 0; i < row.boxes.size(); ++i) {
      const double right = row.x[i] + row.boxes[i].width;
      body += draw_box(row.boxes[i], row.x[i], middle, bottom);
      if (i + 1 < row.boxes.size()) body += draw_arrow(right + 2, row.x[i + 1] - 2, middle);
    }
    size_before = row.boxes.back().size;
    top = bottom + kFooting;
  }
  body += draw_legend(network, top - 8);
  const std::string attributes =
      fmt::format("class=\"strip\" width=\"{}\" style=\"min-width: {}px\"", svg::coordinate(width),
                  svg::coordinate(std::min(width, kReadable)));
  return svg::document(width, top + 12, "Architecture " + network.name, attributes, body);
}

}  // namespace chanas
