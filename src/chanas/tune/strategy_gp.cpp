// The paper's search (section 4): candidates from start points by mutation and crossover, thinned
// by the draft model, ranked by a Gaussian process that learns from every workload of the kind.

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "chanas/schedule/tiling.h"
#include "chanas/tune/gaussian_process.h"
#include "chanas/tune/strategy.h"

namespace chanas::internal {
namespace {

constexpr int kChildren = 128;        // candidates per proposal
constexpr int kRandomPoints = 48;     // and random ones among them
constexpr size_t kDrafted = 96;       // of both that the draft model leaves over
constexpr int kDraftsPerStart = 8;    // random points of which the draft model picks a start
constexpr size_t kOwnPoints = 256;    // of a workload that the model learns from
constexpr size_t kOtherPoints = 160;  // of the other workloads of the kind, nearest first
constexpr size_t kEnoughOthers = 16;  // valid trials of others that make random starts needless
constexpr size_t kFitPoints = 128;    // for the hyper-parameters
constexpr int kFitIterations = 30;
constexpr size_t kFirstFit = 8;  // trials of the kind; again whenever they have doubled
// Trials without gain after which the neighbours of the best follow, and the model is not always
// asked.
constexpr size_t kStale = 8;
constexpr double kGain = 0.002;  // relative; less is noise

using Entries = std::vector<const Experience::Entry*>;

// `count` of `from`, evenly spaced.
Entries thin(const Entries& from, size_t count) {
  if (from.size() <= count) return from;
  Entries thinned;
  for (size_t i = 0; i < count; ++i) thinned.push_back(from[i * from.size() / count]);
  return thinned;
}

// At most `count`: the faster half by value, the rest evenly spaced over what was tried.
Entries best_and_spread(const Entries& from, size_t count) {
  if (from.size() <= count) return from;
  Entries sorted = from;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto* a, const auto* b) { return a->sample.value < b->sample.value; });
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(count / 2);
  const std::set<const Experience::Entry*> best(sorted.begin(), middle);
  Entries rest, chosen(sorted.begin(), middle);
  for (const auto* entry : from) {
    if (!best.contains(entry)) rest.push_back(entry);
  }
  for (const auto* entry : thin(rest, count - chosen.size())) chosen.push_back(entry);
  return chosen;
}

// Samples as points of the Gaussian process: a column for each choice that any space of the kind
// offers, then the derived ones.
class Encoder {
 public:
  explicit Encoder(const Experience& experience) : experience_(experience) {
    for (size_t i = 0; i < experience.types().size(); ++i) {
      if (experience.types()[i] == ChoiceType::kOrdinal) ordinals_.push_back(i);
      if (experience.types()[i] == ChoiceType::kCategory) categories_.push_back(i);
    }
  }

  GpPoints points(const std::vector<std::pair<int, const Sample*>>& samples) const {
    const auto n = static_cast<Eigen::Index>(samples.size());
    const size_t derived = samples.empty() ? 0 : samples[0].second->features.derived.size();
    GpPoints points;
    points.workload.resize(n);
    points.shape.resize(n, static_cast<Eigen::Index>(experience_.shapes()[0].size()));
    points.ordinal.resize(n, static_cast<Eigen::Index>(ordinals_.size() + derived));
    points.category.resize(n, static_cast<Eigen::Index>(categories_.size()));
    for (Eigen::Index i = 0; i < n; ++i) {
      const auto& [workload, sample] = samples[static_cast<size_t>(i)];
      const std::vector<double>& shape = experience_.shapes()[static_cast<size_t>(workload)];
      points.workload[i] = workload;
      for (Eigen::Index c = 0; c < points.shape.cols(); ++c) {
        points.shape(i, c) = shape[static_cast<size_t>(c)];
      }
      Eigen::Index column = 0;
      for (const size_t choice : ordinals_) {
        points.ordinal(i, column++) =
            std::log2(std::max(0.5, 1.0 * sample->features.choices[choice]));
      }
      for (const double value : sample->features.derived) points.ordinal(i, column++) = value;
      column = 0;
      for (const size_t choice : categories_) {
        points.category(i, column++) = sample->features.choices[choice];
      }
    }
    return points;
  }

  GpPoints points(const Entries& entries) const {
    std::vector<std::pair<int, const Sample*>> samples;
    for (const auto* entry : entries) samples.emplace_back(entry->workload, &entry->sample);
    return points(samples);
  }

