#include "chanas/pipeline/rank_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/base/parallel.h"
#include "chanas/base/progress.h"
#include "chanas/base/stats.h"
#include "chanas/pipeline/stages.h"
#include "chanas/supernet/job.h"

namespace chanas {
namespace {

constexpr int kResamples = 1000;
constexpr int kBands = 3;
constexpr int kPool = 60;  // networks drawn for each that is wanted

using Value = double RankSample::*;

double tau(const std::vector<const RankSample*>& samples, Value value) {
  std::vector<double> truth, other;
  for (const RankSample* sample : samples) {
    truth.push_back(sample->truth);
    other.push_back(sample->*value);
  }
  return kendall_tau_b(other, truth);
}

RankAgreement::Tau tau_with_interval(const std::vector<const RankSample*>& samples, Value value,
                                     uint64_t seed) {
  Rng rng(seed, "bootstrap");
  std::vector<double> resampled;
  for (int i = 0; i < kResamples; ++i) {
    std::vector<const RankSample*> drawn;
    for (size_t k = 0; k < samples.size(); ++k) drawn.push_back(rng.choose(samples));
    resampled.push_back(tau(drawn, value));
  }
  return {tau(samples, value), percentile(resampled, 0.025), percentile(resampled, 0.975)};
}

RankAgreement::Band band(const std::string& name, const std::vector<const RankSample*>& samples,
                         uint64_t seed) {
  return {name, static_cast<int>(samples.size()),
          tau_with_interval(samples, &RankSample::supernet, seed),
          tau_with_interval(samples, &RankSample::macs, seed),
          tau_with_interval(samples, &RankSample::params, seed)};
}

Json to_json(const RankAgreement::Tau& tau) {
  return {{"tau", tau.value}, {"low", tau.low}, {"high", tau.high}};
}

// What an accuracy depends on besides the network and the images.
std::string recipe_fingerprint(TrainConfig recipe) {
  const TrainConfig plain;
  recipe.threads = plain.threads;
  recipe.device = plain.device;
  recipe.launcher = plain.launcher;
  recipe.max_restarts = plain.max_restarts;
  return fingerprint(to_json(recipe).dump());
}

// Test accuracies of `archs` by `recipe`, a list per repeat.
StatusOr<std::vector<std::vector<double>>> train_from_scratch(
    const RankCheckOptions& options, const RunDirectory& directory, const StageContext& context,
    const ArchSpace& space, const std::vector<Arch>& archs, TrainConfig recipe) {
  // Ranks of a launcher share out the machine themselves.
  const bool alone = recipe.launcher.empty();
  if (alone) recipe.threads = 1;
  size_t side_by_side = alone ? std::max(1U, std::thread::hardware_concurrency()) : 1;
  if (options.jobs > 0) side_by_side = static_cast<size_t>(options.jobs);
  const std::string folder = directory.file("rank-check");
  CHANAS_RETURN_IF_ERROR(make_folder(folder));
  const std::string kept = join_path(folder, "accuracies.jsonl");
  std::map<std::string, double> known = read_journal(kept);
  const auto of_repeat = [&](int repeat) {
    TrainConfig config = recipe;
    config.seed = context.config.seed + static_cast<uint64_t>(repeat);
    return config;
  };
  const auto key = [&](const Arch& arch, int repeat) {
    return fmt::format("{} {} {}", arch_id(space, arch), recipe_fingerprint(of_repeat(repeat)),
                       directory.stage("train")->inputs);
  };
  struct Job {
    std::string name;
    const Arch* arch;
    TrainConfig config;
    double share = 0;  // done
  };
  std::vector<Job> jobs;
  const size_t count = archs.size() * static_cast<size_t>(options.repeats);
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    for (const Arch& arch : archs) {
      const std::string name = key(arch, repeat);
      if (!known.contains(name)) jobs.push_back({name, &arch, of_repeat(repeat)});
    }
  }
  Progress progress("training from scratch, networks", static_cast<double>(count));
  const auto before = static_cast<double>(count - jobs.size());
  progress.start_at(before);
  std::mutex mutex;  // of progress, shares, what is known and kept
  const auto train = [&](size_t index, size_t) -> Status {
    Job& job = jobs[index];
    const SupernetFiles files{join_path(folder, fingerprint(job.name)), ""};
    const auto follow = [&](const TrainProgress& p) {
      if (options.run.quiet || p.steps == 0) return;
      const std::lock_guard lock(mutex);
      job.share = static_cast<double>(p.step) / static_cast<double>(p.steps);
      double done = before;
      for (const Job& each : jobs) done += each.share;
      progress.update(done, fmt::format("{}: loss {:.3f}", arch_id(space, *job.arch), p.loss));
    };
    CHANAS_ASSIGN_OR_RETURN(TrainResult result, train_subnet(space, context.data(), job.config,
                                                             *job.arch, files, follow));
    const std::lock_guard lock(mutex);
    CHANAS_RETURN_IF_ERROR(append_line(kept, Json({job.name, result.accuracy_test}).dump()));
    known[job.name] = result.accuracy_test;
    job.share = 1;
    std::error_code ignored;
    std::filesystem::remove_all(files.folder, ignored);
    return absl::OkStatus();
  };
  CHANAS_RETURN_IF_ERROR(for_each(jobs.size(), side_by_side, train));
  std::vector<std::vector<double>> repeats;
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    std::vector<double>& accuracies = repeats.emplace_back();
    for (const Arch& arch : archs) accuracies.push_back(known.at(key(arch, repeat)));
  }
  return repeats;
}

}  // namespace

