#pragma once
// Help for people who mistyped a name.

#include <string>
#include <string_view>
#include <vector>

namespace chanas {

// The candidate with the smallest edit distance (letter case ignored, two letters swapped count as
// one edit; the first one on a tie), or "" when none is near (distance over half of the name's
// length).
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

// "a, b, c".
std::string join(const std::vector<std::string>& items, std::string_view separator = ", ");

}  // namespace chanas
