#include "chanas/deploy/deploy.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "chanas/base/child_process.h"
#include "chanas/base/file.h"
#include "chanas/base/fingerprint.h"
#include "chanas/base/rng.h"
#include "chanas/deploy/library.h"
#include "chanas/graph/interpreter.h"
#include "chanas/graph/onnx.h"
#include "chanas/graph/passes.h"
#include "chanas/graph/safetensors.h"

namespace chanas {

std::string display_name(const ExportRequest& request) {
  return request.name.empty() ? request.symbol : request.name;
}

int64_t parameter_count(const Graph& graph) {
  int64_t count = 0;
  for (const auto& [name, shape] : parameter_shapes(graph)) {
    if (name.ends_with(".running_mean") || name.ends_with(".running_var")) continue;
    count += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  }
  return count;
}

namespace {

// The reference interpreter, not the library, says what is right.
Reference reference_run(const Graph& graph, const Parameters& parameters) {
  Reference reference;
  Rng rng(1, "reference input");
  const Shape& shape = graph.ops[static_cast<size_t>(graph.input_ops()[0])].shape;
  for (int64_t i = 0; i < shape.elements(); ++i) {
    reference.input.push_back(static_cast<float>(rng.normal()));
  }
  reference.output = interpret(graph, parameters, {reference.input}).back();
  return reference;
}

std::string pkg_config(const ExportRequest& request) {
  return fmt::format(
      "prefix=${{pcfiledir}}\n\nName: {0}\nDescription: {1}, an image classifier made by CHaNAS\n"
      "Version: 1.0.0\nCflags: -I${{prefix}}\nLibs: -L${{prefix}} -l{0}\nLibs.private: -lpthread "
      "-lm\n",
      request.symbol, display_name(request));
}

// Everything below a folder, relative, sorted.
std::vector<std::string> files_below(const std::string& folder) {
  std::set<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error)) {
    if (entry.is_regular_file())
      files.insert(std::filesystem::relative(entry.path(), folder).string());
  }
  return {files.begin(), files.end()};
}

Status write_manifest(const ExportRequest& request, const Reference& reference,
                      const std::string& folder) {
  Json files = Json::object();
  for (const std::string& file : files_below(folder)) {
    CHANAS_ASSIGN_OR_RETURN(files[file], sha256_file(join_path(folder, file)));
  }
  Json manifest = {
      {"format", 1},
      {"symbol", request.symbol},
      {"network", display_name(request)},
      {"target", to_json(request.plan.target)},
      {"threads", request.plan.threads},
      {"macs", macs(request.graph)},
      {"params", parameter_count(request.graph)},
      {"classes", request.classes},
      {"input",
       {{"layout", "NHWC float32, (pixel / 255 - mean) / std"},
        {"mean", kImageMean},
        {"std", kImageStd}}},
      {"expected_latency_us",
       {{"median", request.expected_us},
        {"p10", request.expected_p10_us},
        {"p90", request.expected_p90_us}}},
      {"test_accuracy", request.test_accuracy},
      {"reference", {{"logits", reference.output}, {"tolerance", 1e-4}}},
      {"files", files},
  };
  if (!request.provenance.empty()) {
    CHANAS_ASSIGN_OR_RETURN(manifest["provenance"], parse_json(request.provenance));
  }
  return write_json(join_path(folder, "manifest.json"), manifest);
}

// Where the export goes, without a slash at the end: its neighbours are named after it.
StatusOr<std::string> target_folder(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  const std::string name = folder.filename().string();
  if (name.empty() || name == "." || name == "..") {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" cannot be exported to: expected a folder's own name, as in {}", path,
                    join_path(path.empty() ? "." : path, "export")));
  }
  std::error_code error;
  if (!std::filesystem::exists(folder, error)) return folder.string();
  const bool replaceable = std::filesystem::is_directory(folder, error) &&
                           (std::filesystem::is_empty(folder, error) ||
                            (std::filesystem::exists(folder / "manifest.json", error) &&
                             std::filesystem::exists(folder / "plan.json", error)));
  if (replaceable) return folder.string();
  return absl::InvalidArgumentError(
      fmt::format("{} is there and no export (it lacks manifest.json or plan.json), and an export "
                  "replaces the whole folder; name another one, or remove it",
                  folder.string()));
}

// `fresh` takes the place of `folder`; a kill in between leaves the old one beside it.
Status replace_folder(const std::string& fresh, const std::string& folder) {
  std::error_code error, ignored;
  const std::string old = fmt::format("{}.old.{}", folder, ::getpid());
  const bool replaces = std::filesystem::exists(folder, ignored);
  if (replaces) std::filesystem::rename(folder, old, error);
  if (!error) {
    std::filesystem::rename(fresh, folder, error);
    if (error && replaces) std::filesystem::rename(old, folder, ignored);
  }
  if (error) {
    return absl::InternalError(fmt::format("{}: cannot be replaced: {}", folder, error.message()));
  }
  std::filesystem::remove_all(old, ignored);
  return absl::OkStatus();
}

}  // namespace

