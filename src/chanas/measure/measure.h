#pragma once
// Measuring candidates on a device. A bad candidate is data (MeasureResult::error), never the end
// of a run; only a lost device or an interruption is a Status.

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/schedule/plan.h"

namespace chanas {

// The way of measuring, which changes when numbers of old and new would not compare: inputs just
// produced, large outputs and scratch memory cold, rounded cold bytes, huge pages, weights fetched
// ahead.
inline constexpr std::string_view kMeasuring = "produced-large-cold-rounded-hugepages-ahead";

// How a latency is taken: every sample is one call in the state in which a network would make it:
// `cold_bytes` of other memory were read (the rest of the network's weights), scratch memory and
// output were used not long ago if they fit into the second cache, the first of the weights were
// fetched by a stage before it (Fetching, plan.h), and the input was just written; the latency is
// the median. With cold_bytes 0 calls under 3 us are timed in bunches.
struct MeasurePlan {
  int threads = 1;
  // Few: what disturbs one disturbs its neighbours, and more trials are worth more. The time of one
  // pass deviates from that of others by 6.0 % with 7 samples, by 5.6 % with 15 (4,801 winners of
  // the paper's space, Zen 4).
  int samples = 7;
  // All candidates of a call are timed this often, one after the other, and medians over the passes
  // count: a schedule that is only fast undisturbed is not the best. What disturbs a shared machine
  // lasts from milliseconds to seconds, longer than the samples of one pass: on one such machine a
  // time that was taken again deviated by 7 %.
  int passes = 1;
  int64_t cold_bytes = 0;
  double compile_timeout_s = 20;
  double run_timeout_s = 10;
  int64_t memory_limit_bytes = int64_t{6} << 30;  // address space of the child
  bool pin = true;

  // What is read: cold_bytes rounded up to a power of two, so that networks of about one size share
  // their rows. More than the weights alone is right too where caches are shared: by the time of
  // the next inference neighbours have taken a part of them.
  int64_t rounded_cold_bytes() const;
  // Names the plan in the keys of records: threads, rounded_cold_bytes, kMeasuring.
  std::string id() const;
};

// For times that are to be believed, not just compared: passes, and candidates of a call, so many
// that disturbances change between the turns of one (a quarter is left after half a second).
inline constexpr int kCarefulPasses = 5;
inline constexpr int kCarefulBatch = 24;
// The percentile, of times that were taken seconds apart, that says what something takes on an
// undisturbed device. A shared machine has a speed of its own, which times repeat to 1 %, and
// neighbours who slow it by a tenth for anything from none to all of a minute: the median is one or
// the other.
inline constexpr double kUndisturbed = 0.1;

enum class TrialError {
  kNone,
  kIllegal,
  kCompile,
  kTimeout,
  kCrash,
  kMemory,
  kWrongResult,
  kUnstable
};
// "none", "illegal", "compile", "timeout", "crash", "memory", "wrong_result", "unstable".
std::string_view trial_error_name(TrialError error);
StatusOr<TrialError> parse_trial_error(std::string_view name);

struct MeasureResult {
  TrialError error = TrialError::kNone;
  std::string message;             // of the failure
  double latency_us = 0;           // median of samples_us; meaningless after a failure
  std::vector<double> samples_us;  // raw
  double warm_us = 0;              // median of back-to-back calls
  double compile_s = 0;
  double relative_error = 0;  // against the reference interpreter
  bool ok() const { return error == TrialError::kNone; }
};
Json to_json(const MeasureResult& result);
StatusOr<MeasureResult> measure_result_from_json(const Json& json);

struct Candidate {
  Workload workload;
  Schedule schedule;
};

// End-to-end time of a plan, in a loop over the whole network as a user would run it.
struct NetworkMeasurement {
  double median_us = 0, p10_us = 0, p90_us = 0, min_us = 0;
  std::vector<double> samples_us;
  std::vector<double> stage_us;  // median per stage, stamped inside the run
  int64_t scratch_bytes = 0;     // largest scratch memory of any stage
};

class Runner {
 public:
  virtual ~Runner() = default;
  virtual const Target& target() const = 0;
  // One result per candidate, in order: compiled, compared with the reference under assertions,
  // then timed, alone on the machine; unstable when most passes are. kUnavailable: device lost
  // (repeat later); kCancelled.
  virtual StatusOr<std::vector<MeasureResult>> measure(std::span<const Candidate> candidates,
                                                       const MeasurePlan& plan) = 0;
  // How many candidates are best measured in one call (all compile cores busy).
  virtual int batch_size() const = 0;
  // With random weights, pinned; `samples` calls after warm-up; again, at most three times, while
  // the device changes its speed meanwhile. kInvalidArgument: a stage is not legal or does not
  // compile; kUnavailable and kCancelled as above.
  virtual StatusOr<NetworkMeasurement> measure_network(const ExecutionPlan& plan, int samples) = 0;
};

// Where chanas-kernel is and how many of it run.
struct LocalRunnerOptions {
  std::string program = {};                   // empty: found beside the running program
  int children = 0;                           // compile children; 0: one per core
  std::vector<std::string> environment = {};  // NAME=value pairs for the children
};

// This machine, through chanas-kernel children: one compile child per core, measuring alone. A
// child that dies, hangs or eats memory is replaced and its candidate gets the error. kUnavailable
// names the missing program and how to build it. Not thread safe.
StatusOr<std::unique_ptr<Runner>> make_local_runner(const LocalRunnerOptions& options = {});

// Latencies from a roofline formula of (workload, schedule) with seeded noise-free ripples:
// deterministic, instant, no children. For tests, dry runs and the resume checks.
std::unique_ptr<Runner> make_simulated_runner();

// A runner that answers from a script, for tests of those who use one: latency and failure by
// workload fingerprint + schedule; unknown candidates fail with kCrash.
using ScriptedAnswer = MeasureResult (*)(const Candidate&, void* context);
std::unique_ptr<Runner> make_scripted_runner(Target target, ScriptedAnswer answer, void* context);

// Ahead-of-time objects of every stage of a plan, "<folder>/stage_<i>.o" with symbol
// "<prefix>_stage_<i>"; equal (workload, schedule) pairs share one object. Returns for each stage
// the symbol that it calls and the object that holds it. Compiled by chanas-kernel children.
struct StageObject {
  std::string symbol, path;
};
StatusOr<std::vector<StageObject>> compile_stage_objects(const ExecutionPlan& plan,
                                                         const std::string& prefix,
                                                         const std::string& folder,
                                                         const LocalRunnerOptions& options = {});

// For people: "loop_nest" or "lowered" of one candidate, from chanas-kernel. kInvalidArgument: the
// compiler refused it.
StatusOr<std::string> dump_candidate(const Candidate& candidate, const Target& target, int threads,
                                     const std::string& what,
                                     const LocalRunnerOptions& options = {});

}  // namespace chanas
