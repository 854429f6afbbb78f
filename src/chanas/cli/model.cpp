#include "chanas/cli/model.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/graph/passes.h"

namespace chanas {
namespace {

// A file that cannot be read, or holds something else, is left to load_network's words.
bool is_graph_file(const std::string& path) {
  if (!path.ends_with(".json")) return false;
  const StatusOr<std::string> text = read_file(path);
  if (!text.ok()) return false;
  const StatusOr<Json> json = parse_json(*text);
  return json.ok() && json->is_object() && json->contains("ops");
}

StatusOr<Graph> read_graph(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(Json json, read_json(path));
  return graph_from_json(json);
}

StatusOr<Model> read_graph_file(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(Graph graph, read_graph(path));
  CHANAS_RETURN_IF_ERROR(run_passes(graph, nullptr));
  Model model;
  model.name = std::filesystem::path(path).stem().string();
  model.weight_bytes = weight_bytes(graph);
  CHANAS_ASSIGN_OR_RETURN(model.cut, cut_graph(graph));
  return model;
}

}  // namespace

Model model_of(const Network& network) {
  return {network.name, cut_network(network), params(network) * int64_t{sizeof(float)}};
}

StatusOr<Model> load_model(const std::string& name_or_path) {
  if (is_graph_file(name_or_path)) {
    StatusOr<Model> model = read_graph_file(name_or_path);
    if (!model.ok()) return annotate(model.status(), name_or_path);
    return model;
  }
  CHANAS_ASSIGN_OR_RETURN(Network network, load_network(name_or_path));
  return model_of(network);
}

StatusOr<Graph> load_unfused(const std::string& name_or_path) {
  if (is_graph_file(name_or_path)) {
    StatusOr<Graph> graph = read_graph(name_or_path);
    if (!graph.ok()) return annotate(graph.status(), name_or_path);
    return graph;
  }
  CHANAS_ASSIGN_OR_RETURN(Network network, load_network(name_or_path));
  return lower(network);
}

}  // namespace chanas