 private:
  const Experience& experience_;
  std::vector<size_t> ordinals_, categories_;
};

Eigen::VectorXd values_of(const Entries& entries) {
  Eigen::VectorXd values(static_cast<Eigen::Index>(entries.size()));
  for (size_t i = 0; i < entries.size(); ++i) {
    values[static_cast<Eigen::Index>(i)] = entries[i]->sample.value;
  }
  return values;
}

double squared_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// What the experience holds for one workload's search.
struct Training {
  int self = -1;
  Entries own, others;    // valid ones
  Entries failed;         // of all workloads of the kind
  std::vector<int> near;  // other workloads with valid trials, nearest shape first
};

Training training_of(const SearchState& state) {
  const Experience& experience = state.experience;
  Training training;
  training.self = experience.find(state.space);
  std::map<int, Entries> valid;
  for (const Experience::Entry& entry : experience.entries()) {
    if (entry.sample.ok) {
      valid[entry.workload].push_back(&entry);
    } else {
      training.failed.push_back(&entry);
    }
  }
  const std::vector<double>& shape = experience.shapes()[static_cast<size_t>(training.self)];
  std::vector<std::pair<double, int>> order;
  for (const auto& [workload, entries] : valid) {
    if (workload == training.self) continue;
    const auto& other = experience.shapes()[static_cast<size_t>(workload)];
    order.emplace_back(squared_distance(shape, other), workload);
  }
  std::sort(order.begin(), order.end());
  training.own = best_and_spread(valid[training.self], kOwnPoints);
  const size_t each = std::max<size_t>(24, kOtherPoints / std::max<size_t>(1, order.size()));
  for (const auto& [distance, workload] : order) {
    training.near.push_back(workload);
    const size_t room = kOtherPoints - training.others.size();
    for (const auto* entry : best_and_spread(valid[workload], std::min(each, room))) {
      training.others.push_back(entry);
    }
    if (training.others.size() >= kOtherPoints) break;
  }
  return training;
}

struct Candidates {
  std::vector<Proposal> proposals;
  std::vector<Sample> samples;
  std::set<Schedule> seen;

  void add(const SearchState& state, Proposal proposal) {
    if (state.taken(proposal.schedule) || !seen.insert(proposal.schedule).second) return;
    samples.push_back(make_sample(state.space, proposal.schedule));
    proposals.push_back(std::move(proposal));
  }
};

// All legal schedules that differ from `schedule` in one field.
void add_neighbours(const SearchState& state, const Schedule& schedule, Candidates& candidates) {
  for (size_t f = 0; f < state.space.fields.size(); ++f) {
    for (const int choice : state.space.fields[f].choices) {
      Schedule other = schedule;
      other.values[f] = choice;
      if (other == schedule || !check_legal(state.space, other).ok()) continue;
      candidates.add(state, {std::move(other), "descent"});
    }
  }
}

// The best schedules of the nearest workloads, as far as this space offers their choices.
void add_relatives(const SearchState& state, const Training& training, Candidates& candidates) {
  constexpr size_t kWorkloads = 8;
  const std::vector<int> slots = field_slots(state.space);
  for (size_t i = 0; i < std::min(kWorkloads, training.near.size()); ++i) {
    const Sample* best = nullptr;
    for (const auto* entry : training.others) {
      if (entry->workload != training.near[i]) continue;
      if (best == nullptr || entry->sample.value < best->value) best = &entry->sample;
    }
    if (best == nullptr) continue;
    Schedule schedule;
    for (size_t f = 0; f < slots.size(); ++f) {
      const std::vector<int>& choices = state.space.fields[f].choices;
      const int wanted = best->features.choices[static_cast<size_t>(slots[f])];
      schedule.values.push_back(*std::min_element(
          choices.begin(), choices.end(),
          [&](int a, int b) { return std::abs(a - wanted) < std::abs(b - wanted); }));
    }
    if (!check_legal(state.space, schedule).ok()) continue;
    candidates.add(state, {std::move(schedule), "transfer"});
  }
}

