#include "chanas/graph/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "chanas/base/file.h"
#include "chanas/base/rng.h"

namespace chanas {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string with_header(const std::string& header, const std::string& data = "") {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

SafetensorsFile sample() {
  SafetensorsFile file;
  file.parameters.set("b", {{2, 3}, {1, 2, 3, 4, 5, 6}});
  file.parameters.set("a", {{1}, {-0.5}});
  file.parameters.set("none", {{0, 4}, {}});
  file.parameters.set("scalar", {{}, {7}});
  file.metadata = {{"format", "pt"}, {"quote \"", "line\n"}};
  return file;
}

void expect_equal(const SafetensorsFile& a, const SafetensorsFile& b) {
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.parameters.items.size(), b.parameters.items.size());
  for (size_t i = 0; i < a.parameters.items.size(); ++i) {
    EXPECT_EQ(a.parameters.items[i].first, b.parameters.items[i].first);
    EXPECT_EQ(a.parameters.items[i].second.shape, b.parameters.items[i].second.shape);
    EXPECT_EQ(a.parameters.items[i].second.data, b.parameters.items[i].second.data);
  }
}

TEST(Safetensors, RoundTripsThroughAFile) {
  TemporaryFolder folder("safetensors");
  const std::string path = join_path(folder.path(), "w.safetensors");
  ASSERT_TRUE(write_safetensors(path, sample()).ok());
  const StatusOr<SafetensorsFile> back = read_safetensors(path);
  ASSERT_TRUE(back.ok()) << back.status();
  expect_equal(*back, sample());
}

TEST(Safetensors, EmptyFileRoundTrips) {
  const StatusOr<std::string> bytes = serialize_safetensors({});
  ASSERT_TRUE(bytes.ok());
  ASSERT_TRUE(parse_safetensors(*bytes).ok());
  EXPECT_TRUE(parse_safetensors(*bytes)->parameters.items.empty());
}

TEST(Safetensors, LayoutIsThatOfTheFormat) {
  SafetensorsFile file;
  file.parameters.set("w", {{2}, {1, 2}});
  const std::string header = R"({"w":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}})";
  const float data[] = {1, 2};
  const std::string padding((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(serialize_safetensors(file).value(),
            with_header(header + padding, std::string(reinterpret_cast<const char*>(data), 8)));
}

// Tensors may lie in any order and be listed in any order.
TEST(Safetensors, ReadsAnyOrder) {
  const float data[] = {1, 2, 3};
  const auto file = parse_safetensors(
      with_header(R"({"z":{"shape":[1],"dtype":"F32","data_offsets":[0,4]},)"
                  R"("e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},)"
                  R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]}}   )",
                  std::string(reinterpret_cast<const char*>(data), 12)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->parameters.find("z")->data, ElementsAre(1));
  EXPECT_THAT(file->parameters.find("a")->data, ElementsAre(2, 3));
  EXPECT_EQ(file->parameters.items[0].first, "a");
}

