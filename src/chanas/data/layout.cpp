#include "chanas/data/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "chanas/base/names.h"

namespace chanas {
namespace {

constexpr std::string_view kWanted = "expected a folder per class with .jpg, .jpeg or .png files";

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t slash; (slash = path.find('/', start)) != std::string::npos; start = slash + 1) {
    parts.push_back(path.substr(start, slash - start));
  }
  parts.push_back(path.substr(start));
  return parts;
}

enum class Role { kNone, kTrain, kVal, kTest };

Role role_of(std::string name) {
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (name == "train" || name == "training") return Role::kTrain;
  if (name == "val" || name == "valid" || name == "validation") return Role::kVal;
  if (name == "test" || name == "testing") return Role::kTest;
  return Role::kNone;
}

// How many leading folders all files share, leaving at least <class>/<file>.
size_t shared_depth(const std::vector<std::vector<std::string>>& paths) {
  size_t depth = 0;
  for (;; ++depth) {
    for (const auto& path : paths) {
      if (path.size() < depth + 3 || path[depth] != paths[0][depth]) return depth;
    }
  }
}

}  // namespace

StatusOr<Layout> find_layout(const std::string& source, const std::vector<std::string>& paths,
                             const std::vector<std::string>& folders,
                             const std::function<void(const std::string&)>& warn) {
  if (paths.empty()) {
    return absl::InvalidArgumentError(fmt::format("{} holds no image; {}", source, kWanted));
  }
  std::vector<std::vector<std::string>> files;
  for (const std::string& path : paths) files.push_back(split(path));
  const size_t top = shared_depth(files);

  std::map<Role, int> roles;
  for (const auto& file : files) {
    if (file.size() >= top + 3) ++roles[role_of(file[top])];
  }
  const bool divided = roles.count(Role::kTrain) != 0 &&
                       (roles.count(Role::kTest) != 0 || roles.count(Role::kVal) != 0);
  const Role test_role = roles.count(Role::kTest) != 0 ? Role::kTest : Role::kVal;
  const size_t at = top + (divided ? 1 : 0);  // of the class folder's name in a path

  // Class folders that exist, whether or not they hold images.
  std::map<std::string, int> train_count, test_count;
  for (const std::string& folder : folders) {
    const std::vector<std::string> parts = split(folder);
    if (parts.size() != at + 1 ||
        !std::equal(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(top),
                    files[0].begin()))
      continue;
    if (divided && role_of(parts[top]) == Role::kNone) continue;
    (divided && role_of(parts[top]) == test_role ? test_count : train_count)[parts[at]];
  }
  int outside = 0;
  std::string outside_example;
  Layout layout;
  std::vector<std::string> names;
  for (size_t i = 0; i < files.size(); ++i) {
    const auto& file = files[i];
    const Role role = divided ? role_of(file[top]) : Role::kTrain;
    Layout::Place place;
    if (file.size() < at + 2 || role == Role::kNone) {
      if (outside++ == 0) outside_example = paths[i];
    } else {
      place.label = 0;
      place.test = divided && role == test_role;
      ++(place.test ? test_count : train_count)[file[at]];
    }
    layout.places.push_back(place);
  }
  if (outside == static_cast<int>(files.size())) {
    return absl::InvalidArgumentError(fmt::format(
        "the images of {} lie in no class folder (e.g. {}); {}", source, outside_example, kWanted));
  }
  if (outside > 0) {
    warn(fmt::format("{} images outside of class folders are left out (e.g. {})", outside,
                     outside_example));
  }
  for (const auto* counts : {&train_count, &test_count}) {
    for (const auto& [name, count] : *counts) {
      if (count == 0) {
        return absl::InvalidArgumentError(fmt::format(
            "class folder '{}' of {} holds no image (.jpg, .jpeg, .png); fill or remove it", name,
            source));
      }
    }
  }
  for (const auto& [name, count] : train_count) layout.classes.push_back(name);
  for (const auto& [name, count] : test_count) {
    if (train_count.count(name) == 0) {
      return absl::InvalidArgumentError(
          fmt::format("class '{}' of {} has images to test but none to train on", name, source));
    }
  }
  if (layout.classes.size() < 2) {
    return absl::InvalidArgumentError(
        fmt::format("{} holds a single class ('{}'), expected at least two; {}", source,
                    layout.classes[0], kWanted));
  }
  for (size_t i = 0; i < files.size(); ++i) {
    if (layout.places[i].label < 0) continue;
    const auto found = std::lower_bound(layout.classes.begin(), layout.classes.end(), files[i][at]);
    layout.places[i].label = static_cast<int>(found - layout.classes.begin());
  }
  return layout;
}

}  // namespace chanas
