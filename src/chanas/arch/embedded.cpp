#include "chanas/arch/embedded.h"

#include <fmt/format.h>

#include <algorithm>

#include "chanas/base/file.h"
#include "chanas/base/names.h"

namespace chanas {

std::vector<std::string> names_of(const TextFiles& files) {
  std::vector<std::string> names;
  for (const auto& [name, text] : files) names.push_back(name.substr(0, name.rfind(".toml")));
  std::sort(names.begin(), names.end());
  return names;
}

StatusOr<std::pair<std::string, std::string>> find_text(const TextFiles& files,
                                                        const std::string& name_or_path,
                                                        const std::string& kind) {
  for (const auto& file : files) {
    if (file.first == name_or_path + ".toml") return file;
  }
  bool is_path = name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".toml");
  if (is_path || file_exists(name_or_path)) {
    StatusOr<std::string> text = read_file(name_or_path);
    if (!text.ok()) return annotate(text.status(), kind);
    return std::make_pair(name_or_path, *std::move(text));
  }
  std::vector<std::string> names = names_of(files);
  std::string nearest = nearest_name(name_or_path, names);
  return absl::NotFoundError(fmt::format(
      "no {} is called \"{}\"{}; built in are {}; anything else is the path of a .toml file", kind,
      name_or_path, nearest.empty() ? "" : fmt::format(", did you mean \"{}\"?", nearest),
      join(names)));
}

}  // namespace chanas
