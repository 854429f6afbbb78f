// The page around the figures: style, facts, tables.

#include "chanas/report/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "chanas/report/figures.h"
#include "chanas/report/svg.h"

namespace chanas {
namespace {

using svg::escape;
using svg::percent;
using svg::significant;
using svg::TimeUnit;

// Light whatever the reader's theme is: every colour is given.
constexpr std::string_view kStyle = R"(
:root { color-scheme: only light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1c2430; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 44px 0 14px; padding-top: 14px; border-top: 1px solid #dfe3e8; }
h3 { font-size: 16px; margin: 0 0 6px; }
.about { color: #5b6675; margin: 0 0 22px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 0; }
.facts div { background: #f5f7f9; border-radius: 8px; padding: 12px 14px; }
.facts dt { color: #5b6675; font-size: 14px; }
.facts dd { margin: 2px 0 0; font-size: 18px; font-weight: 600; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 32px 40px; align-items: start; }
.grid > * { min-width: 0; }
.stack { display: grid; gap: 32px; }
.wide { grid-column: 1 / -1; }
figure { margin: 0; break-inside: avoid; }
figcaption { color: #5b6675; font-size: 14px; margin-top: 6px; }
svg { display: block; height: auto; background: #fff; }
.plot { width: 100%; }
.strip { max-width: 100%; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 4px; padding: 0; font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.swatch { width: 24px; height: 16px; flex: none; }
.box { width: 14px; height: 14px; border-radius: 3px; flex: none; print-color-adjust: exact; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid #dfe3e8; }
th { color: #5b6675; font-weight: 600; white-space: normal; vertical-align: bottom; }
.left { text-align: left; }
td.left:last-child { white-space: normal; min-width: 9em; }
.chosen { background: #e8f2fa; font-weight: 600; }
code { font: 14px ui-monospace, monospace; background: #f5f7f9; border-radius: 4px; padding: 2px 6px; overflow-wrap: anywhere; }
@media (max-width: 700px) {
  main { padding: 18px 14px 32px; }
  h1 { font-size: 22px; }
  .facts { grid-template-columns: 1fr 1fr; gap: 8px; }
  .facts div { padding: 9px 11px; }
  .facts dd { font-size: 17px; }
}
@media (max-width: 560px) {
  .plot text { font-size: 17px; }
}
@media print {
  main { max-width: none; padding: 0; }
  .facts div, .chosen, .box { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
}
)";

struct Column {
  std::string name;   // "" in the first column: no head
  bool left = false;  // text; numbers are set to the right
};
struct TableLine {
  std::vector<std::string> cells;
  bool chosen = false;
};

std::string table(std::string_view css_class, std::string_view title,
                  const std::vector<Column>& columns, const std::vector<TableLine>& lines) {
  if (lines.empty()) return "";
  auto side = [&](size_t i) { return columns[i].left ? " class=\"left\"" : ""; };
  std::string out = fmt::format(
      "<div class=\"{1}\">\n<h3>{0}</h3>\n<div class=\"scroll\">\n<table aria-label=\"{0}\">\n",
      escape(title), css_class);
  if (!columns.front().name.empty()) {
    out += "<thead><tr>";
    for (size_t i = 0; i < columns.size(); ++i) {
      out += fmt::format("<th scope=\"col\"{}>{}</th>", side(i), escape(columns[i].name));
    }
    out += "</tr></thead>\n";
  }
  out += "<tbody>\n";
  for (const TableLine& line : lines) {
    out += line.chosen ? "<tr class=\"chosen\">" : "<tr>";
    for (size_t i = 0; i < columns.size(); ++i) {
      out += fmt::format("<td{}>{}</td>", side(i), escape(line.cells[i]));
    }
    out += "</tr>\n";
  }
  return out + "</tbody>\n</table>\n</div>\n</div>\n";
}

std::string facts_list(const std::vector<ReportData::Fact>& facts) {
  std::string out;
  for (const ReportData::Fact& fact : facts) {
    out +=
        fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(fact.name), escape(fact.value));
  }
  return out.empty() ? "" : fmt::format("<dl class=\"facts\">\n{}</dl>\n", out);
}

std::string facts_table(std::string_view title, const std::vector<ReportData::Fact>& facts) {
  std::vector<TableLine> lines;
  for (const ReportData::Fact& fact : facts) lines.push_back({{fact.name, fact.value}});
  return table("", title, {{"", true}, {"", false}}, lines);
}

std::string cells_table(const ReportData& data, const TimeUnit& unit) {
  std::vector<TableLine> lines;
  for (const ReportData::Cell& cell : data.cells) {
    auto known = [&](double value, std::string text) { return value > 0 ? text : "-"; };
    lines.push_back({{cell.label, fmt::format("{} of {}", cell.inside, cell.sampled),
                      known(cell.mean_latency_us, significant(unit.of(cell.mean_latency_us))),
                      known(cell.mean_macs, significant(cell.mean_macs / 1e6)),
                      known(cell.accuracy_q90, percent(cell.accuracy_q90)), cell.note},
                     cell.chosen});
  }
  return table("", "Sub-spaces (means over the networks inside the limit)",
               {{"sub-space", true},
                {"inside the limit"},
                {"mean latency, " + unit.name},
                {"mean MACs, M"},
                {"accuracy, 90th percentile"},
                {"chosen by rule", true}},
               lines);
}

// Where a row stands: `amount` / us, "-" where either is not known.
std::string per_us(double amount, double us, fmt::format_string<double> format) {
  if (!(amount > 0) || !(us > 0)) return "-";
  return fmt::format(format, amount / us);
}

std::string elements_table(const ReportData& data, const TimeUnit& unit) {
  std::vector<TableLine> lines;
  for (const ReportData::TableRow& row : data.rows) {
    lines.push_back(
        {{row.element, significant(unit.of(row.default_us)), significant(unit.of(row.tuned_us)),
          row.tuned_us > 0 ? fmt::format("{:.2f}x", row.default_us / row.tuned_us) : "-",
          per_us(2e-3 * row.macs, row.tuned_us, "{:.0f}"),
          per_us(100 * row.roofline_us, row.tuned_us, "{:.0f} %"), fmt::format("{}", row.trials),
          row.cut}});
  }
  return table("wide", "The returned network's rows of the latency table",
               {{"element", true},
                {"default, " + unit.name},
                {"tuned, " + unit.name},
                {"speed-up"},
                {"GFLOP/s"},
                {"of the roofline"},
                {"schedules tried"},
                {"cut into kernels", true}},
               lines);
}

std::string section(std::string_view title, const std::string& body) {
  if (body.empty()) return "";
  return fmt::format("<section>\n<h2>{}</h2>\n<div class=\"grid\">\n{}</div>\n</section>\n",
                     escape(title), body);
}

// "4 threads on <device>, space demo, data synthetic".
std::string about(const ReportData& data) {
  std::string out = fmt::format("{} thread{}", data.threads, data.threads == 1 ? "" : "s");
  if (!data.device.empty()) out += " on " + data.device;
  if (!data.space_name.empty()) out += ", space " + data.space_name;
  if (!data.data_name.empty()) out += ", data " + data.data_name;
  return out;
}

double typical_latency(const ReportData& data) {
  if (data.limit_us > 0) return data.limit_us;
  if (data.winner) return data.winner->latency_us;
  return data.front_predicted.empty() ? 0 : data.front_predicted.back().latency_us;
}

}  // namespace

std::string render_report(const ReportData& data) {
  const TimeUnit unit = svg::time_unit(typical_latency(data));
  double longest_row_us = 0;
  for (const ReportData::TableRow& row : data.rows) {
    longest_row_us = std::max(longest_row_us, row.default_us);
  }
  const TimeUnit row_unit = svg::time_unit(longest_row_us);

  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
      "<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n"
      "<p class=\"about\">{2}</p>\n",
      escape(data.title), kStyle, escape(about(data)));
  page += facts_list(data.facts);
  page += section("What was found",
                  pareto_figure(data, unit) + search_figure(data) + architecture_figure(data));
  page += section("Which sub-space", cells_figure(data, unit) + cells_table(data, unit));
  // The bars are as high as the network is long: two other figures fit beside them.
  std::string beside = tuning_figure(data) + latency_check_figure(data, unit);
  if (!beside.empty()) beside = fmt::format("<div class=\"stack\">\n{}</div>\n", beside);
  page += section("Where the time goes",
                  elements_figure(data, row_unit) + beside + elements_table(data, row_unit));
  page +=
      section("How the weights were trained", loss_figure(data) + training_accuracy_figure(data));
  std::string origin =
      facts_table("Time per stage", data.stage_seconds) + facts_table("Versions", data.versions);
  if (!data.command.empty()) {
    origin += fmt::format("<p class=\"wide\">Made by <code>{}</code></p>\n", escape(data.command));
  }
  page += section("How this was made", origin);
  return page + "</main>\n</body>\n</html>\n";
}

}  // namespace chanas
