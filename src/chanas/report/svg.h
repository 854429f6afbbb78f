#pragma once
// Text and number formatting and the few SVG elements that all figures are made of. Internal to the
// module. Everything written here is well-formed XML.

#include <string>
#include <string_view>

namespace chanas::svg {

// Colours that people with colour-blindness can tell apart (Okabe and Ito), and greys.
inline constexpr std::string_view kBlue = "#0072b2", kOrange = "#e69f00", kRed = "#d55e00",
                                  kGreen = "#009e73", kPurple = "#cc79a7", kSky = "#56b4e9",
                                  kInk = "#1c2430", kMuted = "#5b6675", kGrey = "#a3acb8",
                                  kLine = "#dfe3e8";

// Text for content and for attributes in double quotes: markup escaped; control characters and
// bytes that are not UTF-8 replaced by U+FFFD.
std::string escape(std::string_view text);

// A coordinate: at most two decimals. Aborts unless finite.
std::string coordinate(double value);

// About `digits` significant digits, never an exponent; "-" unless finite.
std::string significant(double value, int digits = 3);

// A fraction as "93.1 %".
std::string percent(double fraction);

// The unit in which a page shows its latencies.
struct TimeUnit {
  double us = 1;  // microseconds in one
  std::string name = "µs";
  double of(double time_us) const { return time_us / us; }
  std::string text(double time_us) const { return significant(of(time_us)) + " " + name; }
};
// Milliseconds from 2 ms on.
TimeUnit time_unit(double typical_us);

// Elements; `attributes` is markup such as `fill="red"`.
std::string rect(double x, double y, double width, double height, std::string_view attributes);
std::string line(double x1, double y1, double x2, double y2, std::string_view attributes);
// Escapes `content`. `anchor`: start, middle or end.
std::string text(double x, double y, std::string_view anchor, std::string_view content,
                 std::string_view attributes = "");
// The outer element with its viewBox; `title` is what a screen reader says, `attributes` markup.
std::string document(double width, double height, std::string_view title,
                     std::string_view attributes, std::string_view body);

// <figure> of a page; `body` is markup, the rest is escaped. "" for an empty body.
std::string figure(std::string_view css_class, std::string_view title, std::string_view body,
                   std::string_view caption);

}  // namespace chanas::svg
