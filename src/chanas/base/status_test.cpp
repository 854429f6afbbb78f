#include "chanas/base/status.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/cord.h"

namespace chanas {
namespace {

TEST(ExitCode, TellsWhatToDo) {
  EXPECT_EQ(exit_code(absl::OkStatus()), 0);
  EXPECT_EQ(exit_code(absl::InvalidArgumentError("")), 3);
  EXPECT_EQ(exit_code(absl::NotFoundError("")), 3);
  EXPECT_EQ(exit_code(absl::DataLossError("")), 3);
  EXPECT_EQ(exit_code(absl::OutOfRangeError("")), 4);
  EXPECT_EQ(exit_code(absl::UnavailableError("")), 69);
  EXPECT_EQ(exit_code(absl::ResourceExhaustedError("")), 75);
  EXPECT_EQ(exit_code(absl::AbortedError("")), 75);
  EXPECT_EQ(exit_code(absl::CancelledError("")), 130);
  EXPECT_EQ(exit_code(absl::InternalError("")), 1);
  EXPECT_EQ(exit_code(absl::DeadlineExceededError("")), 1);
}

TEST(Annotate, KeepsCodeAndPayload) {
  Status status = absl::NotFoundError("no such file");
  status.SetPayload("type", absl::Cord("value"));
  const Status annotated = annotate(status, "weights");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(message(annotated), "weights: no such file");
  EXPECT_EQ(annotated.GetPayload("type"), absl::Cord("value"));
  EXPECT_TRUE(annotate(absl::OkStatus(), "weights").ok());
}

TEST(Message, FormatsEitherWay) {
  const Status status = absl::NotFoundError("no such file");
  EXPECT_EQ(fmt::format("<{}>", status.message()), "<no such file>");
  EXPECT_EQ(fmt::format("<{}>", message(status)), "<no such file>");
}

Status fail_if(bool fail) { return fail ? absl::AbortedError("failed") : absl::OkStatus(); }

StatusOr<std::unique_ptr<int>> make(bool fail) {
  CHANAS_RETURN_IF_ERROR(fail_if(fail));
  return std::make_unique<int>(7);
}

template <typename Key, typename Value>
StatusOr<std::map<Key, Value>> make_map() {
  return std::map<Key, Value>();
}

StatusOr<int> sum(bool fail) {
  CHANAS_ASSIGN_OR_RETURN(const std::unique_ptr<int> first, make(false));
  std::unique_ptr<int> second;
  CHANAS_ASSIGN_OR_RETURN(second, make(fail));
  CHANAS_ASSIGN_OR_RETURN(const auto map, make_map<int, std::string>());
  return *first + *second + static_cast<int>(map.size());
}

TEST(Macros, HandOnErrorsAndMoveValues) {
  EXPECT_EQ(*sum(false), 14);
  EXPECT_EQ(sum(true).status(), absl::AbortedError("failed"));
}

TEST(Check, LeavesElseToTheCaller) {
  bool other = false;
  const bool first = false;
  // clang-format off
  if (first) CHANAS_CHECK(true); else other = true;
  // clang-format on
  EXPECT_TRUE(other);
}

// No warning about a missing return: the compiler knows that a failed check does not come back.
int never_returns() { CHANAS_CHECK(false) << "unreachable"; }

TEST(CheckDeathTest, NamesConditionAndContext) {
  const int found = 3;
  EXPECT_DEATH(CHANAS_CHECK(found == 4) << "found " << found,
               "bug: .*status_test.cpp:[0-9]+: check failed: found == 4 found 3");
  EXPECT_DEATH(CHANAS_CHECK(std::is_same_v<int, long>), "is_same_v<int, long>");
  EXPECT_DEATH(never_returns(), "unreachable");
}

TEST(Check, EvaluatesOnceAndNoContextOnSuccess) {
  int conditions = 0, contexts = 0;
  CHANAS_CHECK(++conditions > 0) << ++contexts;
  EXPECT_EQ(conditions, 1);
  EXPECT_EQ(contexts, 0);
}

}  // namespace
}  // namespace chanas
