#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "chanas/base/names.h"
#include "chanas/base/rng.h"
#include "chanas/data/dataset.h"

namespace chanas {
namespace {

constexpr std::string_view kPartNames[] = {"train", "gap", "ranking", "test"};

// Images by class, shuffled, each class by a stream of its own.
std::vector<std::vector<int>> by_class(const std::vector<int>& images, const Dataset& dataset,
                                       uint64_t seed, std::string_view name) {
  std::vector<std::vector<int>> classes(dataset.classes.size());
  for (const int image : images) {
    classes[static_cast<size_t>(dataset.labels[static_cast<size_t>(image)])].push_back(image);
  }
  for (size_t c = 0; c < classes.size(); ++c) Rng(seed, name, c).shuffle(classes[c]);
  return classes;
}

// Classes spread evenly over the whole list: the i-th of n images of a class sits at (i + 1/2) / n.
std::vector<int> interleave(const std::vector<std::vector<int>>& classes) {
  std::vector<std::pair<double, int>> placed;
  for (const std::vector<int>& images : classes) {
    for (size_t i = 0; i < images.size(); ++i) {
      placed.emplace_back((static_cast<double>(i) + 0.5) / static_cast<double>(images.size()),
                          images[i]);
    }
  }
  std::stable_sort(placed.begin(), placed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<int> images;
  for (const auto& [position, image] : placed) images.push_back(image);
  return images;
}

}  // namespace

std::string_view part_name(Part part) { return kPartNames[static_cast<size_t>(part)]; }

StatusOr<Part> parse_part(std::string_view name) {
  for (size_t i = 0; i < 4; ++i) {
    if (name == kPartNames[i]) return static_cast<Part>(i);
  }
  return absl::InvalidArgumentError(
      fmt::format("part is \"{}\", expected train, gap, ranking or test", name));
}

Status divide(const DataConfig& config, const std::vector<int>& order,
              const std::vector<int>& given_test, Dataset& dataset) {
  const bool cut_test = given_test.empty();
  std::vector<std::vector<int>> pools = by_class(order, dataset, config.seed, "divide");
  std::array<std::vector<std::vector<int>>, 4> parts;
  for (auto& part : parts) part.resize(pools.size());
  for (size_t c = 0; c < pools.size(); ++c) {
    std::vector<int>& pool = pools[c];
    const size_t needed = cut_test ? 4 : 3;
    if (pool.size() < needed) {
      return absl::InvalidArgumentError(
          fmt::format("class '{}' has {} readable images to train on, expected at least {}; add "
                      "images or remove the class",
                      dataset.classes[c], pool.size(), needed));
    }
    const auto take = [&](Part part, double share, size_t of) {
      const auto wanted = static_cast<size_t>(std::llround(share * static_cast<double>(of)));
      // One stays for each part that is still to come.
      const size_t left = part == Part::kTest ? 3 : part == Part::kRanking ? 2 : 1;
      const size_t count = std::clamp(wanted, size_t{1}, pool.size() - left);
      auto& to = parts[static_cast<size_t>(part)][c];
      to.assign(pool.end() - static_cast<std::ptrdiff_t>(count), pool.end());
      pool.resize(pool.size() - count);
    };
    if (cut_test) take(Part::kTest, config.test_share, pool.size());
    const size_t rest = pool.size();
    take(Part::kRanking, config.ranking_share, rest);
    take(Part::kGap, config.gap_share, rest);
    parts[0][c] = pool;
  }
  if (!cut_test) parts[3] = by_class(given_test, dataset, config.seed, "test");
  for (size_t p = 0; p < parts.size(); ++p) dataset.parts[p] = interleave(parts[p]);
  return absl::OkStatus();
}

}  // namespace chanas
