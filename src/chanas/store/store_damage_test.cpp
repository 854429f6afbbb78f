// What the store does about files and disks that are not as they should be.

#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "chanas/base/file.h"
#include "chanas/store/place.h"
#include "chanas/store/schema.h"
#include "chanas/store/store.h"
#include "chanas/store/testing_records.h"

namespace chanas {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class StoreDamage : public ::testing::Test {
 protected:
  // A store with `count` records.
  void fill(int count) {
    auto store = Store::open(path);
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE(put_small(**store, workload).ok());
    std::vector<Record> records;
    for (int i = 0; i < count; ++i) records.push_back(small_record(workload, {{i}}, 1 + i));
    ASSERT_TRUE((*store)->add_records(records).ok());
  }
  void write(const std::string& bytes) { ASSERT_TRUE(write_file_atomic(path, bytes).ok()); }
  void expect_refused(absl::StatusCode code, const ::testing::Matcher<std::string>& text) {
    const Status status = Store::open(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(message(status)), AllOf(HasSubstr(path), text));
  }
  // Runs `body` in a child process; its result is the exit code.
  static int in_child(const std::function<int()>& body) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(body());
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  TemporaryFolder folder{"store"};
  std::string path = join_path(folder.path(), "a.db");
  Workload workload = small_workload(8, 16);
};

TEST_F(StoreDamage, TextFile) {
  const std::string text = "name,latency\nconv,12\n";
  write(text);
  expect_refused(absl::StatusCode::kInvalidArgument, HasSubstr("not an SQLite file"));
  EXPECT_EQ(*read_file(path), text);
}

TEST_F(StoreDamage, AnotherProgramsDatabase) {
  {
    SQLite::Database db(path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    db.exec("CREATE TABLE photos(name TEXT); INSERT INTO photos VALUES('sea')");
  }
  const std::string before = *read_file(path);
  expect_refused(absl::StatusCode::kInvalidArgument, HasSubstr("another program"));
  EXPECT_EQ(*read_file(path), before);
}

TEST_F(StoreDamage, NewerVersion) {
  fill(3);
  SQLite::Database(path, SQLite::OPEN_READWRITE).exec("PRAGMA user_version = 7");
  expect_refused(absl::StatusCode::kInvalidArgument,
                 AllOf(HasSubstr("schema version 7"),
                       HasSubstr("up to " + std::to_string(kStoreSchemaVersion))));
}

TEST_F(StoreDamage, EmptyFileIsANewStore) {
  // What a kill between creating the file and the first transaction leaves behind.
  write("");
  fill(3);
  auto store = Store::open(path);
  ASSERT_TRUE(store.ok());
  EXPECT_EQ((*store)->records(workload.fingerprint(), small_key())->size(), 3u);
}

TEST_F(StoreDamage, AMigrationThatFailsLeavesNoTrace) {
  {
    SQLite::Database db(path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    db.exec("PRAGMA application_id = " + std::to_string(internal::kApplicationId));
    db.exec("CREATE TABLE state(x)");  // in the way of version 1's last table
  }
  expect_refused(absl::StatusCode::kInternal, HasSubstr("state"));
  SQLite::Database db(path);
  EXPECT_EQ(db.execAndGet("PRAGMA user_version").getInt(), 0);
  EXPECT_EQ(db.execAndGet("SELECT count(*) FROM sqlite_master").getInt(), 1);
}

TEST_F(StoreDamage, Truncated) {
  fill(500);
  const std::string bytes = *read_file(path);
  ASSERT_GT(bytes.size(), 40000u);
  for (const size_t size : {bytes.size() / 2, size_t{4096}, size_t{50}}) {
    write(bytes.substr(0, size));
    expect_refused(absl::StatusCode::kDataLoss, HasSubstr(".recover"));
  }
}

TEST_F(StoreDamage, PagesOverwritten) {
  fill(500);
  const std::string sound = *read_file(path);
  // Page by page (the first one holds the mark of the file itself): refused, or harmless because
  // the page held nothing; never a crash, never wrong records.
  int refused = 0;
  for (size_t page = 4096; page + 4096 <= sound.size(); page += 4096) {
    std::string bytes = sound;
    bytes.replace(page, 64, std::string(64, '\xa5'));
    write(bytes);
    const auto store = Store::open(path);
    if (store.ok()) continue;
    EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss) << store.status();
    EXPECT_THAT(std::string(message(store.status())), HasSubstr(".recover"));
    ++refused;
  }
  EXPECT_GE(refused, 10);
}

TEST_F(StoreDamage, CheckFindsAnIndexThatMissesRows) {
  fill(50);
  {
    // Only the long check compares indices with their tables.
    SQLite::Database db(path, SQLite::OPEN_READWRITE);
    db.exec("PRAGMA writable_schema = ON");
    db.exec(
        "UPDATE sqlite_master SET sql = replace(sql, ', id)', ', id) WHERE id > 1') "
        "WHERE name = 'records_by_schedule'");
  }
  const auto store = Store::open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->check().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StoreDamage, PlacesThatCannotHoldAStore) {
  EXPECT_EQ(Store::open("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Store::open(join_path(folder.path(), "none/a.db")).status().code(),
            absl::StatusCode::kNotFound);
  const Status status = Store::open(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(status)), HasSubstr("is not a file"));
  EXPECT_EQ(internal::network_file_system(0x6969), "NFS");
  EXPECT_EQ(internal::network_file_system(static_cast<int32_t>(0xff534d42)), "CIFS");
  EXPECT_EQ(internal::network_file_system(0xef53), "");  // ext4
}

TEST_F(StoreDamage, ReadOnly) {
  fill(3);
  const auto refused_for_nobody = [&](const std::string& text) {
    return in_child([&] {
      if (::geteuid() == 0 && ::setuid(65534) != 0) return 2;  // root may write everywhere
      const Status status = Store::open(path).status();
      return status.code() == absl::StatusCode::kInvalidArgument &&
                     message(status).find(text) != std::string::npos
                 ? 0
                 : 1;
    });
  };
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  ASSERT_EQ(::chmod(folder.path().c_str(), 0555), 0);
  EXPECT_EQ(refused_for_nobody("needs a folder that can be written"), 0);
  ASSERT_EQ(::chmod(folder.path().c_str(), 0777), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  EXPECT_EQ(refused_for_nobody("cannot be read and written"), 0);
}

TEST_F(StoreDamage, FullDisk) {
  fill(1);
  // A limit on file sizes in place of a full disk; the child tells how many records were
  // acknowledged before and after the limit was lifted again.
  const int acknowledged = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    auto store = Store::open(path);
    if (!store.ok()) return 201;
    const rlimit small = {.rlim_cur = 200000, .rlim_max = RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &small) != 0) return 202;
    Status status;
    int count = 0;
    for (; count < 100 && status.ok(); ++count) {
      std::vector<Record> records;
      for (int i = 0; i < 20; ++i) {
        records.push_back(small_record(workload, {{count, i}}, 1 + i));
        records.back().result.message = std::string(200, 'x');
      }
      status = (*store)->add_records(records);
      if (!status.ok()) break;
    }
    if (count < 2) return 203;
    if (status.code() != absl::StatusCode::kResourceExhausted) return 204;
    if (!(*store)->check().ok()) return 206;
    const rlimit free = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &free) != 0) return 207;
    std::vector<Record> records = {small_record(workload, {{9999, 9999}}, 5)};
    if (!(*store)->add_records(records).ok()) return 208;
    return count;
  });
  ASSERT_GT(acknowledged, 0);
  ASSERT_LT(acknowledged, 100);
  auto store = Store::open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->check().ok());
  EXPECT_EQ((*store)->records(workload.fingerprint(), small_key())->size(),
            size_t(1 + 20 * acknowledged + 1));
}

TEST_F(StoreDamage, WaitsForAnotherWriter) {
  fill(1);
  auto store = Store::open(path);
  ASSERT_TRUE(store.ok());
  SQLite::Database other(path, SQLite::OPEN_READWRITE);
  other.exec("BEGIN IMMEDIATE");
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    other.exec("COMMIT");
  });
  std::vector<Record> records = {small_record(workload, {{100}}, 5)};
  EXPECT_TRUE((*store)->add_records(records).ok());
  writer.join();
  // For ten seconds, not for ever.
  other.exec("BEGIN IMMEDIATE");
  records[0].id = 0;
  const Status status = (*store)->add_records(records);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_THAT(std::string(message(status)), HasSubstr("try again"));
  EXPECT_EQ((*store)->records(workload.fingerprint(), small_key())->size(), 2u);  // readers go on
  other.exec("COMMIT");
  EXPECT_TRUE((*store)->add_records(records).ok());
}

}  // namespace
}  // namespace chanas
