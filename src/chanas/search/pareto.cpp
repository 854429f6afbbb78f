#include <algorithm>

#include "chanas/search/search.h"

namespace chanas {

std::vector<Scored> pareto_front(const ArchSpace& space, std::vector<Scored> points) {
  std::sort(points.begin(), points.end(), [&](const Scored& a, const Scored& b) {
    if (a.latency_us != b.latency_us) return a.latency_us < b.latency_us;
    if (a.accuracy != b.accuracy) return a.accuracy > b.accuracy;
    return arch_id(space, a.arch) < arch_id(space, b.arch);
  });
  std::vector<Scored> front;
  for (Scored& point : points) {
    if (front.empty() || point.accuracy > front.back().accuracy) front.push_back(std::move(point));
  }
  return front;
}

double hypervolume(const std::vector<Scored>& front, double reference_latency_us) {
  double area = 0;
  for (size_t i = 0; i < front.size(); ++i) {
    double right = reference_latency_us;
    if (i + 1 < front.size()) right = std::min(right, front[i + 1].latency_us);
    area += std::max(right - front[i].latency_us, 0.0) * std::max(front[i].accuracy, 0.0);
  }
  return area;
}

}  // namespace chanas
