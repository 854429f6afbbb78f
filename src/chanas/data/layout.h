#pragma once
// Which class and which part a path stands for.

#include <functional>
#include <string>
#include <vector>

#include "chanas/base/status.h"

namespace chanas {

struct Layout {
  struct Place {
    int label = -1;  // -1: the file lies outside of every class folder
    bool test = false;
  };
  std::vector<std::string> classes;  // sorted
  std::vector<Place> places;         // one per path
};

// Understands <class>/.../x.jpg and {train,test|val}/<class>/.../x.jpg, each possibly below folders
// that hold everything else. With both test and val, test is the test part and val joins training.
// `folders`: all folder paths, to find classes without images. kInvalidArgument: no class folder, a
// single class, an empty class folder, a class that only the test part has.
StatusOr<Layout> find_layout(const std::string& source, const std::vector<std::string>& paths,
                             const std::vector<std::string>& folders,
                             const std::function<void(const std::string&)>& warn);

}  // namespace chanas
