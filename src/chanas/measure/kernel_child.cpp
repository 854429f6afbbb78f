#include "chanas/measure/kernel_child.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "chanas/base/file.h"
#include "chanas/measure/protocol.h"

namespace chanas {
namespace {

// Loading the compiler takes well under a second.
constexpr double kStartTimeoutS = 30;
// A process that has answered this often and become this large is replaced: every kernel leaves a
// little behind.
constexpr int kRepliesBeforeRetirement = 16;
constexpr int64_t kLargestBytes = int64_t{220} << 20;

// Memory is made of huge pages, where the system grants them, as an exported library's is: a
// network walks over more of it than the TLB reaches with small ones.
std::string huge_pages() {
  const char* set = std::getenv("GLIBC_TUNABLES");
  const std::string others = set != nullptr && *set != '\0' ? std::string(set) + ":" : "";
  return "GLIBC_TUNABLES=" + others + "glibc.malloc.hugetlb=1";
}

// The last lines of the child's log, for a message; "" when there are none.
std::string log_tail(const std::string& path) {
  StatusOr<std::string> text = read_file(path);
  if (!text.ok() || text->empty()) return "";
  std::string tail = text->size() > 300 ? text->substr(text->size() - 300) : *text;
  while (!tail.empty() && tail.back() == '\n') tail.pop_back();
  for (char& c : tail) c = c == '\n' ? ' ' : c;
  return tail.empty() ? "" : "; it said: " + tail;
}

// Of an idle child, which nobody is to blame for.
bool has_ended(pid_t pid) {
  siginfo_t info = {};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
         info.si_pid != 0;
}

std::string describe(const ChildExit& exit) {
  if (exit.exited) return fmt::format("exit code {}", exit.code);
  return fmt::format("signal {} ({})", exit.signal, ::strsignal(exit.signal));
}

}  // namespace

StatusOr<std::string> find_kernel_program(const LocalRunnerOptions& options) {
  std::string folder = executable_folder();
  std::vector<std::string> places = {join_path(folder, "chanas-kernel"),
                                     join_path(folder, "../bin/chanas-kernel")};
  if (!options.program.empty()) places = {options.program};
  for (const std::string& place : places) {
    if (::access(place.c_str(), X_OK) == 0) return place;
  }
  return absl::UnavailableError(
      fmt::format("the program {} is missing, which compiles and measures kernels; build it with "
                  "`make build` (CHANAS_WITH_HALIDE=ON), or use --device simulated",
                  places.front()));
}

KernelChild::KernelChild(std::string program, Target target, std::vector<std::string> environment)
    : program_(std::move(program)),
      target_(std::move(target)),
      environment_(std::move(environment)) {
  const int file = ::memfd_create("chanas-kernel", MFD_CLOEXEC);
  if (file >= 0) log_.reset(::fdopen(file, "w"));
  log_path_ = log_ ? fmt::format("/proc/self/fd/{}", file) : "/dev/null";
}

Status KernelChild::ensure(int64_t memory_limit_bytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  memory_limit_bytes = 0;  // sanitizers reserve terabytes of addresses
#endif
  if (process_ && memory_limit_bytes_ == memory_limit_bytes && !has_ended(process_->pid())) {
    return absl::OkStatus();
  }
  ChildOptions options;
  options.memory_limit_bytes = memory_limit_bytes;
  options.stderr_path = log_path_;
  options.environment = environment_;
  options.environment.push_back(huge_pages());
  process_.reset();
  if (log_ && ::ftruncate(::fileno(log_.get()), 0) != 0) log_path_ = "/dev/null";  // never seen
  CHANAS_ASSIGN_OR_RETURN(process_, ChildProcess::start({program_, "serve"}, options));
  memory_limit_bytes_ = memory_limit_bytes;
  ++generation_;
  replies_ = 0;
  StatusOr<Json> hello = call("hello", {{"target", to_json(target_)}}, kStartTimeoutS);
  if (!hello.ok()) {
    if (hello.status().code() == absl::StatusCode::kCancelled) return hello.status();
    return absl::UnavailableError(
        fmt::format("{} does not start: {}", program_, hello.status().message()));
  }
  Json expected = {{"protocol", kProtocolVersion}, {"schedule", kScheduleVersion}};
  Json found = {{"protocol", hello->value("protocol", Json())},
                {"schedule", hello->value("schedule", Json())}};
  if (found != expected) {
    process_.reset();
    return absl::UnavailableError(
        fmt::format("{} is of another version: it has {}, expected {}; build all programs anew",
                    program_, found.dump(), expected.dump()));
  }
  return absl::OkStatus();
}

StatusOr<Json> KernelChild::call(std::string_view op, Json fields, double timeout_s) {
  CHANAS_CHECK(process_.has_value()) << "ensure() comes first";
  int64_t id = next_id_++;
  fields["op"] = op;
  fields["id"] = id;
  if (Status sent = process_->write_line(fields.dump(), timeout_s); !sent.ok())
    return explain_end(sent);
  StatusOr<std::string> line = process_->read_line(timeout_s);
  if (!line.ok()) return explain_end(line.status());
  StatusOr<Json> reply = parse_json(*line);
  if (!reply.ok() || !reply->is_object() || reply->value("id", Json()) != id) {
    process_.reset();
    return absl::AbortedError(
        fmt::format("chanas-kernel sent something that is no reply: {:.80}", *line));
  }
  ++replies_;
  Json rss = reply->value("rss_bytes", Json());
  rss_bytes_ = rss.is_number() ? rss.get<int64_t>() : 0;
  return reply;
}

// Ends the process and says in the words of call() why there is no reply.
Status KernelChild::explain_end(const Status& status) {
  // Of a process that has ended already this tells how.
  ChildExit exit = process_->kill();
  process_.reset();
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return status;
    case absl::StatusCode::kDeadlineExceeded:
      return absl::DeadlineExceededError("chanas-kernel did not answer in time and was killed");
    default:
      break;
  }
  if (exit.exited && exit.code == kExitMemory) {
    return absl::ResourceExhaustedError(
        fmt::format("chanas-kernel ran out of its {} MB of memory", memory_limit_bytes_ >> 20));
  }
  return absl::AbortedError(
      fmt::format("chanas-kernel ended with {}{}", describe(exit), log_tail(log_path_)));
}

void KernelChild::retire_if_grown() {
  if (replies_ > kRepliesBeforeRetirement && rss_bytes_ > kLargestBytes) {
    process_.reset();
  }
}

}  // namespace chanas
