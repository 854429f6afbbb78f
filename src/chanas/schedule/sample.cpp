// Random points, mutation and crossover.

#include <algorithm>
#include <cstdlib>

#include "chanas/schedule/schedule.h"

namespace chanas {
namespace {

constexpr int kTries = 200;

// Index drawn in proportion to its weight.
int draw(const std::vector<double>& weights, Rng& rng) {
  double total = 0;
  for (double weight : weights) total += weight;
  double mark = rng.uniform01() * total;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    mark -= weights[i];
    if (mark < 0) return static_cast<int>(i);
  }
  return static_cast<int>(weights.size()) - 1;
}

// Factors that divide the loop are likelier (paper Fig. 9).
double factor_weight(const Field& field, int choice) {
  const bool divides = field.extent == 0 || choice == 0 || field.extent % choice == 0;
  return divides ? 1.0 : 0.4;
}

int redraw(const Field& field, Rng& rng) {
  std::vector<double> weights;
  for (int choice : field.choices) weights.push_back(factor_weight(field, choice));
  return field.choices[draw(weights, rng)];
}

// Another value than `current`; near ones are likelier.
int move(const Field& field, int current, Rng& rng) {
  const auto at = std::ranges::find(field.choices, current) - field.choices.begin();
  std::vector<double> weights;
  for (int i = 0; i < static_cast<int>(field.choices.size()); ++i) {
    const int distance = std::abs(i - static_cast<int>(at));
    weights.push_back(distance == 0 ? 0 : factor_weight(field, field.choices[i]) / distance);
  }
  return field.choices[draw(weights, rng)];
}

std::vector<int> movable(const ScheduleSpace& space) {
  std::vector<int> indices;
  for (size_t i = 0; i < space.fields.size(); ++i)
    if (space.fields[i].choices.size() > 1) indices.push_back(static_cast<int>(i));
  return indices;
}

}  // namespace

Schedule random_schedule(const ScheduleSpace& space, Rng& rng) {
  for (int i = 0; i < kTries; ++i) {
    Schedule schedule;
    for (const Field& field : space.fields) schedule.values.push_back(redraw(field, rng));
    if (check_legal(space, schedule).ok()) return schedule;
  }
  // Legal points are rare here: walk away from one.
  Schedule schedule = default_schedule(space);
  for (int i = 0; i < 8; ++i) schedule = mutate(space, schedule, rng);
  return schedule;
}

Schedule mutate(const ScheduleSpace& space, const Schedule& schedule, Rng& rng) {
  const std::vector<int> indices = movable(space);
  if (indices.empty()) return schedule;
  for (int i = 0; i < kTries; ++i) {
    Schedule result = schedule;
    const int changes = 1 + draw({0.6, 0.3, 0.1}, rng);
    for (int c = 0; c < changes; ++c) {
      const int f = rng.choose(indices);
      result.values[f] = move(space.fields[f], schedule.values[f], rng);
    }
    if (check_legal(space, result).ok()) return result;
  }
  // Legal neighbours are rare: look at all that differ in one field, from a random one on.
  std::vector<Schedule> neighbours;
  for (int f : indices) {
    for (int choice : space.fields[f].choices) {
      Schedule result = schedule;
      result.values[f] = choice;
      if (result != schedule) neighbours.push_back(std::move(result));
    }
  }
  rng.shuffle(neighbours);
  for (const Schedule& result : neighbours)
    if (check_legal(space, result).ok()) return result;
  return default_schedule(space);
}

Schedule crossover(const ScheduleSpace& space, const Schedule& a, const Schedule& b, Rng& rng) {
  for (int i = 0; i < kTries; ++i) {
    Schedule result = a;
    for (size_t f = 0; f < result.values.size(); ++f)
      if (rng.bernoulli(0.5)) result.values[f] = b.values[f];
    if (check_legal(space, result).ok()) return result;
  }
  return rng.bernoulli(0.5) ? a : b;
}

}  // namespace chanas
