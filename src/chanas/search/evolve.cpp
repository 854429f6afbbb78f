// Evolution inside one sub-space, and uniform sampling as its baseline.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>
#include <utility>

#include "chanas/base/rng.h"
#include "chanas/search/feasible.h"
#include "chanas/search/search.h"

namespace chanas {
namespace {

// Draws per wanted arch before a search settles for fewer.
constexpr int64_t kDrawsPerSample = 1000;
constexpr int64_t kDrawsPerMember = 50;  // of the start population; a tight limit needs many
// A small cell is seen whole at some time; looking long for its last few archs costs more time than
// scoring all others.
constexpr int64_t kDrawsPerChild = 20;
constexpr int64_t kRandomSearchBatch = 100;

// Names an arch inside its cell, like arch_id, but cheap: breeding in a small cell meets the same
// arch dozens of times.
std::string active_genes(const ArchSpace& space, const Arch& arch) {
  std::string genes;
  for (size_t b = 0; b < arch.depth.size(); ++b) {
    genes += static_cast<char>(arch.depth[b]);
    for (int u = 0; u < arch.depth[b]; ++u) {
      const UnitGene& gene = arch.units[b * space.max_depth() + u];
      genes += static_cast<char>(gene.kernel);
      genes += static_cast<char>(gene.expand);
    }
  }
  return genes;
}

bool fitter(const Scored& a, const Scored& b) {
  return a.accuracy != b.accuracy ? a.accuracy > b.accuracy : a.latency_us < b.latency_us;
}

// Everything that both searches do with candidates: the limit, no arch twice, scores, the front.
class Evaluation {
 public:
  Evaluation(const ArchSpace& space, const Evaluators& evaluators, double limit_us)
      : space_(space), evaluators_(evaluators), limit_us_(limit_us) {}

  // Takes an arch into the current batch if it is inside the limit and new.
  bool admit(const Arch& arch) {
    const double latency = evaluators_.latency_us(arch);
    if (!(latency <= limit_us_) || !seen_.insert(active_genes(space_, arch)).second) return false;
    archs_.push_back(canonical(space_, arch));
    latencies_us_.push_back(latency);
    return true;
  }
  // Draws candidates until the batch has `wanted` or `draws` are spent.
  template <typename Draw>
  void fill(int64_t wanted, int64_t draws, Draw draw) {
    for (; draws > 0 && static_cast<int64_t>(archs_.size()) < wanted; --draws) admit(draw());
  }
  const std::vector<Arch>& batch() const { return archs_; }

  // Scores the batch and empties it.
  StatusOr<std::vector<Scored>> score() {
    CHANAS_ASSIGN_OR_RETURN(std::vector<double> accuracies,
                            checked_accuracy(space_, evaluators_, archs_));
    std::vector<Scored> scored;
    scored.reserve(archs_.size());
    for (size_t i = 0; i < archs_.size(); ++i) {
      scored.push_back({std::move(archs_[i]), accuracies[i], latencies_us_[i]});
    }
    archs_.clear();
    latencies_us_.clear();
    result_.evaluations += static_cast<int64_t>(scored.size());
    result_.front.insert(result_.front.end(), scored.begin(), scored.end());
    result_.front = pareto_front(space_, std::move(result_.front));
    return scored;
  }

  const Generation& record(double best, double mean) {
    result_.history.push_back(
        {result_.evaluations, best, mean, hypervolume(result_.front, limit_us_)});
    return result_.history.back();
  }

  // Fittest first; arch_id makes the order complete.
  void sort(std::vector<Scored>& members) const {
    std::sort(members.begin(), members.end(), [&](const Scored& a, const Scored& b) {
      if (fitter(a, b) || fitter(b, a)) return fitter(a, b);
      return arch_id(space_, a.arch) < arch_id(space_, b.arch);
    });
  }

  SearchResult finish(std::vector<Scored> best) {
    result_.best = std::move(best);
    return std::move(result_);
  }
  int64_t evaluations() const { return result_.evaluations; }

