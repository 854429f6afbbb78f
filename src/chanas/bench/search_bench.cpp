// How good the schedule search is: strategies compared on spaces whose best point is known, because
// every point was measured. "compare" replays the recording and needs no device; "measure"
// makes it, continuing where it was interrupted.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "chanas/base/file.h"
#include "chanas/base/names.h"
#include "chanas/base/stats.h"
#include "chanas/bench/recording.h"
#include "chanas/report/plot.h"

namespace chanas {
namespace {

constexpr double kNear = 0.95;  // of the best: a search has arrived
constexpr int kMarks[] = {20, 40, 60};

// The workloads that are measured whole, and what a search may only learn from.
struct BenchSpace {
  Unit unit;
  std::string cut;
  size_t group;
  bool compared = true;
};
constexpr size_t kPoints = 900, kLearntPoints = 250;  // at most

// Two 1x1, two depthwise ones and a whole unit. Where the default is the best point all searches
// are equal after one trial: of the depthwise convolutions these are some where it is not.
std::vector<BenchSpace> bench_spaces() {
  const Unit early{.h_in = 28, .c_in = 40, .c_mid = 120, .c_out = 40, .kernel = 5},
      wide{.h_in = 14, .c_in = 112, .c_mid = 672, .c_out = 112, .kernel = 3},
      small_window{.h_in = 56, .c_in = 24, .c_mid = 72, .c_out = 24, .kernel = 3},
      large_window{.h_in = 44, .c_in = 32, .c_mid = 128, .c_out = 32, .kernel = 7};
  return {{early, "unfused", 0},        {wide, "unfused", 0}, {small_window, "unfused", 1},
          {large_window, "unfused", 1}, {wide, "all", 0},     {early, "unfused", 1, false},
          {early, "all", 0, false}};
}

StatusOr<Workload> workload_of(const BenchSpace& bench) {
  for (const Cut& cut : unit_element(bench.unit).cuts) {
    if (cut.name == bench.cut && bench.group < cut.groups.size()) {
      return cut.groups[bench.group].workload;
    }
  }
  return absl::NotFoundError(fmt::format("unit has no cut \"{}\"", bench.cut));
}

struct MeasureFlags {
  std::string store = "bench/out/search.db", out = "src/chanas/bench/data/search.json.gz";
  double seconds = 0;
  int passes = 5;
};

// Measures the points of a space that were measured fewer than `pass` times.
Status measure_pass(Runner& runner, Store& store, const MeasurePlan& plan,
                    const ScheduleSpace& space, int pass,
                    std::chrono::steady_clock::time_point deadline) {
  const std::string fingerprint = space.workload.fingerprint();
  const RecordKey key = record_key(runner.target(), plan);
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Record> records, store.records(fingerprint, key));
  std::map<Schedule, int> times;
  for (const Record& record : records) ++times[record.schedule];
  std::vector<Candidate> left;
  for (const Schedule& point : legal_points(space)) {
    if (times[point] < pass) left.push_back({space.workload, point});
  }
  const size_t batch = 4 * static_cast<size_t>(runner.batch_size());
  for (size_t begin = 0; begin < left.size(); begin += batch) {
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError("time is up");
    }
    const std::span part = std::span(left).subspan(begin, std::min(batch, left.size() - begin));
    CHANAS_ASSIGN_OR_RETURN(const std::vector<MeasureResult> results, runner.measure(part, plan));
    std::vector<Record> added;
    for (size_t i = 0; i < results.size(); ++i) {
      added.push_back({.workload = fingerprint,
                       .key = key,
                       .schedule = part[i].schedule,
                       .origin = "grid",
                       .result = results[i]});
    }
    CHANAS_RETURN_IF_ERROR(store.add_records(added));
  }
  return absl::OkStatus();
}

