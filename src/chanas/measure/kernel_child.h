#pragma once
// One chanas-kernel child as its parent sees it: a request, its reply, and what became of it when
// there is none.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "chanas/base/child_process.h"
#include "chanas/base/json.h"
#include "chanas/measure/measure.h"

namespace chanas {

// The program's path: of the options, or beside the running program, or in "../bin" of that.
// kUnavailable says how to build it.
StatusOr<std::string> find_kernel_program(const LocalRunnerOptions& options);

// Not thread safe; different children may be used from different threads.
class KernelChild {
 public:
  KernelChild(std::string program, Target target, std::vector<std::string> environment);

  // Starts the process unless it runs, with this limit. kUnavailable when it cannot be started or
  // is of another version.
  Status ensure(int64_t memory_limit_bytes);

  // Sends {"op": op, ...fields} and waits for the reply, an object. A reply that tells of an error
  // is a reply. When there is none the process has been killed, and the status says why:
  //   kDeadlineExceeded   no reply in `timeout_s`
  //   kResourceExhausted  out of memory
  //   kAborted            it crashed, or sent something else than a reply
  //   kCancelled          interrupted
  StatusOr<Json> call(std::string_view op, Json fields, double timeout_s);

  // Counts the processes so far: what was left in an earlier one is gone.
  int generation() const { return generation_; }
  bool running() const { return process_.has_value(); }
  void kill() { process_.reset(); }
  // Ends the process when it has answered often and is large; the next ensure() starts a fresh one.
  void retire_if_grown();

 private:
  Status explain_end(const Status& status);

  std::string program_;
  Target target_;
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> log_;  // of its standard error; in memory, it leaves nothing
  std::string log_path_;
  std::vector<std::string> environment_;
  std::optional<ChildProcess> process_;
  int64_t memory_limit_bytes_ = 0;
  int64_t next_id_ = 1;
  int generation_ = 0;
  int replies_ = 0;  // of this process
  int64_t rss_bytes_ = 0;
};

}  // namespace chanas
