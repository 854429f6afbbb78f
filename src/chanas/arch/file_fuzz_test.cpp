// Seeded damage to every built-in file. A reader may accept or refuse the result, but what it
// accepts is valid and survives being written and read again, and what it refuses has a message
// that starts with the file's name.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "chanas/arch/embedded.h"
#include "chanas/arch/network.h"
#include "chanas/arch/space.h"

namespace chanas {
namespace {

constexpr int kRounds = 1500;

const std::vector<std::string> kTokens = {"0",
                                          "-1",
                                          "1e999",
                                          "nan",
                                          "-inf",
                                          "true",
                                          "[]",
                                          "{}",
                                          "[[",
                                          "]]",
                                          "=",
                                          ",",
                                          "\"",
                                          "'''",
                                          "\n",
                                          "#",
                                          ".",
                                          "9223372036854775807",
                                          "0x7f",
                                          "1979-05-27",
                                          "units",
                                          "blocks",
                                          "kernel",
                                          "repeat",
                                          "expand",
                                          "mid",
                                          "se",
                                          "residual",
                                          "\xff",
                                          std::string(1, '\0'),
                                          "\xf0\x9f\x98\x80",
                                          "\\u0000"};

// A number in place of a number keeps the file well formed and reaches the checks behind syntax.
void replace_number(std::string& text, Rng& rng) {
  std::vector<size_t> digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] >= '0' && text[i] <= '9') digits.push_back(i);
  }
  if (digits.empty()) return;
  size_t at = rng.choose(digits);
  text.replace(at, 1, std::to_string(rng.uniform(rng.bernoulli(0.9) ? 10 : 100000)));
}

std::string damaged(std::string text, Rng& rng) {
  int edits = static_cast<int>(1 + rng.uniform(4));
  for (int i = 0; i < edits && !text.empty(); ++i) {
    size_t at = rng.uniform(text.size());
    size_t length = std::min<size_t>(1 + rng.uniform(20), text.size() - at);
    switch (rng.uniform(7)) {
      case 0:
        text[at] = static_cast<char>(rng.uniform(256));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(rng.uniform(text.size()), length));
        break;
      case 3:
        text.insert(at, rng.choose(kTokens));
        break;
      case 4:
        text.resize(at);
        break;
      default:
        replace_number(text, rng);
    }
  }
  return text;
}

bool starts_with_name(const Status& status) {
  return status.code() == absl::StatusCode::kInvalidArgument &&
         status.message().substr(0, 9) == "fuzz.toml";
}

TEST(FileFuzz, Networks) {
  int accepted = 0, refused = 0;
  for (const auto& [name, text] : embedded_zoo()) {
    for (int round = 0; round < kRounds; ++round) {
      Rng rng(1, name, round);
      SCOPED_TRACE(name + " round " + std::to_string(round));
      StatusOr<Network> network = parse_network(damaged(text, rng), "fuzz.toml");
      if (!network.ok()) {
        ++refused;
        ASSERT_TRUE(starts_with_name(network.status())) << network.status();
        continue;
      }
      ++accepted;
      ASSERT_TRUE(validate(*network).ok()) << validate(*network);
      ASSERT_GT(macs(*network), 0);
      StatusOr<Network> again = parse_network(network_to_toml(*network), "again.toml");
      ASSERT_TRUE(again.ok()) << again.status();
      ASSERT_EQ(*again, *network);
    }
  }
  // Both sides were reached, or the loop shows nothing.
  EXPECT_GT(accepted, kRounds / 10);
  EXPECT_GT(refused, kRounds / 10);
}

TEST(FileFuzz, Spaces) {
  int accepted = 0, refused = 0;
  for (const auto& [name, text] : embedded_spaces()) {
    for (int round = 0; round < kRounds; ++round) {
      Rng rng(2, name, round);
      SCOPED_TRACE(name + " round " + std::to_string(round));
      StatusOr<ArchSpace> space = parse_space(damaged(text, rng), "fuzz.toml");
      if (!space.ok()) {
        ++refused;
        ASSERT_TRUE(starts_with_name(space.status())) << space.status();
        continue;
      }
      ++accepted;
      ASSERT_TRUE(validate(*space).ok()) << validate(*space);
      std::vector<SubSpace> cells = space->cells();
      Network network = to_network(*space, sample(*space, rng.choose(cells), rng));
      ASSERT_TRUE(validate(network).ok()) << validate(network);
      StatusOr<ArchSpace> again = space_from_json(to_json(*space));
      ASSERT_TRUE(again.ok()) << again.status();
      ASSERT_EQ(to_json(*again), to_json(*space));
    }
  }
  EXPECT_GT(accepted, kRounds / 10);
  EXPECT_GT(refused, kRounds / 10);
}

// Random values anywhere in the JSON forms.
TEST(FileFuzz, JsonValues) {
  const std::vector<Json> values = {nullptr,
                                    true,
                                    -1,
                                    0,
                                    3,
                                    4096,
                                    1e300,
                                    "x",
                                    "relu",
                                    Json::array(),
                                    Json::object(),
                                    Json::array({1, "a"}),
                                    18446744073709551615u};
  int refused = 0;
  for (const auto& [name, text] : embedded_zoo()) {
    StatusOr<Network> network = parse_network(text, name);
    ASSERT_TRUE(network.ok()) << network.status();
    const Json flat = to_json(*network).flatten();
    std::vector<std::string> paths;
    for (const auto& [path, value] : flat.items()) paths.push_back(path);
    for (int round = 0; round < kRounds / 5; ++round) {
      Rng rng(3, name, round);
      Json json = to_json(*network);
      json[Json::json_pointer(rng.choose(paths))] = rng.choose(values);
      StatusOr<Network> read = network_from_json(json);
      if (read.ok()) {
        ASSERT_TRUE(validate(*read).ok());
      } else {
        ++refused;
        ASSERT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
      }
    }
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace chanas