// Passes over all spaces one after the other: what disturbs the machine for half a minute changes
// some of the times of a point, not what is undisturbed among them.
Status measure(const MeasureFlags& flags) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = flags.seconds > 0
                            ? Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                 std::chrono::duration<double>(flags.seconds))
                            : Clock::time_point::max();
  CHANAS_RETURN_IF_ERROR(make_folder(std::filesystem::path(flags.store).parent_path()));
  CHANAS_ASSIGN_OR_RETURN(const auto store, Store::open(flags.store));
  CHANAS_ASSIGN_OR_RETURN(const auto runner, make_local_runner());
  const MeasurePlan plan{.threads = 1, .samples = 31, .cold_bytes = 16 << 20};
  CHANAS_RETURN_IF_ERROR(store->put_device(runner->target()));
  for (int pass = 1; pass <= flags.passes; ++pass) {
    for (const BenchSpace& bench : bench_spaces()) {
      CHANAS_ASSIGN_OR_RETURN(const Workload workload, workload_of(bench));
      CHANAS_RETURN_IF_ERROR(store->put_workload(workload));
      const ScheduleSpace space = cut_down(schedule_space(workload, runner->target(), plan.threads),
                                           bench.compared ? kPoints : kLearntPoints);
      const Status status = measure_pass(*runner, *store, plan, space, pass, deadline);
      if (status.code() == absl::StatusCode::kDeadlineExceeded) {
        fmt::print("time is up in pass {} of {}; the same command goes on\n", pass, flags.passes);
        return absl::OkStatus();
      }
      CHANAS_RETURN_IF_ERROR(status);
      fmt::print("pass {} of {}: {}\n", pass, flags.passes, workload.describe());
    }
  }
  CHANAS_RETURN_IF_ERROR(make_folder(std::filesystem::path(flags.out).parent_path()));
  return write_recording(flags.out, *store, record_key(runner->target(), plan));
}

// Best latency after each trial; the last one goes on for searches that stop early.
std::vector<double> best_so_far(const std::vector<Record>& records, int trials) {
  std::vector<double> best;
  for (int i = 0; i < trials; ++i) {
    const auto at = static_cast<size_t>(i);
    double us = best.empty() ? std::numeric_limits<double>::infinity() : best.back();
    if (at < records.size() && records[at].result.ok()) {
      us = std::min(us, records[at].result.latency_us);
    }
    best.push_back(us);
  }
  return best;
}

struct CompareFlags {
  std::string data = "src/chanas/bench/data/search.json.gz", out = "bench/out";
  int repetitions = 20, trials = 60;
  bool check = false, check_together = false;
};

// One strategy on one space: share of the best after each trial, per repetition.
struct Curves {
  std::string name;
  std::vector<std::vector<double>> shares;

  std::vector<double> at(int trial) const {
    std::vector<double> values;
    for (const auto& curve : shares) values.push_back(curve[static_cast<size_t>(trial - 1)]);
    return values;
  }
  // Median number of trials to kNear of the best; one more than all for those that never arrive.
  double arrival() const {
    std::vector<double> trials;
    for (const auto& curve : shares) {
      const auto first = std::ranges::find_if(curve, [](double s) { return s >= kNear; });
      trials.push_back(static_cast<double>(first - curve.begin()) + 1);
    }
    return median(trials);
  }
};

StatusOr<Curves> run_strategy(const std::vector<Lesson>& recording, const Lesson& lesson,
                              const std::string& name, const CompareFlags& flags, double best_us) {
  TuneOptions options;
  options.trials = flags.trials;
  options.strategy = name == "transfer" ? "gp" : name;
  if (name == "transfer") {
    for (const Lesson& other : recording) {
      if (&other != &lesson) options.lessons.push_back(other);
    }
  }
  Curves curves{name, {}};
  for (int repetition = 0; repetition < flags.repetitions; ++repetition) {
    options.seed = static_cast<uint64_t>(repetition + 1);
    std::vector<Record> records;
    CHANAS_RETURN_IF_ERROR(search_space(
        lesson.space, options, 2,
        [&](std::span<const Candidate> candidates) -> StatusOr<std::vector<MeasureResult>> {
          return replay(lesson, candidates);
        },
        records));
    std::vector<double> shares;
    for (const double us : best_so_far(records, flags.trials)) shares.push_back(best_us / us);
    curves.shares.push_back(std::move(shares));
  }
  return curves;
}

