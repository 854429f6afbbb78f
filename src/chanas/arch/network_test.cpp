#include "chanas/arch/network.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "chanas/arch/testing.h"
#include "chanas/base/file.h"

namespace chanas {
namespace {

TEST(Activation, NamesRoundTrip) {
  for (Activation act : {Activation::kNone, Activation::kRelu, Activation::kRelu6,
                         Activation::kHSwish, Activation::kSigmoid, Activation::kHSigmoid}) {
    StatusOr<Activation> back = parse_activation(activation_name(act));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(*back, act);
  }
  EXPECT_EQ(
      parse_activation("swish").status().message(),
      "activation \"swish\" is not known, expected one of none, relu, relu6, hswish, sigmoid, "
      "hsigmoid");
}

TEST(MakeDivisible, SmallAndOddDivisors) {
  EXPECT_EQ(make_divisible(1), 8);
  EXPECT_EQ(make_divisible(8), 8);
  EXPECT_EQ(make_divisible(11), 16);  // 8 would lose more than 10 %
  EXPECT_EQ(make_divisible(20.8), 24);
  EXPECT_EQ(make_divisible(7.2, 1), 7);
  EXPECT_EQ(se_width(72), 24);
  EXPECT_EQ(se_width(240), 64);
}

TEST(Unit, KeyAndDescription) {
  Unit unit{56, 24, 72, 40, 5, 2, true, 24, Activation::kHSigmoid, Activation::kRelu, false};
  EXPECT_EQ(unit_key(unit), "mb h56 c24 m72 o40 k5 s2 e1 se24hsigmoid relu r0");
  EXPECT_EQ(describe(unit), "k5 e3 24->40 s2 SE @56");
  Unit plain{112, 16, 16, 16, 3, 1, false, 0, Activation::kHSigmoid, Activation::kRelu6, true};
  EXPECT_EQ(unit_key(plain), "mb h112 c16 m16 o16 k3 s1 e0 se0 relu6 r1");
  EXPECT_EQ(describe(plain), "k3 e1 16->16 s1 @112");
}

TEST(Zoo, JsonAndTomlRoundTrip) {
  std::vector<std::string> names = zoo_names();
  ASSERT_EQ(names.size(), 9u);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  for (const std::string& name : names) {
    Network network = network_of(name);
    EXPECT_EQ(network.name, name);
    StatusOr<Json> text = parse_json(to_json(network).dump());
    ASSERT_TRUE(text.ok());
    StatusOr<Network> from_json = network_from_json(*text);
    ASSERT_TRUE(from_json.ok()) << from_json.status();
    EXPECT_EQ(*from_json, network);
    StatusOr<Network> from_toml = parse_network(network_to_toml(network), "written.toml");
    ASSERT_TRUE(from_toml.ok()) << from_toml.status();
    EXPECT_EQ(*from_toml, network);
  }
}

TEST(NetworkFile, EveryFieldSurvives) {
  Network network;
  network.name = "odd-one_1.5+";
  network.resolution = 57;
  network.channels = 1;
  network.stem = {5, 7, 3, Activation::kNone};
  network.units = {{19, 5, 13, 7, 9, 2, true, 3, Activation::kSigmoid, Activation::kRelu6, false},
                   {10, 7, 7, 7, 1, 1, true, 0, Activation::kSigmoid, Activation::kHSwish, false},
                   {10, 7, 7, 7, 11, 1, false, 0, Activation::kHSigmoid, Activation::kNone, true}};
  network.head = {0, Activation::kRelu, 33, true, Activation::kNone, 3};
  network.dropout = 0.1234567890123;
  network.bn_epsilon = 1e-7;
  ASSERT_TRUE(validate(network).ok()) << validate(network);
  StatusOr<Network> from_toml = parse_network(network_to_toml(network), "x.toml");
  ASSERT_TRUE(from_toml.ok()) << from_toml.status();
  EXPECT_EQ(*from_toml, network);
  StatusOr<Network> from_json = network_from_json(to_json(network));
  ASSERT_TRUE(from_json.ok()) << from_json.status();
  EXPECT_EQ(*from_json, network);
}

TEST(NetworkFile, ShortFormsMeanWhatTheReadmeSays) {
  StatusOr<Network> network = parse_network(R"(
resolution = 33
act = "relu6"
se_gate = "sigmoid"
[stem]
out = 12
[[units]]
kernel = 5
expand = 2.5
out = 20
stride = 2
se = true
repeat = 2
[[units]]
kernel = 3
expand = 1
out = 20
residual = false
[[units]]
kernel = 3
mid = 20
out = 24
expand_conv = true
se = 4
act = "hswish"
)",
                                            "folder/my net.toml");
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_EQ(network->name, "my-net");
  EXPECT_EQ(network->stem, (Stem{12, 3, 2, Activation::kRelu6}));
  EXPECT_EQ(network->head.classes, 1000);
  const auto gate = Activation::kSigmoid;
  const auto relu6 = Activation::kRelu6;
  std::vector<Unit> expected = {
      {17, 12, 30, 20, 5, 2, true, 8, gate, relu6, false},
      {9, 20, 50, 20, 5, 1, true, 16, gate, relu6, true},
      {9, 20, 20, 20, 3, 1, false, 0, Activation::kHSigmoid, relu6, false},
      {9, 20, 20, 24, 3, 1, true, 4, gate, Activation::kHSwish, false},
  };
  EXPECT_EQ(network->units, expected);
}

TEST(LoadNetwork, ByPathAndByName) {
  TemporaryFolder folder("chanas-arch");
  std::string path = join_path(folder.path(), "copy.toml");
  Network network = network_of("fbnet_c");
  ASSERT_TRUE(write_file_atomic(path, network_to_toml(network)).ok());
  StatusOr<Network> loaded = load_network(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(*loaded, network);

  Status unknown = load_network("mobilenet_v3_larg").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(unknown.message().find("did you mean \"mobilenet_v3_large\"?"), std::string::npos)
      << unknown;
  Status missing = load_network("no/such/file.toml").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("no/such/file.toml"), std::string::npos) << missing;
}

TEST(ValidateNetwork, NamesUnitAndField) {
  auto message = [](auto edit) {
    Network network = network_of("mobilenet_v3_large");
    edit(network);
    Status status = validate(network);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message([](Network& n) { n.units[3].stride = 9; }),
            "units[3]: stride is 9, expected 1 to 4");
  EXPECT_EQ(message([](Network& n) { n.units[2].kernel = 4; }),
            "units[2]: kernel is 4, expected an odd number from 1 to 11");
  EXPECT_EQ(message([](Network& n) { n.units[1].residual = true; }),
            "units[1]: residual needs stride 1 and as many channels out as in, found stride 2 and "
            "16 -> 24");
  EXPECT_EQ(message([](Network& n) { n.units[3].c_out = 48; }),
            "units[4]: takes 40 channels at 28 x 28, but the unit before gives 48 channels at 28 x "
            "28");
  EXPECT_EQ(
      message([](Network& n) { n.units[0].h_in = 100; }),
      "units[0]: takes 16 channels at 100 x 100, but the stem gives 16 channels at 112 x 112");
  EXPECT_EQ(message([](Network& n) { n.units[0].c_mid = 24; }),
            "units[0]: mid is 24 but without an expand convolution it must equal in, 16");
  EXPECT_EQ(message([](Network& n) { n.units[0].se_gate = Activation::kRelu; }),
            "units[0]: se_gate is relu, expected sigmoid or hsigmoid");
  EXPECT_EQ(message([](Network& n) { n.stem.act = Activation::kSigmoid; }),
            "stem: act is sigmoid, expected none, relu, relu6 or hswish");
  EXPECT_EQ(message([](Network& n) { n.head.conv_channels = -1; }),
            "head: conv is -1, expected 0 to 4096");
  EXPECT_EQ(message([](Network& n) { n.units.clear(); }), "units: found 0, expected 1 to 256");
  EXPECT_EQ(message([](Network& n) { n.dropout = std::nan(""); }),
            "dropout is nan, expected at least 0 and below 1");
  EXPECT_EQ(message([](Network& n) { n.bn_epsilon = 0; }),
            "bn_epsilon is 0, expected above 0 and below 1");
  EXPECT_EQ(message([](Network& n) {
              n.resolution = 4096;
              n.stem.stride = 1;
              n.stem.c_out = 40;
            }),
            "stem: 40 channels at 4096 x 4096 are 671088640 elements, at most 536870912 are "
            "possible");
  EXPECT_EQ(message([](Network& n) { n.name = "a/b"; }),
            "name may hold letters, digits and . _ - + only, because it becomes a file name");
}

}  // namespace
}  // namespace chanas
