// The page as a reader's program sees it: parsed by an independent XML parser, complete, honest
// about missing data, and safe whatever the labels hold.

#include "chanas/report/report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "chanas/base/file.h"
#include "chanas/report/testing_data.h"

namespace chanas {
namespace {

using testing::HasSubstr;
using testing::Not;

// Runs testdata/check_page.py; its complaints go to standard output.
void expect_sound_page(const std::string& page) {
  TemporaryFolder folder("report");
  const std::string path = join_path(folder.path(), "page.html");
  ASSERT_TRUE(write_file_atomic(path, page).ok());
  const std::string command = fmt::format("'{}' '{}/src/chanas/report/testdata/check_page.py' '{}'",
                                          CHANAS_PYTHON, CHANAS_SOURCE_DIR, path);
  EXPECT_EQ(std::system(command.c_str()), 0);
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(ReportTest, WholeRun) {
  for (const char* space : {"demo", "cifar", "paper"}) {
    for (double scale_us : {0.5, 400.0, 16400.0}) {
      const std::string page = render_report(sample_report(space, scale_us));
      expect_sound_page(page);
      EXPECT_EQ(count(page, "<figure"), 9u);
      EXPECT_EQ(count(page, "<table"), 4u);
      EXPECT_EQ(count(page, "<figcaption"), 9u);
    }
  }
}

TEST(ReportTest, UnitsFollowTheLimit) {
  EXPECT_THAT(render_report(sample_report("demo", 400)), HasSubstr("latency, µs"));
  EXPECT_THAT(render_report(sample_report("demo", 16400)), HasSubstr("latency, ms"));
}

TEST(ReportTest, CaptionsStateTheNumbers) {
  const std::string page = render_report(sample_report("demo", 400));
  EXPECT_THAT(page, HasSubstr("reaches 91.7 % in 386 µs, 3.5 % below the limit"));
  EXPECT_THAT(page, HasSubstr("over 50 whole networks the mean error is 3.2 %, 98.0 % are within "
                              "10 %, and the rank correlation is 0.991"));
}

TEST(ReportTest, SameDataSameBytes) {
  EXPECT_EQ(render_report(sample_report()), render_report(sample_report()));
}

TEST(ReportTest, EmptyRun) {
  const std::string page = render_report({});
  expect_sound_page(page);
  EXPECT_EQ(count(page, "<figure"), 0u);
  EXPECT_EQ(count(page, "<table"), 0u);
  EXPECT_EQ(count(page, "<h2"), 0u);
}

// Each part alone gives its own figures or tables, and no others.
TEST(ReportTest, MissingPartsAreLeftOut) {
  const ReportData all = sample_report();
  struct Case {
    const char* name;
    void (*keep)(const ReportData& from, ReportData& to);
    size_t figures, tables;
  };
  const Case cases[] = {
      {"cloud", [](auto& from, auto& to) { to.cloud = from.cloud; }, 1, 0},
      {"winner", [](auto& from, auto& to) { to.winner = from.winner; }, 1, 0},
      {"limit", [](auto& from, auto& to) { to.limit_us = from.limit_us; }, 0, 0},
      {"cells", [](auto& from, auto& to) { to.cells = from.cells; }, 1, 1},
      {"check", [](auto& from, auto& to) { to.latency_check = from.latency_check; }, 1, 0},
      {"search", [](auto& from, auto& to) { to.search_progress = from.search_progress; }, 1, 0},
      {"training", [](auto& from, auto& to) { to.training = from.training; }, 2, 0},
      {"first steps of training",
       [](auto& from, auto& to) { to.training.assign(1, from.training.front()); }, 1, 0},
      {"tuning", [](auto& from, auto& to) { to.tuning = from.tuning; }, 1, 0},
      {"rows", [](auto& from, auto& to) { to.rows = from.rows; }, 1, 1},
      {"network", [](auto& from, auto& to) { to.network = from.network; }, 1, 0},
      {"versions", [](auto& from, auto& to) { to.versions = from.versions; }, 0, 1},
  };
  for (const Case& c : cases) {
    ReportData data;
    c.keep(all, data);
    const std::string page = render_report(data);
    expect_sound_page(page);
    EXPECT_EQ(count(page, "<figure"), c.figures) << c.name;
    EXPECT_EQ(count(page, "<table"), c.tables) << c.name;
  }
}

TEST(ReportTest, LabelsCannotBreakThePage) {
  const std::string hostile = "\"><script>alert('x')</script>&\xff\x01<!--]]>";
  ReportData data = sample_report();
  for (std::string* text : {&data.title, &data.device, &data.space_name, &data.data_name,
                            &data.command, &data.network->name}) {
    *text = hostile;
  }
  for (auto* points : {&data.front_predicted, &data.cloud, &data.measured}) {
    for (ReportData::Point& point : *points) point.label = hostile;
  }
  data.winner->label = hostile;
  for (ReportData::Cell& cell : data.cells) cell.label = cell.note = hostile;
  for (ReportData::TableRow& row : data.rows) row.element = row.cut = hostile;
  for (auto* facts : {&data.facts, &data.versions, &data.stage_seconds}) {
    for (ReportData::Fact& fact : *facts) fact = {hostile, hostile};
  }
  const std::string page = render_report(data);
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  expect_sound_page(page);
}

TEST(ReportTest, ValuesThatAreNotNumbersAreNotDrawn) {
  const double nan = std::nan(""), infinite = std::numeric_limits<double>::infinity();
  ReportData data = sample_report();
  for (double bad : {nan, infinite, -infinite}) {
    data.cloud.push_back({"", bad, 0.5});
    data.front_predicted.push_back({"", 100, bad});
    data.measured.push_back({"", bad, bad});
    data.cells[0].latencies_us.push_back(bad);
    data.latency_check.push_back({bad, 100});
    data.search_progress.push_back({bad, 0.5, bad});
    data.training.push_back({bad, bad, bad, bad, bad});
    data.tuning.push_back({1000, bad});
    data.rows.push_back({"bad", "", bad, 1, 0, bad, bad});
  }
  data.cells[1].mean_latency_us = data.cells[1].mean_macs = nan;
  data.latency_mape = nan;
  data.winner->accuracy = nan;
  data.limit_us = infinite;
  expect_sound_page(render_report(data));
}

TEST(ReportTest, DegenerateRangesAreDrawn) {
  ReportData data;
  data.cloud.assign(3, {"", 100, 0.5});
  data.search_progress = {{100, 0.9, 0.9}};
  data.tuning = {{0, 1}};
  data.latency_check = {{100, 100}};
  data.cells.resize(1);
  data.cells[0].latencies_us = {5};
  const std::string page = render_report(data);
  expect_sound_page(page);
  EXPECT_EQ(count(page, "<figure"), 5u);
}

// One box per unit, stem and head part, as wide as its channels and as high as its kernel.
TEST(ArchitectureTest, DrawsEveryUnitToScale) {
  for (const std::string& name : zoo_names()) {
    const Network network = *load_network(name);
    const std::string svg = architecture_svg(network);
    expect_sound_page(svg);
    const size_t head = 1 + (network.head.conv_channels > 0) + (network.head.mix_channels > 0);
    EXPECT_EQ(count(svg, "<title>"), 1 + network.units.size() + head) << name;
    size_t with_se = 0;
    for (const Unit& unit : network.units) with_se += unit.se_channels > 0;
    EXPECT_EQ(count(svg, ">SE<"), with_se) << name;
  }
  Network two;
  two.units = {Unit{.h_in = 16, .c_in = 8, .c_mid = 24, .c_out = 20, .kernel = 3},
               Unit{.h_in = 16, .c_in = 20, .c_mid = 120, .c_out = 40, .kernel = 7}};
  const std::string svg = architecture_svg(two);
  EXPECT_THAT(svg, HasSubstr("width=\"50\" height=\"42\""));  // 30 + 40 * 20 / 40; 18 + 8 * 3
  EXPECT_THAT(svg, HasSubstr("width=\"70\" height=\"74\""));
  EXPECT_THAT(svg, HasSubstr(">e3<"));
  EXPECT_THAT(svg, HasSubstr(">e6<"));
}

}  // namespace
}  // namespace chanas
