#include "chanas/cli/command.h"

#include <CLI/CLI.hpp>
#include <cctype>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace chanas {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() &&
         (std::isdigit(static_cast<unsigned char>(text[0])) ||
          (text.size() > 1 && text[0] == '-' && std::isdigit(static_cast<unsigned char>(text[1]))));
}

}  // namespace

CLI::App* add_subcommand(CLI::App& app, Cli& cli, const std::string& name, const std::string& help,
                         const std::string& example) {
  (void)cli;
  CLI::App* sub = app.add_subcommand(name, help);
  sub->footer("example:\n  " + example);
  return sub;
}

void print_json(const Json& json) { std::printf("%s\n", json.dump(2).c_str()); }

void print_table(const std::vector<std::string>& header,
                 const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width(header.size());
  for (size_t c = 0; c < header.size(); ++c) width[c] = header[c].size();
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size() && c < width.size(); ++c) {
      width[c] = std::max(width[c], row[c].size());
    }
  }
  std::vector<bool> right(header.size(), true);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size() && c < right.size(); ++c) {
      if (!row[c].empty() && row[c] != "-" && !is_number(row[c])) right[c] = false;
    }
  }
  auto print = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t c = 0; c < row.size() && c < width.size(); ++c) {
      std::string pad(width[c] - row[c].size(), ' ');
      line += (c ? "  " : "") + (right[c] ? pad + row[c] : row[c] + pad);
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    std::printf("%s\n", line.c_str());
  };
  print(header);
  for (const auto& row : rows) print(row);
}

}  // namespace chanas