Status draw(const std::string& path, const std::string& title, const std::vector<Curves>& all) {
  static constexpr std::string_view kColours[] = {svg::kBlue, svg::kGreen, svg::kOrange,
                                                  svg::kGrey};
  Plot plot(title, "trials", "slower than the best, %");
  for (size_t i = 0; i < all.size(); ++i) {
    Series series{Series::kLine, all[i].name, kColours[i % std::size(kColours)], 2, {}};
    for (int t = 1; t <= static_cast<int>(all[i].shares[0].size()); ++t) {
      series.points.push_back({static_cast<double>(t), 100 * (1 / median(all[i].at(t)) - 1)});
    }
    plot.add(std::move(series));
  }
  plot.add({Series::kLine,
            "95 % of the best",
            svg::kRed,
            1,
            {{1, 100 * (1 / kNear - 1)},
             {static_cast<double>(all[0].shares[0].size()), 100 * (1 / kNear - 1)}},
            true});
  std::string text = plot.figure("");
  const size_t begin = text.find("<svg"), end = text.rfind("</svg>");
  CHANAS_CHECK(begin != std::string::npos && end != std::string::npos);
  text = text.substr(begin, end + 6 - begin);
  if (text.find("xmlns=") == std::string::npos) {
    text.insert(4, " xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\"");
  }
  return write_file_atomic(path, text);
}

// What a search has to reach on every space: arrival within 60 trials, within 20 after learning
// from other shapes (check_arrival), and being ahead of searches without a model at every mark
// (check_lead; a few repetitions say too little for that on a single space, but something about
// all of them together).
Status check_arrival(const std::string& space, const std::vector<Curves>& all) {
  const Curves &gp = all[0], &transfer = all[1];
  std::vector<std::string> broken;
  if (gp.arrival() > 60) broken.push_back(fmt::format("gp arrives after {}", gp.arrival()));
  if (transfer.arrival() > 20)
    broken.push_back(fmt::format("transfer arrives after {}", transfer.arrival()));
  if (broken.empty()) return absl::OkStatus();
  return absl::InternalError(fmt::format("{}: {}", space, join(broken, "; ")));
}

// shares[strategy][mark]: one per space.
using Shares = std::map<std::string, std::map<int, std::vector<double>>>;

Status check_lead(const std::string& where, const Shares& shares) {
  std::vector<std::string> broken;
  for (const auto& [mark, gp] : shares.at("gp")) {
    for (const char* other : {"evolution", "random"}) {
      const double theirs = mean(shares.at(other).at(mark));
      if (mean(gp) < theirs)
        broken.push_back(
            fmt::format("gp is behind {} at {}: {:.3f} < {:.3f}", other, mark, mean(gp), theirs));
    }
  }
  if (broken.empty()) return absl::OkStatus();
  return absl::InternalError(where + ": " + join(broken, "; "));
}

