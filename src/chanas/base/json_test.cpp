#include "chanas/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "chanas/base/file.h"

namespace chanas {
namespace {

using testing::HasSubstr;

TEST(ParseJson, ReadsValues) {
  const StatusOr<Json> value = parse_json(R"({"a": [1, 2.5, "x"]})");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ((*value)["a"][1], 2.5);
}

TEST(ParseJson, NamesThePositionOfAnError) {
  const StatusOr<Json> value = parse_json("{\n  \"a\": 1,\n  \"b\": oops\n}");
  EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(value.status())), HasSubstr("line 3, column 8"));
}

TEST(ParseJson, RejectsWhatIsNoJson) {
  for (const char* text : {"", "  ", "{", "[1, 2", "{\"a\": }", "1 2", "{'a': 1}", "\"\xff\"",
                           "1e999", "nul", "[1,]", "\"half"}) {
    EXPECT_EQ(parse_json(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseJson, SurvivesDeepNesting) {
  const std::string open(100000, '[');
  EXPECT_FALSE(parse_json(open).ok());
  EXPECT_TRUE(parse_json(open + std::string(100000, ']')).ok());
}

TEST(JsonFiles, RoundTrip) {
  const TemporaryFolder folder("json_test");
  const std::string path = join_path(folder.path(), "value.json");
  const Json value = {{"name", "µs"}, {"numbers", {1, 0.1, -1e300}}, {"none", nullptr}};
  ASSERT_TRUE(write_json(path, value).ok());
  EXPECT_EQ(*read_json(path), value);
  EXPECT_EQ(read_file(path)->back(), '\n');
}

TEST(JsonFiles, ErrorsNameTheFile) {
  const TemporaryFolder folder("json_test");
  const std::string path = join_path(folder.path(), "value.json");
  EXPECT_EQ(read_json(path).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(write_file_atomic(path, "{\"a\": [1, 2").ok());
  const Status status = read_json(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(status)), HasSubstr(path));
  EXPECT_THAT(std::string(message(status)), HasSubstr("line 1"));
}

TEST(JsonFiles, TextThatIsNotUtf8IsNotWritten) {
  const TemporaryFolder folder("json_test");
  const std::string path = join_path(folder.path(), "value.json");
  ASSERT_TRUE(write_json(path, 1).ok());
  EXPECT_EQ(write_json(path, "\xff").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*read_json(path), 1);
}

}  // namespace
}  // namespace chanas