 private:
  const ArchSpace& space_;
  const Evaluators& evaluators_;
  const double limit_us_;
  std::unordered_set<std::string> seen_;
  std::vector<Arch> archs_;
  std::vector<double> latencies_us_;
  SearchResult result_;
};

double mean_accuracy(const std::vector<Scored>& members) {
  double sum = 0;
  for (const Scored& member : members) sum += member.accuracy;
  return sum / static_cast<double>(members.size());
}

Status validate(const EvolutionOptions& options) {
  auto in_unit = [](double value) { return value >= 0 && value <= 1; };
  const char* wrong = options.population < 2             ? "population is below 2"
                      : options.generations < 0          ? "generations is below 0"
                      : !in_unit(options.parent_ratio)   ? "parent_ratio is not in (0, 1]"
                      : options.parent_ratio == 0        ? "parent_ratio is not in (0, 1]"
                      : !in_unit(options.mutation_share) ? "mutation_share is not in [0, 1]"
                      : !in_unit(options.mutation_probability)
                          ? "mutation_probability is not in [0, 1]"
                          : nullptr;
  if (wrong == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("evolution: {}", wrong));
}

// The fastest network, then samples, then mutants of what is there: a random walk away from the
// fastest network inside a limit that is too tight to hit by sampling.
void start_population(const ArchSpace& space, const SubSpace& cell, const Arch& fastest, int wanted,
                      Rng& rng, Evaluation& evaluation) {
  evaluation.admit(fastest);
  evaluation.fill(wanted, 10 * wanted, [&] { return sample(space, cell, rng); });
  evaluation.fill(wanted, kDrawsPerMember * wanted, [&] {
    return mutate(space, rng.choose(evaluation.batch()), rng.uniform_real(0, 0.3), rng);
  });
}

}  // namespace

StatusOr<SearchResult> evolve(const ArchSpace& space, const SubSpace& cell,
                              const Evaluators& evaluators, double limit_us,
                              const EvolutionOptions& options, const SearchProgress& progress) {
  CHANAS_RETURN_IF_ERROR(validate(options));
  CHANAS_RETURN_IF_ERROR(check_feasible(space, evaluators, {cell}, limit_us));
  Rng rng(options.seed, "evolve");
  Evaluation evaluation(space, evaluators, limit_us);
  start_population(space, cell, evaluators.minimum_arch(cell), options.population, rng, evaluation);
  CHANAS_ASSIGN_OR_RETURN(std::vector<Scored> members, evaluation.score());

  for (int generation = 0;; ++generation) {
    evaluation.sort(members);
    const Generation& record = evaluation.record(members.front().accuracy, mean_accuracy(members));
    if (progress && !progress(record)) break;
    if (generation == options.generations) break;

    const auto ratio = static_cast<size_t>(std::lround(options.parent_ratio * options.population));
    const size_t parents = std::min(members.size(), std::max<size_t>(ratio, 2));
    auto parent = [&]() -> const Arch& { return members[rng.uniform(parents)].arch; };
    auto crossed = [&] {
      const Arch& a = parent();
      const Arch& b = parent();
      return crossover(space, a, b, rng);
    };
    auto mutated = [&] { return mutate(space, parent(), options.mutation_probability, rng); };
    const int64_t mutants = std::llround(options.mutation_share * options.population);
    evaluation.fill(mutants, kDrawsPerChild * mutants, mutated);
    evaluation.fill(options.population, kDrawsPerChild * (options.population - mutants), crossed);
    if (evaluation.batch().empty()) break;
    CHANAS_ASSIGN_OR_RETURN(std::vector<Scored> children, evaluation.score());
    for (Scored& child : children) {
      if (members.size() == static_cast<size_t>(options.population)) {
        if (!fitter(child, members.back())) continue;
        members.pop_back();
      }
      auto place = std::upper_bound(members.begin(), members.end(), child, fitter);
      members.insert(place, std::move(child));
    }
  }
  return evaluation.finish(std::move(members));
}

StatusOr<SearchResult> random_search(const ArchSpace& space, const SubSpace& cell,
                                     const Evaluators& evaluators, double limit_us,
                                     int64_t evaluations, uint64_t seed) {
  if (evaluations < 1) {
    return absl::InvalidArgumentError(
        fmt::format("random search: found {} evaluations, expected at least 1", evaluations));
  }
  CHANAS_RETURN_IF_ERROR(check_feasible(space, evaluators, {cell}, limit_us));
  Rng rng(seed, "random_search");
  Evaluation evaluation(space, evaluators, limit_us);
  evaluation.admit(evaluators.minimum_arch(cell));
  std::vector<Scored> best;
  double sum = 0;
  while (evaluation.evaluations() < evaluations) {
    const int64_t wanted = std::min(kRandomSearchBatch, evaluations - evaluation.evaluations());
    evaluation.fill(wanted, kDrawsPerSample * wanted, [&] { return sample(space, cell, rng); });
    if (evaluation.batch().empty()) break;
    CHANAS_ASSIGN_OR_RETURN(std::vector<Scored> scored, evaluation.score());
    for (Scored& one : scored) {
      sum += one.accuracy;
      best.push_back(std::move(one));
    }
    evaluation.sort(best);
    if (best.size() > kRandomSearchBatch) best.resize(kRandomSearchBatch);
    evaluation.record(best.front().accuracy, sum / static_cast<double>(evaluation.evaluations()));
  }
  return evaluation.finish(std::move(best));
}

}  // namespace chanas
