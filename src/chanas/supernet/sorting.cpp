#include "chanas/supernet/sorting.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "chanas/supernet/elastic_weights.h"

namespace chanas {
namespace {

// Groups under construction: axes that share channels are joined.
class GroupBuilder {
 public:
  size_t add() {
    groups_.emplace_back();
    joined_.push_back(joined_.size());
    return joined_.size() - 1;
  }
  void axis(size_t group, const std::string& parameter, int dimension, bool reads = false) {
    groups_[group].axes.push_back({parameter, dimension, reads});
  }
  void count(size_t group, int64_t channels) { groups_[group].counts.push_back(channels); }
  void join(size_t a, size_t b) { joined_[root(b)] = root(a); }

  std::vector<ChannelGroup> finish() {
    for (size_t i = 0; i < groups_.size(); ++i) {
      const size_t to = root(i);
      if (to == i) continue;
      for (auto& axis : groups_[i].axes) groups_[to].axes.push_back(std::move(axis));
      for (const int64_t count : groups_[i].counts) groups_[to].counts.push_back(count);
    }
    std::vector<ChannelGroup> done;
    for (size_t i = 0; i < groups_.size(); ++i) {
      if (root(i) != i) continue;
      ChannelGroup& group = groups_[i];
      std::sort(group.counts.begin(), group.counts.end());
      group.counts.erase(std::unique(group.counts.begin(), group.counts.end()), group.counts.end());
      done.push_back(std::move(group));
    }
    return done;
  }