Status check_symbol(const std::string& symbol) {
  auto letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const bool fits = !symbol.empty() && symbol.size() <= 40 && letter(symbol[0]) &&
                    std::all_of(symbol.begin(), symbol.end(), [&](char c) {
                      return letter(c) || (c >= '0' && c <= '9') || c == '_';
                    });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format(
      "\"{}\" cannot prefix C symbols: expected [a-z][a-z0-9_]*, at most 40 characters", symbol));
}

StatusOr<ExportResult> export_network(const ExportRequest& request,
                                      const std::function<void(const std::string&)>& progress) {
  CHANAS_RETURN_IF_ERROR(check_symbol(request.symbol));
  CHANAS_ASSIGN_OR_RETURN(const std::string folder, target_folder(request.folder));
  const Graph& graph = request.graph;
  CHANAS_RETURN_IF_ERROR(annotate(check_parameters(graph, request.parameters), "weights"));
  Graph fused = graph;
  Parameters folded = request.parameters;
  CHANAS_RETURN_IF_ERROR(run_passes(fused, &folded));
  CHANAS_ASSIGN_OR_RETURN(std::vector<float> weights, pack_plan(request.plan, folded));
  Reference reference = reference_run(graph, request.parameters);

  std::string fresh = fmt::format("{}.tmp.{}", folder, ::getpid());
  struct Remove {
    std::string path;
    ~Remove() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } remove_on_failure{fresh};
  CHANAS_RETURN_IF_ERROR(make_folder(join_path(fresh, "src")));

  progress(fmt::format("compiling {} stages", request.plan.stages.size()));
  CHANAS_ASSIGN_OR_RETURN(
      std::vector<StageObject> stages,
      compile_stage_objects(request.plan, request.symbol, join_path(fresh, "src")));
  progress("building the library");
  CHANAS_RETURN_IF_ERROR(write_sources(request, stages, weights, reference, fresh));
  CHANAS_RETURN_IF_ERROR(build_library(request, stages, fresh));

  progress("writing ONNX, weights and manifest");
  CHANAS_ASSIGN_OR_RETURN(std::string onnx, to_onnx(graph, request.parameters, request.symbol));
  CHANAS_RETURN_IF_ERROR(write_file_atomic(join_path(fresh, request.symbol + ".onnx"), onnx));
  CHANAS_RETURN_IF_ERROR(write_json(join_path(fresh, "graph.json"), to_json(graph)));
  SafetensorsFile safetensors;
  safetensors.parameters = request.parameters;
  safetensors.metadata = {{"format", "pt"}, {"network", request.name}};
  CHANAS_RETURN_IF_ERROR(write_safetensors(join_path(fresh, "weights.safetensors"), safetensors));
  CHANAS_RETURN_IF_ERROR(write_json(join_path(fresh, "plan.json"), to_json(request.plan)));
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(fresh, request.symbol + ".pc"), pkg_config(request)));
  CHANAS_RETURN_IF_ERROR(write_manifest(request, reference, fresh));
  CHANAS_RETURN_IF_ERROR(replace_folder(fresh, folder));

  ExportResult result;
  result.folder = folder;
  result.files = files_below(folder);
  std::error_code error;
  result.library_bytes = static_cast<int64_t>(
      std::filesystem::file_size(join_path(folder, "lib" + request.symbol + ".so"), error));
  result.weight_bytes = static_cast<int64_t>(weights.size() * sizeof(float));
  return result;
}

StatusOr<SelftestResult> run_selftest(const std::string& folder, int threads, int samples) {
  constexpr double kTimeout = 120;
  CHANAS_ASSIGN_OR_RETURN(
      ChildProcess child,
      ChildProcess::start({join_path(folder, "selftest"), "--json", "--threads",
                           std::to_string(threads), "--samples", std::to_string(samples)}));
  StatusOr<std::string> line = child.read_line(kTimeout);
  if (!line.ok()) {
    return absl::InternalError(
        fmt::format("{}/selftest gave no result: {}", folder, line.status().message()));
  }
  CHANAS_ASSIGN_OR_RETURN(Json json, parse_json(*line));
  SelftestResult result;
  result.correct = json.value("correct", false);
  result.max_relative_error = json.value("max_relative_error", 0.0);
  result.median_us = json.value("median_us", 0.0);
  result.p10_us = json.value("p10_us", 0.0);
  result.p90_us = json.value("p90_us", 0.0);
  result.min_us = json.value("min_us", 0.0);
  result.threads = json.value("threads", 1);
  return result;
}

}  // namespace chanas
