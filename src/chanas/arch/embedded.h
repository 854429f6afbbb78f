#pragma once
// Text files that the library carries (spaces/*.toml, zoo/*.toml), by name or by path.

#include <string>
#include <utility>
#include <vector>

#include "chanas/base/status.h"

namespace chanas {

// (file name, contents). Defined by chanas_embed() in CMakeLists.txt.
std::vector<std::pair<std::string, std::string>> embedded_spaces();
std::vector<std::pair<std::string, std::string>> embedded_zoo();

using TextFiles = std::vector<std::pair<std::string, std::string>>;

// File names without ".toml", in alphabetical order.
std::vector<std::string> names_of(const TextFiles& files);
// (file name, contents) of an embedded file by name, else of the file at that path. kNotFound names
// the nearest embedded one; `kind` is "space" or "network".
StatusOr<std::pair<std::string, std::string>> find_text(const TextFiles& files,
                                                        const std::string& name_or_path,
                                                        const std::string& kind);

}  // namespace chanas
