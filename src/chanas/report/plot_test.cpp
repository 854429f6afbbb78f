// Ticks, labels and formatting that every figure uses.

#include "chanas/report/plot.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "chanas/base/rng.h"

namespace chanas {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(NiceTicksTest, KnownAnswers) {
  EXPECT_THAT(nice_ticks(0, 100, 5), ElementsAre(0, 20, 40, 60, 80, 100));
  EXPECT_THAT(nice_ticks(0, 1, 5),
              testing::Pointwise(testing::DoubleNear(1e-12), {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}));
  EXPECT_THAT(nice_ticks(130, 480, 5), ElementsAre(200, 300, 400));
  EXPECT_THAT(nice_ticks(7, 7, 5), ElementsAre(7));
}

TEST(NiceTicksTest, FewRoundAndInside) {
  Rng rng(3);
  for (int i = 0; i < 5000; ++i) {
    const double low = std::pow(10, rng.uniform_real(-6, 9)) * rng.uniform_real(-1, 1);
    const double high = low + std::pow(10, rng.uniform_real(-3, 9));
    if (high - low < 1e-8 * std::abs(low)) continue;
    std::vector<double> ticks = nice_ticks(low, high, 5);
    ASSERT_GE(ticks.size(), 2u) << low << " " << high;
    ASSERT_LE(ticks.size(), 7u) << low << " " << high;
    const double step = ticks[1] - ticks[0];
    EXPECT_GE(ticks.front(), low - 1e-6 * step);
    EXPECT_LE(ticks.back(), high + 1e-6 * step);
    const double digit = step / std::pow(10, std::floor(std::log10(step * 1.0001)));
    EXPECT_TRUE(std::abs(digit - 1) < 1e-3 || std::abs(digit - 2) < 1e-3 ||
                std::abs(digit - 5) < 1e-3)
        << digit;
    // Labels tell the ticks apart.
    std::set<std::string> labels;
    for (double tick : ticks) labels.insert(tick_label(tick, step));
    EXPECT_EQ(labels.size(), ticks.size()) << low << " " << high;
  }
}

TEST(TickLabelTest, KnownAnswers) {
  EXPECT_EQ(tick_label(0.25, 0.05), "0.25");
  EXPECT_EQ(tick_label(90, 2), "90");
  EXPECT_EQ(tick_label(20000, 5000), "20k");
  EXPECT_EQ(tick_label(2500000, 500000), "2.5M");
  EXPECT_EQ(tick_label(0, 0.1), "0");
}

TEST(FormatTest, NumbersForPeople) {
  EXPECT_EQ(svg::significant(12345.6), "12346");
  EXPECT_EQ(svg::significant(412.34), "412");
  EXPECT_EQ(svg::significant(4.1234), "4.12");
  EXPECT_EQ(svg::significant(0.041234), "0.0412");
  EXPECT_EQ(svg::significant(0), "0");
  EXPECT_EQ(svg::significant(NAN), "-");
  EXPECT_EQ(svg::percent(0.9312), "93.1 %");
  EXPECT_EQ(svg::time_unit(1500).text(412.3), "412 µs");
  EXPECT_EQ(svg::time_unit(16400).text(16400), "16.4 ms");
  EXPECT_EQ(svg::coordinate(1.5), "1.5");
  EXPECT_EQ(svg::coordinate(-0.001), "0");
  EXPECT_EQ(svg::coordinate(100), "100");
}

TEST(EscapeTest, MarkupControlsAndBadUtf8) {
  EXPECT_EQ(svg::escape("a<b> & \"c\" 'd'"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;");
  EXPECT_EQ(svg::escape("µs → 32×32 \xf0\x9f\x99\x82"), "µs → 32×32 \xf0\x9f\x99\x82");
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(svg::escape(std::string_view("\0\x1b", 2)), bad + bad);
  EXPECT_EQ(svg::escape("\x80"), bad);                      // continuation alone
  EXPECT_EQ(svg::escape("\xc0\xaf"), bad + bad);            // overlong
  EXPECT_EQ(svg::escape("\xe2\x82"), bad + bad);            // cut off
  EXPECT_EQ(svg::escape("\xed\xa0\x80"), bad + bad + bad);  // surrogate
  EXPECT_EQ(svg::escape("\xf5\x80\x80\x80x").back(), 'x');
}

TEST(PlotTest, LeavesOutWhatIsNotFinite) {
  Plot plot("title", "x", "y");
  plot.add({Series::kDot, "dots", svg::kBlue, 2, {{NAN, 1}, {1, INFINITY}}});
  EXPECT_TRUE(plot.empty());
  EXPECT_EQ(plot.figure("caption"), "");
  plot.add({Series::kDot, "dots", svg::kBlue, 2, {{NAN, 1}, {1, 2}, {3, 4}}});
  const std::string figure = plot.figure("caption");
  EXPECT_THAT(figure, HasSubstr("dots"));
  EXPECT_THAT(figure, Not(HasSubstr("nan")));
}

TEST(PlotTest, RulesAndBandsAloneAreNoFigure) {
  Plot plot("title", "x", "y");
  plot.add({Series::kRule, "limit", svg::kRed, 2, {{3, 0}}});
  plot.add({Series::kBand, "band", svg::kSky, 1, {{0, 0}, {1, 0}, {1, 1}}});
  EXPECT_EQ(plot.figure("caption"), "");
}

// Known scale: the plot area is 482 x 250 with its corner at (62, 284), padded by 4 %.
TEST(PlotTest, PlacesPointsOnTheScale) {
  Plot plot("title", "x", "y");
  plot.add({Series::kLine, "", svg::kBlue, 2, {{10, 20}, {110, 70}}});
  const double x0 = 62 + 482 * 0.04 / 1.08, x1 = 62 + 482 * 1.04 / 1.08;
  const double y0 = 284 - 250 * 0.04 / 1.08, y1 = 284 - 250 * 1.04 / 1.08;
  EXPECT_THAT(plot.figure("caption"),
              HasSubstr(fmt::format("M{} {}L{} {}", svg::coordinate(x0), svg::coordinate(y0),
                                    svg::coordinate(x1), svg::coordinate(y1))));
}

}  // namespace
}  // namespace chanas