RankAgreement rank_agreement(std::span<const RankSample> samples, uint64_t seed) {
  CHANAS_CHECK(samples.size() >= 2 * kBands) << samples.size();
  std::vector<const RankSample*> all;
  std::vector<double> truth, supernet;
  RankAgreement agreement;
  for (const RankSample& sample : samples) {
    all.push_back(&sample);
    truth.push_back(sample.truth);
    supernet.push_back(sample.supernet);
    agreement.mean_difference +=
        (sample.truth - sample.supernet) / static_cast<double>(samples.size());
  }
  agreement.spearman = spearman(supernet, truth);
  agreement.bands.push_back(band("all", all, seed));
  std::stable_sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->macs < b->macs; });
  for (size_t i = 0; i < kBands; ++i) {
    const std::vector<const RankSample*> part(
        all.begin() + static_cast<std::ptrdiff_t>(i * all.size() / kBands),
        all.begin() + static_cast<std::ptrdiff_t>((i + 1) * all.size() / kBands));
    agreement.bands.push_back(band(fmt::format("{:.1f}-{:.1f}M multiply-adds",
                                               part.front()->macs / 1e6, part.back()->macs / 1e6),
                                   part, seed));
  }
  return agreement;
}

Json to_json(const RankAgreement& agreement) {
  Json bands = Json::array();
  for (const RankAgreement::Band& band : agreement.bands) {
    bands.push_back({{"name", band.name},
                     {"networks", band.networks},
                     {"supernet", to_json(band.supernet)},
                     {"macs", to_json(band.macs)},
                     {"params", to_json(band.params)}});
  }
  return {{"bands", bands},
          {"spearman", agreement.spearman},
          {"mean_difference", agreement.mean_difference}};
}

double repeat_agreement(std::span<const std::vector<double>> repeats) {
  CHANAS_CHECK(repeats.size() >= 2) << repeats.size();
  std::vector<double> taus;
  for (size_t i = 0; i < repeats.size(); ++i) {
    for (size_t k = 0; k < i; ++k) taus.push_back(kendall_tau_b(repeats[k], repeats[i]));
  }
  return mean(taus);
}

