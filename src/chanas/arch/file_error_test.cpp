// Damaged and mistaken space and network files: each is refused with a line and a way out.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "chanas/arch/network.h"
#include "chanas/arch/space.h"
#include "chanas/arch/testing.h"
#include "chanas/base/file.h"

namespace chanas {
namespace {

constexpr const char* kNetwork = R"(resolution = 32
classes = 10
stem = { out = 8 }
units = [
  { kernel = 3, expand = 3, out = 16, stride = 2 },
  { kernel = 5, expand = 6, out = 16 },
]
head = { conv = 32 }
)";

constexpr const char* kSpace = R"(classes = 10
resolutions = [24, 32]
widths = [1.0]
kernels = [3, 5]
expands = [3, 6]
depths = [1, 2]
stem = { channels = 8 }
blocks = [
  { channels = 16, stride = 2 },
]
)";

// `text` with its first `from` replaced.
std::string edited(std::string text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string network_error(const std::string& from, const std::string& to) {
  Status status = parse_network(edited(kNetwork, from, to), "net.toml").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

std::string space_error(const std::string& from, const std::string& to) {
  Status status = parse_space(edited(kSpace, from, to), "my.toml").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(BaseFiles, AreGood) {
  EXPECT_TRUE(parse_network(kNetwork, "net.toml").ok());
  EXPECT_TRUE(parse_space(kSpace, "my.toml").ok());
}

// The first ```toml block of a README.
std::string example_of(const std::string& readme) {
  StatusOr<std::string> text = read_file(std::string(CHANAS_SOURCE_DIR) + readme);
  EXPECT_TRUE(text.ok()) << text.status();
  if (!text.ok()) return "";
  size_t begin = text->find("```toml\n") + 8;
  return text->substr(begin, text->find("```", begin) - begin);
}

TEST(ReadmeExamples, AreGoodFiles) {
  StatusOr<Network> network = parse_network(example_of("/zoo/README.md"), "readme");
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_EQ(network->units.size(), 5u);
  StatusOr<ArchSpace> space = parse_space(example_of("/spaces/README.md"), "readme");
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(space->blocks.size(), 3u);
}

TEST(NetworkFile, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(network_error("classes", "clases"),
            "net.toml:2: clases: unknown key, did you mean \"classes\"?");
  EXPECT_EQ(network_error("stride = 2", "strid = 2"),
            "net.toml:5: units[0].strid: unknown key, did you mean \"stride\"?");
  EXPECT_EQ(network_error("conv = 32", "conf = 32"),
            "net.toml:8: head.conf: unknown key, did you mean \"conv\"?");
  // A mistyped key explains the missing one better than its absence.
  EXPECT_EQ(network_error("resolution", "resolutoin"),
            "net.toml:1: resolutoin: unknown key, did you mean \"resolution\"?");
  EXPECT_EQ(network_error("kernel = 5", "kernal = 5"),
            "net.toml:6: units[1].kernal: unknown key, did you mean \"kernel\"?");
  EXPECT_EQ(network_error("stem = {", "stem = { zzzzzzzzzzzz = 1, "),
            "net.toml:3: stem.zzzzzzzzzzzz: unknown key, expected one of act, kernel, out, stride");
}

TEST(NetworkFile, MissingKeys) {
  EXPECT_EQ(network_error("resolution = 32", ""), "net.toml: resolution is missing");
  EXPECT_EQ(network_error("kernel = 5, ", ""), "net.toml:6: units[1]: kernel is missing");
  EXPECT_EQ(network_error("expand = 6, ", ""), "net.toml:6: units[1]: mid or expand is missing");
  EXPECT_EQ(network_error("out = 8", ""), "net.toml:3: stem: out is missing");
  EXPECT_EQ(parse_network("", "net.toml").status().message(), "net.toml: resolution is missing");
}

TEST(NetworkFile, WrongTypes) {
  EXPECT_EQ(network_error("= 32", "= \"32\""),
            "net.toml:1: resolution: found a string, expected a whole number");
  EXPECT_EQ(network_error("= 32", "= 32.0"),
            "net.toml:1: resolution: found a real number, expected a whole number");
  EXPECT_EQ(network_error("{ out = 8 }", "8"),
            "net.toml:3: stem: found a whole number, expected a table");
  EXPECT_EQ(network_error("{ kernel = 5, expand = 6, out = 16 }", "7"),
            "net.toml:6: units[1]: found a whole number, expected a table");
  EXPECT_EQ(network_error("classes = 10", "act = 10"),
            "net.toml:2: act: found a whole number, expected the name of an activation");
  EXPECT_EQ(network_error("classes = 10", "classes = 1979-05-27"),
            "net.toml:2: classes: found a date or time, expected a number, a string, a boolean, an "
            "array or a table");
  EXPECT_EQ(network_error("stride = 2", "se = \"yes\""),
            "net.toml:5: units[0].se: found a string, expected a whole number");
}

TEST(NetworkFile, OutOfRange) {
  EXPECT_EQ(network_error("= 32", "= 0"), "net.toml:1: resolution: found 0, expected 1 to 4096");
  EXPECT_EQ(network_error("= 32", "= 9223372036854775807"),
            "net.toml:1: resolution: found 9223372036854775807, expected 1 to 4096");
  EXPECT_EQ(network_error("expand = 6", "expand = nan"),
            "net.toml:6: units[1].expand: found nan, expected 0.125 to 64");
  EXPECT_EQ(network_error("expand = 6", "expand = 1e300"),
            "net.toml:6: units[1].expand: found 1e+300, expected 0.125 to 64");
  EXPECT_EQ(network_error("expand = 6", "repeat = 1000000000, expand = 6"),
            "net.toml:6: units[1].repeat: found 1000000000, expected 1 to 256");
  EXPECT_EQ(network_error("expand = 6", "repeat = 256, expand = 6"),
            "net.toml:6: units[1]: more than 256 units in all");
  EXPECT_EQ(network_error("classes = 10", "dropout = nan"),
            "net.toml:2: dropout: found nan, expected 0 to 1");
  EXPECT_EQ(network_error("classes = 10", "dropout = 1.0"),
            "net.toml: dropout is 1, expected at least 0 and below 1");
  EXPECT_EQ(
      network_error("stride = 2", "act = \"swish\""),
      "net.toml:5: units[0].act: activation \"swish\" is not known, expected one of none, relu, "
      "relu6, hswish, sigmoid, hsigmoid");
}

TEST(NetworkFile, ImpossibleUnits) {
  EXPECT_EQ(network_error("kernel = 5", "kernel = 4"),
            "net.toml:6: units[1]: kernel is 4, expected an odd number from 1 to 11");
  EXPECT_EQ(network_error("expand = 6", "in = 24, expand = 6"),
            "net.toml:6: units[1].in: found 24, but 16 channels come in");
  EXPECT_EQ(network_error("expand = 6", "h = 16, expand = 6"),
            "net.toml:6: units[1].h: found 16, but 8 comes in");
  EXPECT_EQ(network_error("stride = 2", "stride = 2, residual = true"),
            "net.toml:5: units[0]: residual needs stride 1 and as many channels out as in, found "
            "stride 2 and 8 -> 16");
  EXPECT_EQ(network_error("expand = 6", "expand = 6, mid = 96"),
            "net.toml:6: units[1].expand: cannot stand beside mid, which states the same width");
  EXPECT_EQ(
      network_error("expand = 6", "expand = 6, expand_conv = false"),
      "net.toml:6: units[1]: mid is 96 but without an expand convolution it must equal in, 16");
  EXPECT_EQ(network_error("expand = 6", "expand = 6, se = 4, se_gate = \"relu\""),
            "net.toml:6: units[1]: se_gate is relu, expected sigmoid or hsigmoid");
  EXPECT_EQ(network_error("classes = 10", "name = \"../up\""),
            "net.toml: name may hold letters, digits and . _ - + only, because it becomes a file "
            "name");
}

TEST(NetworkFile, BadSyntaxHasALine) {
  std::string message = network_error("stem = {", "stem = = {");
  EXPECT_EQ(message.rfind("net.toml:3: ", 0), 0u) << message;
  message = network_error("10", "\xff\xfe");
  EXPECT_EQ(message.rfind("net.toml:2: ", 0), 0u) << message;
  message = network_error("classes = 10", "resolution = 10");
  EXPECT_EQ(message.rfind("net.toml:2: ", 0), 0u) << message;
}

TEST(SpaceFile, EveryKindOfMistake) {
  EXPECT_EQ(space_error("kernels", "kernel"),
            "my.toml:4: kernel: unknown key, did you mean \"kernels\"?");
  EXPECT_EQ(space_error("channels = 16", "chanels = 16"),
            "my.toml:9: blocks[0].chanels: unknown key, did you mean \"channels\"?");
  EXPECT_EQ(space_error("widths = [1.0]", ""), "my.toml: widths is missing");
  EXPECT_EQ(space_error("[3, 5]", "[]"), "my.toml:4: kernels: found 0 values, expected 1 to 256");
  EXPECT_EQ(space_error("[3, 5]", "3"),
            "my.toml:4: kernels: found a whole number, expected an array of numbers");
  EXPECT_EQ(space_error("[3, 5]", "[3, \"5\"]"),
            "my.toml:4: kernels[1]: found a string, expected a whole number");
  EXPECT_EQ(space_error("[3, 5]", "[3, 4]"), "my.toml: kernels: found 4, expected odd numbers");
  EXPECT_EQ(space_error("[1, 2]", "[2, 1]"),
            "my.toml: depths[1]: 1 after 2, expected ascending values without repeats");
  EXPECT_EQ(space_error("[1.0]", "[inf]"), "my.toml:3: widths[0]: found inf, expected 0.125 to 8");
  EXPECT_EQ(space_error("channels = 16", "channels = 4097"),
            "my.toml:9: blocks[0].channels: found 4097, expected 1 to 4096");
  EXPECT_EQ(space_error("channels = 16", "channels = 16, se = 1"),
            "my.toml:9: blocks[0].se: found a whole number, expected true or false");
  EXPECT_EQ(space_error("{ channels = 16, stride = 2 },", ""),
            "my.toml: blocks: found 0, expected 1 to 127");
  EXPECT_EQ(
      space_error("channels = 8", "channels = 8, act = \"hsigmoid\""),
      "my.toml: largest network: stem: act is hsigmoid, expected none, relu, relu6 or hswish");
}

TEST(LoadFiles, PrefixThePath) {
  TemporaryFolder folder("chanas-arch");
  std::string path = join_path(folder.path(), "bad.toml");
  ASSERT_TRUE(write_file_atomic(path, edited(kSpace, "depths", "depth")).ok());
  EXPECT_EQ(load_space(path).status().message(),
            path + ":6: depth: unknown key, did you mean \"depths\"?");
}

TEST(LoadFiles, JsonAsTheProgramWritesIt) {
  TemporaryFolder folder("chanas-arch");
  const std::string path = join_path(folder.path(), "net.json");
  Json json = to_json(network_of("mnasnet_a1"));
  ASSERT_TRUE(write_json(path, json).ok());
  StatusOr<Network> network = load_network(path);
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_EQ(*network, network_of("mnasnet_a1"));
  json["head"]["mixx"] = 1;
  ASSERT_TRUE(write_json(path, json).ok());
  EXPECT_EQ(load_network(path).status().message(),
            path + ": head.mixx: unknown key, did you mean \"mix\"?");
  ASSERT_TRUE(write_file_atomic(path, "{").ok());
  EXPECT_TRUE(std::string(load_network(path).status().message()).starts_with(path + ": "));
}

TEST(Json, MistakesNameThePath) {
  Json json = to_json(network_of("mnasnet_a1"));
  auto message = [&](auto edit) {
    Json copy = json;
    edit(copy);
    StatusOr<Network> network = network_from_json(copy);
    EXPECT_FALSE(network.ok());
    return std::string(network.status().message());
  };
  EXPECT_EQ(message([](Json& j) { j["units"][3]["in"] = 32; }),
            "units[3].in: found 32, but 24 channels come in");
  EXPECT_EQ(message([](Json& j) { j["units"][3]["kernel"] = nullptr; }),
            "units[3].kernel: found nothing, expected a whole number");
  EXPECT_EQ(message([](Json& j) { j["head"]["mixx"] = 1; }),
            "head.mixx: unknown key, did you mean \"mix\"?");
  EXPECT_EQ(message([](Json& j) { j["units"] = Json::array(); }),
            "units: found 0, expected 1 to 256");
  EXPECT_EQ(message([](Json& j) { j["resolution"] = 18446744073709551615u; }),
            "resolution: found 18446744073709551615, expected 1 to 4096");
  EXPECT_EQ(message([](Json& j) { j = 3; }), "found a whole number, expected a table");
}

}  // namespace
}  // namespace chanas
