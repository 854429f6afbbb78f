// Network files. One reader for TOML and JSON; the writers spell every field out.

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "chanas/arch/document.h"
#include "chanas/arch/embedded.h"
#include "chanas/arch/network.h"

namespace chanas {
namespace {

// What a file says once for all its layers.
struct Defaults {
  Activation act = Activation::kRelu;
  Activation se_gate = Activation::kHSigmoid;
};

void read_stem(Fields fields, const Defaults& defaults, Stem* stem) {
  stem->act = defaults.act;
  fields.require("out", &stem->c_out, 1, kMaxChannels);
  fields.read("kernel", &stem->kernel, 1, kMaxKernel);
  fields.read("stride", &stem->stride, 1, kMaxStride);
  fields.read("act", &stem->act);
}

void read_head(Fields fields, const Defaults& defaults, Head* head) {
  head->conv_act = head->mix_act = defaults.act;
  fields.read("conv", &head->conv_channels, 0, kMaxChannels);
  fields.read("conv_act", &head->conv_act);
  fields.read("mix", &head->mix_channels, 0, kMaxChannels);
  fields.read("mix_bias", &head->mix_bias);
  fields.read("mix_act", &head->mix_act);
}

// "mid" states channels, "expand" a ratio. Without either there is no expand convolution.
void read_width(Fields& fields, Unit* unit) {
  double ratio = 1;
  unit->c_mid = unit->c_in;
  if (fields.has("mid") && fields.has("expand")) {
    return fields.fail("expand", "cannot stand beside mid, which states the same width");
  }
  if (!fields.has("mid") && !fields.has("expand")) return fields.missing("mid or expand");
  fields.read("mid", &unit->c_mid, 1, kMaxChannels);
  fields.read("expand", &ratio, 0.125, 64.0);
  if (fields.has("expand")) unit->c_mid = static_cast<int>(std::lround(unit->c_in * ratio));
  unit->expand = unit->c_mid != unit->c_in;
  fields.read("expand_conv", &unit->expand);
}

// "se": squeeze channels, or true for a quarter of mid.
void read_se(Fields& fields, const Defaults& defaults, Unit* unit) {
  if (fields.is_boolean("se")) {
    bool on = false;
    fields.read("se", &on);
    unit->se_channels = on ? se_width(unit->c_mid) : 0;
  } else {
    fields.read("se", &unit->se_channels, 0, kMaxChannels);
  }
  if (unit->se_channels > 0) unit->se_gate = defaults.se_gate;
  fields.read("se_gate", &unit->se_gate);
}

// One entry of `units` on top of size and channels of what comes before it.
Unit read_unit(Fields& fields, const Defaults& defaults, int h, int c, bool first) {
  Unit unit;
  unit.h_in = h;
  unit.c_in = c;
  unit.act = defaults.act;
  if (first) {
    // Written for readers' sake; a file that states them wrongly is wrong somewhere else too.
    fields.read("h", &unit.h_in, 1, kMaxResolution);
    fields.read("in", &unit.c_in, 1, kMaxChannels);
    if (unit.h_in != h && !fields.failed()) {
      fields.fail("h", fmt::format("found {}, but {} comes in", unit.h_in, h));
    }
    if (unit.c_in != c && !fields.failed()) {
      fields.fail("in", fmt::format("found {}, but {} channels come in", unit.c_in, c));
    }
    fields.read("stride", &unit.stride, 1, kMaxStride);
  }
  fields.require("kernel", &unit.kernel, 1, kMaxKernel);
  fields.require("out", &unit.c_out, 1, kMaxChannels);
  fields.read("act", &unit.act);
  read_width(fields, &unit);
  read_se(fields, defaults, &unit);
  unit.residual = unit.stride == 1 && unit.c_in == unit.c_out;
  if (first || unit.residual) fields.read("residual", &unit.residual);
  return unit;
}

StatusOr<Network> read_network(const Document& document) {
  Network network;
  network.name = document.stem();
  Defaults defaults;
  Fields root(document);
  root.read("name", &network.name);
  root.require("resolution", &network.resolution, 1, kMaxResolution);
  root.read("channels", &network.channels, 1, kMaxChannels);
  root.read("classes", &network.head.classes, 1, kMaxClasses);
  root.read("dropout", &network.dropout, 0.0, 1.0);
  root.read("bn_epsilon", &network.bn_epsilon, 0.0, 1.0);
  root.read("act", &defaults.act);
  root.read("se_gate", &defaults.se_gate);
  read_stem(root.table("stem"), defaults, &network.stem);
  int h = strided(network.resolution, network.stem.stride);
  int c = network.stem.c_out;
  if (!root.has("units")) root.missing("units");
  for (Fields& entry : root.tables("units", kMaxUnits)) {
    int repeat = 1;
    entry.read("repeat", &repeat, 1, kMaxUnits);
    for (int i = 0; i < repeat; ++i) {
      Unit unit = read_unit(entry, defaults, h, c, i == 0);
      if (root.failed()) break;
      if (Status status = validate(unit); !status.ok()) entry.fail("", status);
      network.units.push_back(unit);
      h = unit.h_out();
      c = unit.c_out;
    }
    if (network.units.size() > static_cast<size_t>(kMaxUnits)) {
      entry.fail("", fmt::format("more than {} units in all", kMaxUnits));
      break;
    }
  }
  read_head(root.table("head"), defaults, &network.head);
  CHANAS_RETURN_IF_ERROR(root.finish());
  CHANAS_RETURN_IF_ERROR(document.annotate(validate(network)));
  return network;
}

}  // namespace

StatusOr<Network> parse_network(std::string_view toml, std::string_view file_name) {
  CHANAS_ASSIGN_OR_RETURN(Document document, Document::from_toml(toml, file_name));
  return read_network(document);
}

StatusOr<Network> network_from_json(const Json& json) {
  return read_network(Document::from_json(json));
}

Json to_json(const Network& network) {
  Json units = Json::array();
  for (const Unit& unit : network.units) {
    units.push_back({{"h", unit.h_in},
                     {"in", unit.c_in},
                     {"mid", unit.c_mid},
                     {"out", unit.c_out},
                     {"kernel", unit.kernel},
                     {"stride", unit.stride},
                     {"expand_conv", unit.expand},
                     {"se", unit.se_channels},
                     {"se_gate", activation_name(unit.se_gate)},
                     {"act", activation_name(unit.act)},
                     {"residual", unit.residual}});
  }
  return {{"name", network.name},
          {"resolution", network.resolution},
          {"channels", network.channels},
          {"classes", network.head.classes},
          {"dropout", network.dropout},
          {"bn_epsilon", network.bn_epsilon},
          {"stem",
           {{"out", network.stem.c_out},
            {"kernel", network.stem.kernel},
            {"stride", network.stem.stride},
            {"act", activation_name(network.stem.act)}}},
          {"units", std::move(units)},
          {"head",
           {{"conv", network.head.conv_channels},
            {"conv_act", activation_name(network.head.conv_act)},
            {"mix", network.head.mix_channels},
            {"mix_bias", network.head.mix_bias},
            {"mix_act", activation_name(network.head.mix_act)}}}};
}

std::string network_to_toml(const Network& network) {
  const Stem& stem = network.stem;
  const Head& head = network.head;
  std::string text = fmt::format(
      "name = \"{}\"\nresolution = {}\nchannels = {}\nclasses = {}\ndropout = {}\nbn_epsilon = {}\n"
      "stem = {{ out = {}, kernel = {}, stride = {}, act = \"{}\" }}\nunits = [\n",
      network.name, network.resolution, network.channels, head.classes, network.dropout,
      network.bn_epsilon, stem.c_out, stem.kernel, stem.stride, activation_name(stem.act));
  for (const Unit& unit : network.units) {
    text += fmt::format(
        "  {{ h = {}, in = {}, mid = {}, out = {}, kernel = {}, stride = {}, expand_conv = {}, "
        "se = {}, se_gate = \"{}\", act = \"{}\", residual = {} }},\n",
        unit.h_in, unit.c_in, unit.c_mid, unit.c_out, unit.kernel, unit.stride, unit.expand,
        unit.se_channels, activation_name(unit.se_gate), activation_name(unit.act), unit.residual);
  }
  return text + fmt::format(
                    "]\nhead = {{ conv = {}, conv_act = \"{}\", mix = {}, mix_bias = {}, "
                    "mix_act = \"{}\" }}\n",
                    head.conv_channels, activation_name(head.conv_act), head.mix_channels,
                    head.mix_bias, activation_name(head.mix_act));
}

std::vector<std::string> zoo_names() { return names_of(embedded_zoo()); }

StatusOr<Network> load_network(const std::string& name_or_path) {
  CHANAS_ASSIGN_OR_RETURN(auto file, find_text(embedded_zoo(), name_or_path, "network"));
  if (!name_or_path.ends_with(".json")) return parse_network(file.second, file.first);
  const StatusOr<Json> json = parse_json(file.second);
  if (!json.ok()) return annotate(json.status(), file.first);
  StatusOr<Network> network = network_from_json(*json);
  if (!network.ok()) return annotate(network.status(), file.first);
  return network;
}

}  // namespace chanas
