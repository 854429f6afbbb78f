#include "chanas/data/augmentation.h"

#include <absl/strings/str_split.h>
#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

namespace chanas {
namespace {

const std::map<std::string, Geometry, std::less<>>& geometries() {
  static const auto& map = *new std::map<std::string, Geometry, std::less<>>{
      {"none", Geometry::kNone}, {"light", Geometry::kLight}, {"crop", Geometry::kCrop}};
  return map;
}

const std::map<std::string, bool Augment::*, std::less<>>& additions() {
  static const auto& map = *new std::map<std::string, bool Augment::*, std::less<>>{
      {"colour", &Augment::colour}, {"policy", &Augment::policy}, {"cutout", &Augment::cutout}};
  return map;
}

}  // namespace

StatusOr<Augment> parse_augment(std::string_view words) {
  const auto wrong = [&](const std::string& word, const std::string& expected) {
    std::string text = fmt::format("augment is \"{}\": ", words);
    if (word != words) text += fmt::format("\"{}\" does not fit, ", word);
    return absl::InvalidArgumentError(text + "expected " + expected);
  };
  Augment augment;
  bool first = true;
  const std::vector<std::string> list =
      absl::StrSplit(absl::string_view(words.data(), words.size()), '+');
  for (const std::string& word : list) {
    if (first) {
      first = false;
      const auto geometry = geometries().find(word);
      if (geometry == geometries().end()) {
        return wrong(word, "none, light or crop, as in light+cutout");
      }
      augment.geometry = geometry->second;
      continue;
    }
    const auto addition = additions().find(word);
    if (addition == additions().end() || augment.*(addition->second)) {
      return wrong(word, "colour, policy or cutout, each once, behind none, light or crop");
    }
    augment.*(addition->second) = true;
  }
  return augment;
}

}  // namespace chanas