Status compare(const CompareFlags& flags) {
  CHANAS_ASSIGN_OR_RETURN(const std::vector<Lesson> recording, read_recording(flags.data));
  CHANAS_RETURN_IF_ERROR(make_folder(flags.out));
  const std::vector<std::string> names = {"gp", "transfer", "evolution", "random"};
  Json document = Json::array();
  size_t index = 0;
  Status verdict = absl::OkStatus();
  Shares shares;
  for (const BenchSpace& bench : bench_spaces()) {
    CHANAS_ASSIGN_OR_RETURN(const Workload workload, workload_of(bench));
    if (!bench.compared) continue;
    const auto lesson = std::ranges::find_if(recording, [&](const Lesson& l) {
      return l.space.workload.fingerprint() == workload.fingerprint();
    });
    if (lesson == recording.end() || !is_exhaustive(*lesson)) {
      return absl::FailedPreconditionError(
          fmt::format("{} holds no exhaustive measurement of {}; measure again", flags.data,
                      workload.describe()));
    }
    double best_us = std::numeric_limits<double>::infinity();
    double default_us = std::numeric_limits<double>::infinity();
    int failed = 0, near = 0;
    const Schedule defaults = default_schedule(lesson->space);
    for (const Record& r : lesson->records) {
      if (!r.result.ok()) {
        ++failed;
        continue;
      }
      best_us = std::min(best_us, r.result.latency_us);
      if (r.schedule == defaults) default_us = r.result.latency_us;
    }
    for (const Record& r : lesson->records) {
      near += r.result.ok() && best_us / r.result.latency_us >= kNear;
    }
    fmt::print("{}: {} points, {} failed, {} within 5 %, best {:.2f} us, default {:.3f}\n",
               workload.describe(), lesson->records.size(), failed, near, best_us,
               best_us / default_us);
    std::vector<Curves> all;
    Shares here, here_median;
    for (const std::string& name : names) {
      CHANAS_ASSIGN_OR_RETURN(Curves curves,
                              run_strategy(recording, *lesson, name, flags, best_us));
      Json medians, means;
      std::string line;
      for (const int mark : kMarks) {
        if (mark > flags.trials) continue;
        const std::vector<double> at = curves.at(mark);
        medians[std::to_string(mark)] = median(at);
        means[std::to_string(mark)] = mean(at);
        shares[name][mark].push_back(mean(at));
        here[name][mark].push_back(mean(at));
        here_median[name][mark].push_back(median(at));
        line += fmt::format("  {}: {:.3f}/{:.3f}", mark, median(at), mean(at));
      }
      fmt::print("  {:<10} 95 % after {:4.1f} trials; share of the best, median/mean{}\n", name,
                 curves.arrival(), line);
      document.push_back({{"space", workload.describe()},
                          {"points", lesson->records.size()},
                          {"best_us", best_us},
                          {"strategy", name},
                          {"repetitions", flags.repetitions},
                          {"trials_to_95", curves.arrival()},
                          {"median_share", medians},
                          {"mean_share", means}});
      all.push_back(std::move(curves));
    }
    if (verdict.ok()) verdict = check_arrival(workload.describe(), all);
    for (const auto& [of, values] : {std::pair("mean", &here), std::pair("median", &here_median)}) {
      const Status lead = check_lead(fmt::format("{}, {}", workload.describe(), of), *values);
      if (!lead.ok()) fmt::print("  missed: {}\n", lead.message());
      if (verdict.ok() && flags.check) verdict = lead;
    }
    CHANAS_RETURN_IF_ERROR(draw(join_path(flags.out, fmt::format("search_{}.svg", ++index)),
                                workload.describe(), all));
  }
  fmt::print("all spaces, mean share of the best\n");
  for (const std::string& name : names) {
    std::string line;
    for (const auto& [mark, values] : shares[name])
      line += fmt::format("  {}: {:.3f}", mark, mean(values));
    fmt::print("  {:<10}{}\n", name, line);
  }
  if (verdict.ok()) verdict = check_lead("all spaces", shares);
  CHANAS_RETURN_IF_ERROR(write_json(join_path(flags.out, "search.json"), document));
  return flags.check || flags.check_together ? verdict : absl::OkStatus();
}

}  // namespace
}  // namespace chanas

int main(int argc, char** argv) {
  using namespace chanas;
  CLI::App app("Compares schedule searches on exhaustively measured spaces.");
  app.require_subcommand(1);
  MeasureFlags measuring;
  CLI::App* sub = app.add_subcommand("measure", "measure every point of the spaces, resumable");
  sub->add_option("--store", measuring.store)->capture_default_str();
  sub->add_option("--out", measuring.out, "written when nothing is left")->capture_default_str();
  sub->add_option("--passes", measuring.passes,
                  "over all spaces; the 10th percentile of each point counts")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  sub->add_option("--seconds", measuring.seconds, "stop after; 0: never")->capture_default_str();
  CompareFlags comparing;
  app.add_subcommand("compare", "replay the recorded measurements with every strategy");
  sub = app.get_subcommand("compare");
  sub->add_option("--data", comparing.data)->capture_default_str();
  sub->add_option("--out", comparing.out, "folder")->capture_default_str();
  sub->add_option("--repetitions", comparing.repetitions)->check(CLI::Range(1, 1000));
  sub->add_option("--trials", comparing.trials)->check(CLI::Range(1, 1000));
  sub->add_flag("--check", comparing.check, "fail where a bar is missed on any space");
  sub->add_flag("--check-together", comparing.check_together,
                "the same, but the lead is judged over all spaces: for few repetitions");
  CLI11_PARSE(app, argc, argv);
  const Status status = app.got_subcommand("measure") ? measure(measuring) : compare(comparing);
  if (!status.ok()) fmt::print(stderr, "error: {}\n", message(status));
  constexpr int kSkipped = 77;  // for tests: the recording is of other schedules
  if (status.code() == absl::StatusCode::kFailedPrecondition) return kSkipped;
  return exit_code(status);
}