TEST(Safetensors, DamageIsDataLossThatNamesIt) {
  auto tensor = [](const std::string& shape, const std::string& offsets,
                   const std::string& dtype = "F32") {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  auto one = [&](const std::string& entry) {
    return with_header("{\"w\":" + entry + "}", "12345678");
  };
  auto two = [&](const std::string& a, const std::string& b) {
    return with_header("{\"a\":" + a + ",\"b\":" + b + "}", "12345678");
  };
  const std::string good = tensor("[2]", "[0,8]");
  ASSERT_TRUE(parse_safetensors(one(good)).ok());
  const std::string whole = *serialize_safetensors(sample());

  const struct {
    std::string bytes;
    const char* message;
  } cases[] = {
      {"", "0 bytes"},
      {"1234567", "7 bytes"},
      {whole.substr(0, 20), "only 12 follow"},
      {whole.substr(0, whole.size() - 1), "cut off"},
      {whole + "x", "1 bytes follow the last tensor"},
      {std::string(8, '\xff') + "{}", "its header claims 18446744073709551615 bytes; at most"},
      {std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), "100000001 bytes; at most 100000000"},
      {with_header(""), "does not start with '{'"},
      {with_header("[]"), "does not start with '{'"},
      {with_header(" {}"), "does not start with '{'"},
      {with_header("{"), "not JSON"},
      {with_header("{} x"), "not JSON"},
      {with_header("{\"\xff\":1}"), "not JSON"},
      {with_header("{\"w\":3}"), "found a number in its entry"},
      {with_header("{\"w\":{\"x\":{\"y\":1}}}"), "unknown key \"x\""},
      {with_header("{\"w\":{\"shape\":[[[[]]]]}}"), "found a list"},
      {one("{\"dtype\":\"F32\",\"shape\":[2]}"), "lacks one of"},
      {one("{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2]}"), "\"shape\" twice"},
      {with_header("{\"w\":" + good + ",\"w\":" + good + "}", "12345678"), "\"w\" appears twice"},
      {with_header(R"({"__metadata__":{"a":"1","a":"2"}})"), "metadata \"a\" appears twice"},
      {with_header(R"({"__metadata__":{},"__metadata__":{}})"), "appears twice"},
      {with_header(R"({"__metadata__":{"a":1}})"), "found a number"},
      {with_header(R"({"__metadata__":[]})"), "found a list"},
      {one(tensor("[2]", "[0,8]", "F16")), "type F16; only F32"},
      {one(tensor("[1]", "[0,8]", "F64")), "type F64"},
      {one(tensor("[-2]", "[0,8]")), "negative number -2"},
      {one(tensor("[2]", "[-8,0]")), "negative number -8"},
      {one(tensor("[2.0]", "[0,8]")), "2.0, which is no integer"},
      {one(tensor("[18446744073709551616]", "[0,8]")), "no integer of 64 bits"},
      {one(tensor("[2]", "[0,8,8]")), "not [begin, end]"},
      {one(tensor("[2]", "[0]")), "not [begin, end]"},
      {one(tensor("[2]", "[8,0]")), "begin <= end"},
      {one(tensor("[3]", "[0,8]")), "spans 8 bytes; its shape needs 12"},
      {one(tensor("[3]", "[0,12]")), "ends at byte 12 of 8"},
      {one(tensor("[9223372036854775807,2]", "[0,8]")), "64 bits can count"},
      {one(tensor("[18446744073709551615]", "[0,8]")), "64 bits can count"},
      {one(tensor("[0,18446744073709551615]", "[0,0]")), "64 bits can count"},
      {one(tensor("[4294967296,4294967296]", "[0,8]")), "64 bits can count"},
      {one(tensor("[1]", "[4,8]")), "a hole"},
      {one(tensor("[1]", "[0,4]")), "4 bytes follow the last tensor"},
      {two(tensor("[1]", "[0,4]"), tensor("[1]", "[0,4]")), "they overlap"},
      {two(tensor("[2]", "[0,8]"), tensor("[1]", "[4,8]")), "they overlap"},
  };
  for (const auto& bad : cases) {
    const StatusOr<SafetensorsFile> file = parse_safetensors(bad.bytes);
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << bad.message;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(bad.message));
  }
}

TEST(Safetensors, ErrorsNameTheFile) {
  TemporaryFolder folder("safetensors");
  const std::string path = join_path(folder.path(), "w.safetensors");
  EXPECT_EQ(read_safetensors(path).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(write_file_atomic(path, "12345").ok());
  EXPECT_EQ(read_safetensors(path).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(read_safetensors(path).status().message()), HasSubstr(path));
}

TEST(Safetensors, NamesThatCannotBeWritten) {
  for (const char* name : {"\xff", "__metadata__"}) {
    SafetensorsFile file;
    file.parameters.set(name, {{1}, {1}});
    EXPECT_EQ(serialize_safetensors(file).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Damaged bytes give an error or a valid file, never a crash; under sanitizers also no bad access.
TEST(SafetensorsFuzz, SeededDamage) {
  const std::string whole = *serialize_safetensors(sample());
  const std::string tokens[] = {"[", "]",  "{",    "}",   "\"",   ",",
                                ":", "-1", "0",    "F32", "1e9",  "[[",
                                "4", "12", "null", "\\u", "\xc3", "data_offsets"};
  Rng rng(2024);
  int accepted = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string bytes = whole;
    for (int64_t k = rng.uniform_int(1, 4); k > 0; --k) {
      const size_t at = rng.uniform(bytes.size());
      switch (rng.uniform(5)) {
        case 0:
          bytes[at] = static_cast<char>(rng.uniform(256));
          break;
        case 1:
          bytes.resize(at + 1);
          break;
        case 2:
          bytes.insert(at, tokens[rng.uniform(std::size(tokens))]);
          break;
        case 3:
          bytes.erase(at, rng.uniform(6));
          break;
        case 4: {  // a digit: changes sizes and offsets while the JSON stays valid
          const size_t digit = bytes.find_first_of("0123456789", at);
          if (digit != std::string::npos) bytes[digit] = static_cast<char>('0' + rng.uniform(10));
          break;
        }
      }
      if (bytes.empty()) break;
    }
    const StatusOr<SafetensorsFile> file = parse_safetensors(bytes);
    if (!file.ok()) {
      ASSERT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << file.status();
      continue;
    }
    ++accepted;
    // What is accepted is consistent: it can be written and read again.
    const StatusOr<std::string> again = serialize_safetensors(*file);
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_TRUE(parse_safetensors(*again).ok());
  }
  EXPECT_GT(accepted, 0);  // damage in the data itself is invisible
}

}  // namespace
}  // namespace chanas