// Leaves the `count` best by the draft model, which is the last derived feature.
void draft(Candidates& candidates, size_t count) {
  if (candidates.proposals.size() <= count) return;
  std::vector<size_t> order(candidates.proposals.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return candidates.samples[a].features.derived.back() <
           candidates.samples[b].features.derived.back();
  });
  order.resize(count);
  std::sort(order.begin(), order.end());
  Candidates kept;
  for (const size_t i : order) {
    kept.seen.insert(candidates.proposals[i].schedule);
    kept.proposals.push_back(std::move(candidates.proposals[i]));
    kept.samples.push_back(std::move(candidates.samples[i]));
  }
  candidates = std::move(kept);
}

// The fastest valid trial; how many trials came after the last gain.
struct Standing {
  const Trial* best = nullptr;
  size_t stale = 0;
};

Standing standing(const History& history) {
  Standing standing;
  double mark = 0;  // the best when it last fell by a gain
  for (const Trial& trial : history.trials()) {
    ++standing.stale;
    if (!trial.ok) continue;
    if (standing.best == nullptr || trial.latency_us < standing.best->latency_us) {
      standing.best = &trial;
    }
    if (mark == 0 || trial.latency_us < mark * (1 - kGain)) {
      mark = trial.latency_us;
      standing.stale = 0;
    }
  }
  return standing;
}

class GpStrategy : public SearchStrategy {
 public:
  std::optional<Proposal> propose(const SearchState& state) override {
    if (auto first = default_proposal(state)) return first;
    if (auto structured = structured_proposal(state)) return structured;
    const Training training = training_of(state);
    Rng rng = state.rng();
    const auto starts = 1 + static_cast<size_t>(state.options.random_starts);
    const bool alone = training.others.size() < kEnoughOthers;
    if (training.own.size() + training.others.size() < 2 || (alone && state.tried() < starts)) {
      return start(state, rng);
    }
    const Standing now = standing(state.history);
    // Where the model is wrong about a region it would never look there, and never learn.
    if (now.stale >= kStale && state.tried() % 3 == 0) {
      if (auto child = unjudged(state, rng)) return child;
    }
    Candidates candidates;
    bool descends = false;
    if (now.best != nullptr && now.stale >= kStale) {
      add_neighbours(state, now.best->schedule, candidates);
      descends = !candidates.proposals.empty();
    }
    if (!descends) {
      fill(state, rng, candidates);
      draft(candidates, kDrafted);
      add_relatives(state, training, candidates);
      if (now.best != nullptr) add_neighbours(state, now.best->schedule, candidates);
    }
    if (candidates.proposals.empty()) return random_proposal(state, rng);
    return choose(state, training, now, descends, std::move(candidates));
  }

 private:
  // A child of a start point, as evolution makes it.
  static std::optional<Proposal> unjudged(const SearchState& state, Rng& rng) {
    constexpr int kAttempts = 16;
    const StartPoints starts(state.history);
    for (int i = 0; i < kAttempts && !starts.empty(); ++i) {
      Proposal child = starts.child(state.space, state.options.gamma, rng);
      if (!state.taken(child.schedule)) return child;
    }
    return std::nullopt;
  }

  // Of a few random points the one that the draft model likes best.
  std::optional<Proposal> start(const SearchState& state, Rng& rng) {
    std::optional<Proposal> best;
    double best_us = 0;
    for (int i = 0; i < kDraftsPerStart; ++i) {
      auto proposal = random_proposal(state, rng);
      if (!proposal) break;
      const double us = draft_us(state.space, proposal->schedule);
      if (best && us >= best_us) continue;
      best = std::move(proposal);
      best_us = us;
    }
    return best;
  }

  void fill(const SearchState& state, Rng& rng, Candidates& candidates) {
    const StartPoints starts(state.history);
    for (int i = 0; i < kChildren && !starts.empty(); ++i) {
      candidates.add(state, starts.child(state.space, state.options.gamma, rng));
    }
    for (int i = 0; i < kRandomPoints; ++i) {
      candidates.add(state, {random_schedule(state.space, rng), "random"});
    }
  }

  // Hyper-parameters of the kind, from its first trials: refitted whenever they have doubled.
  const GpParameters& parameters(const SearchState& state, const Encoder& encoder,
                                 const GpPrior& prior) {
    const std::vector<Experience::Entry>& entries = state.experience.entries();
    size_t used = 0;
    for (size_t next = kFirstFit; next <= entries.size(); next *= 2) used = next;
    Entries valid;
    for (size_t i = 0; i < used; ++i) {
      if (entries[i].sample.ok) valid.push_back(&entries[i]);
    }
    valid = best_and_spread(valid, kFitPoints);
    // The data are the key: experiences may differ behind one count.
    const Eigen::VectorXd values = values_of(valid);
    Memo& memo = memos_[{state.space.workload.kind(), used}];
    const bool known = memo.parameters.size() == prior.mean.size() &&
                       memo.values.size() == values.size() && memo.values == values;
    if (!known) {
      memo.values = values;
      memo.parameters = valid.size() < kFirstFit / 2
                            ? prior.mean
                            : fit_parameters(encoder.points(valid), values, prior, kFitIterations);
    }
    return memo.parameters;
  }

