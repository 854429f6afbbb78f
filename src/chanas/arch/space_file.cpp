// Space files: TOML for people, JSON in run directories, one reader for both.

#include <nlohmann/json.hpp>

#include "chanas/arch/document.h"
#include "chanas/arch/embedded.h"
#include "chanas/arch/space.h"
#include "chanas/base/fingerprint.h"

namespace chanas {
namespace {

StatusOr<ArchSpace> read_space(const Document& document) {
  ArchSpace space;
  space.name = document.stem();
  Fields root(document);
  root.read("name", &space.name);
  root.read("channels", &space.channels, 1, kMaxChannels);
  root.require("classes", &space.classes, 2, kMaxClasses);
  root.require("resolutions", &space.resolutions, 1, kMaxResolution);
  root.require("widths", &space.widths, 0.125, 8.0);
  root.require("kernels", &space.kernels, 1, kMaxKernel);
  root.require("expands", &space.expands, 1, 16);
  root.require("depths", &space.depths, 1, 16);

  Fields stem = root.table("stem");
  stem.require("channels", &space.stem_channels, 1, kMaxChannels);
  stem.read("stride", &space.stem_stride, 1, kMaxStride);
  stem.read("act", &space.stem_act);

  space.first_channels = 0;
  Fields first = root.table("first");
  first.read("channels", &space.first_channels, 0, kMaxChannels);
  first.read("stride", &space.first_stride, 1, kMaxStride);
  first.read("act", &space.first_act);

  if (!root.has("blocks")) root.missing("blocks");
  for (Fields& entry : root.tables("blocks", 256)) {
    BlockSpec block;
    entry.require("channels", &block.channels, 1, kMaxChannels);
    entry.read("stride", &block.stride, 1, kMaxStride);
    entry.read("se", &block.se);
    entry.read("act", &block.act);
    space.blocks.push_back(block);
  }

  space.head_channels = space.mix_channels = 0;
  Fields head = root.table("head");
  head.read("channels", &space.head_channels, 0, kMaxChannels);
  head.read("mix", &space.mix_channels, 0, kMaxChannels);
  head.read("act", &space.head_act);
  head.read("dropout", &space.dropout, 0.0, 1.0);

  CHANAS_RETURN_IF_ERROR(root.finish());
  CHANAS_RETURN_IF_ERROR(document.annotate(validate(space)));
  return space;
}

}  // namespace

StatusOr<ArchSpace> parse_space(std::string_view toml, std::string_view file_name) {
  CHANAS_ASSIGN_OR_RETURN(Document document, Document::from_toml(toml, file_name));
  return read_space(document);
}

StatusOr<ArchSpace> space_from_json(const Json& json) {
  return read_space(Document::from_json(json));
}

Json to_json(const ArchSpace& space) {
  Json blocks = Json::array();
  for (const BlockSpec& block : space.blocks) {
    blocks.push_back({{"channels", block.channels},
                      {"stride", block.stride},
                      {"se", block.se},
                      {"act", activation_name(block.act)}});
  }
  return {{"name", space.name},
          {"channels", space.channels},
          {"classes", space.classes},
          {"resolutions", space.resolutions},
          {"widths", space.widths},
          {"kernels", space.kernels},
          {"expands", space.expands},
          {"depths", space.depths},
          {"stem",
           {{"channels", space.stem_channels},
            {"stride", space.stem_stride},
            {"act", activation_name(space.stem_act)}}},
          {"first",
           {{"channels", space.first_channels},
            {"stride", space.first_stride},
            {"act", activation_name(space.first_act)}}},
          {"blocks", std::move(blocks)},
          {"head",
           {{"channels", space.head_channels},
            {"mix", space.mix_channels},
            {"act", activation_name(space.head_act)},
            {"dropout", space.dropout}}}};
}

std::string space_fingerprint(const ArchSpace& space) {
  Json json = to_json(space);
  json.erase("name");
  return fingerprint(json.dump());
}

std::vector<std::string> space_names() { return names_of(embedded_spaces()); }

StatusOr<ArchSpace> load_space(const std::string& name_or_path) {
  CHANAS_ASSIGN_OR_RETURN(auto file, find_text(embedded_spaces(), name_or_path, "space"));
  return parse_space(file.second, file.first);
}

}  // namespace chanas
