#include "chanas/base/fingerprint.h"

#include <gtest/gtest.h>

#include <string>

#include "chanas/base/file.h"

namespace chanas {
namespace {

// FIPS 180-2, appendix B.
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kMillionA[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Fingerprint, PublishedValues) {
  EXPECT_EQ(sha256_hex(""), kEmpty);
  EXPECT_EQ(sha256_hex("abc"), kAbc);
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')), kMillionA);
  EXPECT_EQ(fingerprint("abc"), "ba7816bf8f01cfea");
}

TEST(Fingerprint, OfFiles) {
  const TemporaryFolder folder("fingerprint_test");
  const std::string path = join_path(folder.path(), "file");
  ASSERT_TRUE(write_file_atomic(path, std::string(1000000, 'a')).ok());
  EXPECT_EQ(*sha256_file(path), kMillionA);
  ASSERT_TRUE(write_file_atomic(path, "").ok());
  EXPECT_EQ(*sha256_file(path), kEmpty);
}

TEST(Fingerprint, UnreadableFiles) {
  const TemporaryFolder folder("fingerprint_test");
  const std::string missing = join_path(folder.path(), "missing");
  const Status status = sha256_file(missing).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(message(status).find(missing), std::string_view::npos);
  EXPECT_EQ(sha256_file(folder.path()).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace chanas