  std::optional<Proposal> choose(const SearchState& state, const Training& training,
                                 const Standing& now, bool descends, Candidates candidates) {
    const Encoder encoder(state.experience);
    Entries known = training.own;
    known.insert(known.end(), training.others.begin(), training.others.end());
    GpPoints points = encoder.points(known);
    Eigen::VectorXd values = values_of(known);
    const GpPrior prior =
        gp_prior(points.shape.cols(), points.ordinal.cols(), points.category.cols());
    const GpParameters& theta = parameters(state, encoder, prior);
    GaussianProcess model(points, values, theta);
    if (!state.pending.empty()) {
      // What is on its way is believed to turn out as predicted, so that the batch spreads.
      std::vector<Sample> samples;
      std::vector<std::pair<int, const Sample*>> pending;
      for (const Schedule& schedule : state.pending) {
        samples.push_back(make_sample(state.space, schedule));
      }
      for (const Sample& sample : samples) pending.emplace_back(training.self, &sample);
      const GpPoints more = encoder.points(pending);
      const Eigen::VectorXd believed = model.predict(more).mean;
      points = append(points, more);
      const Eigen::VectorXd measured = std::move(values);
      values.resize(measured.size() + believed.size());
      values << measured, believed;
      model = GaussianProcess(points, values, theta);
    }
    std::vector<std::pair<int, const Sample*>> asked;
    for (const Sample& sample : candidates.samples) asked.emplace_back(training.self, &sample);
    const GpPoints queries = encoder.points(asked);
    const GpPrediction prediction = model.predict(queries);
    const Eigen::VectorXd feasible = feasibility(encoder, training, theta, queries);
    double best = prediction.mean.minCoeff();
    for (const auto* entry : training.own) best = std::min(best, entry->sample.value);
    Eigen::VectorXd gain(queries.count());
    for (Eigen::Index i = 0; i < queries.count(); ++i) {
      gain[i] =
          feasible[i] * expected_improvement(best, prediction.mean[i], prediction.deviation[i]);
    }
    Eigen::Index chosen = 0;
    const double expected = gain.maxCoeff(&chosen);
    const bool enough = state.options.patience > 0 &&
                        now.stale >= static_cast<size_t>(state.options.patience) &&
                        expected < 0.1 * model.noise();
    if (enough && !descends) return std::nullopt;
    Proposal& proposal = candidates.proposals[static_cast<size_t>(chosen)];
    return std::move(proposal);
  }

  // How likely each query works: regression of 1 (worked) and 0 (failed) with the same distances.
  static Eigen::VectorXd feasibility(const Encoder& encoder, const Training& training,
                                     const GpParameters& theta, const GpPoints& queries) {
    Eigen::VectorXd likely = Eigen::VectorXd::Ones(queries.count());
    if (training.failed.empty()) return likely;
    const Entries failed = thin(training.failed, kFitPoints);
    Entries all = training.own;
    all.insert(all.end(), training.others.begin(), training.others.end());
    const auto worked = static_cast<Eigen::Index>(all.size());
    all.insert(all.end(), failed.begin(), failed.end());
    Eigen::VectorXd labels = Eigen::VectorXd::Zero(static_cast<Eigen::Index>(all.size()));
    labels.head(worked).setOnes();
    GpParameters shared = theta;
    shared.head(3) << std::log(0.2), std::log(0.5), std::log(0.2);
    const GaussianProcess model(encoder.points(all), labels, shared);
    return model.predict(queries).mean.cwiseMax(0.02).cwiseMin(1.0);
  }

  struct Memo {
    Eigen::VectorXd values;
    GpParameters parameters;
  };
  std::map<std::pair<std::string, size_t>, Memo> memos_;
};

}  // namespace

std::unique_ptr<SearchStrategy> make_gp_strategy() { return std::make_unique<GpStrategy>(); }

}  // namespace chanas::internal