 private:
  size_t root(size_t i) const {
    while (joined_[i] != i) i = joined_[i];
    return i;
  }
  std::vector<ChannelGroup> groups_;
  std::vector<size_t> joined_;
};

struct Extents {
  int64_t outer = 1, channels = 1, inner = 1;
};

Extents extents(const std::vector<int64_t>& shape, int dimension) {
  Extents e;
  for (int d = 0; d < static_cast<int>(shape.size()); ++d) {
    (d < dimension    ? e.outer
     : d == dimension ? e.channels
                      : e.inner) *= shape[static_cast<size_t>(d)];
  }
  return e;
}

void permute(const Supernet::Parameter& parameter, int dimension, std::span<const size_t> order,
             std::span<float> values) {
  const Extents e = extents(parameter.shape, dimension);
  CHANAS_CHECK(e.channels == static_cast<int64_t>(order.size())) << parameter.name;
  const auto inner = static_cast<size_t>(e.inner);
  float* to = &values[parameter.offset];
  const std::vector<float> from(to, to + parameter.size);
  for (size_t o = 0; o < static_cast<size_t>(e.outer); ++o) {
    for (const size_t c : order) {
      to = std::copy_n(&from[(o * order.size() + c) * inner], inner, to);
    }
  }
}

}  // namespace

std::vector<ChannelGroup> channel_groups(const ArchSpace& trained) {
  // One network per trained width and ratio has all the channel counts.
  std::vector<Network> networks;
  for (const double width : trained.widths) {
    for (const int expand : trained.expands) {
      Arch arch = largest(trained, {trained.resolutions.back(), width});
      for (UnitGene& gene : arch.units) gene.expand = expand;
      networks.push_back(to_network(trained, arch));
    }
  }
  const Network& whole = networks.back();
  GroupBuilder builder;
  const auto add_norm = [&](size_t group, const std::string& name) {
    for (const int resolution : trained.resolutions) {
      for (const char* part : {".weight", ".bias"}) {
        builder.axis(group, elastic_name(trained, name + part, resolution), 0);
      }
    }
  };
  size_t outer = builder.add();
  add_norm(outer, "stem.bn");
  builder.axis(outer, "stem.conv.weight", 0);
  for (const Network& n : networks) builder.count(outer, n.stem.c_out);

  for (size_t i = 0; i < whole.units.size(); ++i) {
    const Unit& unit = whole.units[i];
    const std::string prefix = fmt::format("units.{}.", i);
    // Without an expansion the inner channels are the outer ones before the unit.
    const size_t inner = unit.expand ? builder.add() : outer;
    if (unit.expand) {
      builder.axis(outer, prefix + "expand.conv.weight", 1, true);
      builder.axis(inner, prefix + "expand.conv.weight", 0);
      add_norm(inner, prefix + "expand.bn");
    }
    builder.axis(inner, prefix + "depthwise.conv.weight", 0);
    add_norm(inner, prefix + "depthwise.bn");
    builder.axis(inner, prefix + "project.conv.weight", 1, true);
    for (const Network& n : networks) builder.count(inner, n.units[i].c_mid);
    if (unit.se_channels > 0) {
      const size_t hidden = builder.add();
      builder.axis(inner, prefix + "se.reduce.weight", 1);
      builder.axis(inner, prefix + "se.expand.weight", 0);
      builder.axis(inner, prefix + "se.expand.bias", 0);
      builder.axis(hidden, prefix + "se.reduce.weight", 0);
      builder.axis(hidden, prefix + "se.reduce.bias", 0);
      builder.axis(hidden, prefix + "se.expand.weight", 1, true);
      for (const Network& n : networks) builder.count(hidden, n.units[i].se_channels);
    }
    const size_t before = outer;
    outer = builder.add();
    builder.axis(outer, prefix + "project.conv.weight", 0);
    add_norm(outer, prefix + "project.bn");
    bool residual = false;
    for (const Network& n : networks) {
      builder.count(outer, n.units[i].c_out);
      residual = residual || n.units[i].residual;
    }
    if (residual) builder.join(before, outer);
  }

  if (whole.head.conv_channels > 0) {
    builder.axis(outer, "head.conv.weight", 1, true);
    outer = builder.add();
    builder.axis(outer, "head.conv.weight", 0);
    add_norm(outer, "head.bn");
    for (const Network& n : networks) builder.count(outer, n.head.conv_channels);
  }
  if (whole.head.mix_channels > 0) {
    builder.axis(outer, "mix.weight", 1, true);
    outer = builder.add();
    builder.axis(outer, "mix.weight", 0);
    if (whole.head.mix_bias) builder.axis(outer, "mix.bias", 0);
    for (const Network& n : networks) builder.count(outer, n.head.mix_channels);
  }
  builder.axis(outer, "classifier.weight", 1, true);
  return builder.finish();
}

void sort_channels(const ArchSpace& trained, const std::vector<Supernet::Parameter>& parameters,
                   std::span<float> values) {
  std::map<std::string, const Supernet::Parameter*> by_name;
  for (const Supernet::Parameter& p : parameters) by_name[p.name] = &p;
  for (const ChannelGroup& group : channel_groups(trained)) {
    const auto channels = static_cast<size_t>(group.counts.back());
    // Some widths tie blocks of different widths: nothing to move there.
    const bool tied = std::all_of(group.axes.begin(), group.axes.end(), [&](const auto& axis) {
      return by_name.at(axis.parameter)->shape[static_cast<size_t>(axis.dimension)] ==
             group.counts.back();
    });
    if (!tied) continue;
    std::vector<double> importance(channels);
    for (const ChannelGroup::Axis& axis : group.axes) {
      if (!axis.reads) continue;
      const Supernet::Parameter& p = *by_name.at(axis.parameter);
      const Extents e = extents(p.shape, axis.dimension);
      for (size_t i = 0; i < p.size; ++i) {
        importance[i / static_cast<size_t>(e.inner) % channels] +=
            std::abs(double{values[p.offset + i]});
      }
    }
    std::vector<size_t> order(channels);
    std::iota(order.begin(), order.end(), size_t{0});
    auto begin = order.begin();
    for (const int64_t count : group.counts) {
      const auto end = order.begin() + count;
      std::stable_sort(begin, end,
                       [&](size_t a, size_t b) { return importance[a] > importance[b]; });
      begin = end;
    }
    for (const ChannelGroup::Axis& axis : group.axes) {
      permute(*by_name.at(axis.parameter), axis.dimension, order, values);
    }
  }
}

}  // namespace chanas