std::vector<Arch> stratified_networks(const ArchSpace& space, int count, uint64_t seed) {
  Rng rng(seed, "rank check");
  std::vector<std::pair<int64_t, Arch>> pool;
  std::set<std::string> ids;
  const std::vector<SubSpace> cells = space.cells();
  for (int i = 0; i < count * kPool; ++i) {
    Arch arch = canonical(space, sample(space, rng.choose(cells), rng));
    if (!ids.insert(arch_id(space, arch)).second) continue;
    const int64_t size = macs(to_network(space, arch));
    pool.emplace_back(size, std::move(arch));
  }
  std::stable_sort(pool.begin(), pool.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // The nearest one to each of the evenly spaced sizes that is still there.
  const auto low = static_cast<double>(pool.front().first);
  const auto high = static_cast<double>(pool.back().first);
  std::vector<Arch> chosen;
  std::vector<bool> taken(pool.size());
  std::vector<size_t> places;
  for (int i = 0; i < count && places.size() < pool.size(); ++i) {
    const double wanted = count == 1 ? low : low + (high - low) * i / (count - 1);
    size_t best = pool.size();
    for (size_t k = 0; k < pool.size(); ++k) {
      const auto distance = [&](size_t at) {
        return std::abs(static_cast<double>(pool[at].first) - wanted);
      };
      if (!taken[k] && (best == pool.size() || distance(k) < distance(best))) best = k;
    }
    taken[best] = true;
    places.push_back(best);
  }
  std::sort(places.begin(), places.end());
  for (const size_t place : places) chosen.push_back(pool[place].second);
  return chosen;
}

StatusOr<Json> rank_check(const RankCheckOptions& options) {
  CHANAS_ASSIGN_OR_RETURN(std::unique_ptr<RunDirectory> directory,
                          RunDirectory::open(options.run.run_dir));
  if (!directory->stage("train")) {
    return absl::FailedPreconditionError(
        fmt::format("{} holds no trained supernet; run `chanas train --run-dir {}` first",
                    options.run.run_dir, options.run.run_dir));
  }
  StageContext context(options.run, *directory);
  // The supernet's folder is named by it.
  context.inputs["train"] = directory->stage("train")->inputs;
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  const std::vector<Arch> archs = stratified_networks(space, options.networks, context.config.seed);
  if (archs.size() < 2 * kBands) {
    return absl::InvalidArgumentError(fmt::format(
        "the space gave {} different networks, expected at least {}", archs.size(), 2 * kBands));
  }
  TrainConfig recipe = context.training();
  // From scratch there are labels only, on the train part.
  recipe.trainer = "sandwich";
  recipe.loss = "plain";
  recipe.sort_share = 0;
  recipe.budget_s = 0;
  recipe.epochs =
      options.epochs > 0 ? options.epochs : context.output("train")["epochs"].get<double>();

  CHANAS_ASSIGN_OR_RETURN(const auto repeats,
                          train_from_scratch(options, *directory, context, space, archs, recipe));
  CHANAS_ASSIGN_OR_RETURN(std::vector<double> supernet,
                          context.evaluate("supernet accuracies", archs, "ranking", 0));
  std::vector<RankSample> samples;
  Json networks = Json::array();
  for (size_t i = 0; i < archs.size(); ++i) {
    const Network network = to_network(space, archs[i]);
    const std::string id = arch_id(space, archs[i]);
    std::vector<double> trainings;
    for (const std::vector<double>& repeat : repeats) trainings.push_back(repeat[i]);
    samples.push_back({mean(trainings), supernet[i], static_cast<double>(macs(network)),
                       static_cast<double>(params(network))});
    networks.push_back({{"id", id},
                        {"trainings", trainings},
                        {"from_scratch", samples.back().truth},
                        {"supernet", supernet[i]},
                        {"macs", macs(network)},
                        {"params", params(network)}});
  }
  Json out = to_json(rank_agreement(samples, context.config.seed));
  out["epochs"] = recipe.epochs;
  if (options.repeats > 1) out["among_repeats"] = repeat_agreement(repeats);
  out["networks"] = networks;
  CHANAS_RETURN_IF_ERROR(write_json(directory->file("rank_check.json"), out));
  return out;
}

}  // namespace chanas
