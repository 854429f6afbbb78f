#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/file.h"
#include "chanas/deploy/library.h"
#include "chanas/schedule/packing.h"

namespace chanas {

std::vector<std::pair<std::string, std::string>> export_templates();  // embedded templates/
std::vector<std::pair<std::string, std::string>> runtime_sources();   // embedded runtime/

namespace {

using Substitutions = std::map<std::string, std::string>;

// A C string literal.
std::string literal(std::string_view text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '?' || c < 32 || c >= 127) {
      out += fmt::format("\\{:03o}", c);  // '?' too: no trigraphs
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

// Replaces every @NAME@; an unknown one is a bug.
std::string fill(const std::string& text, const Substitutions& values) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t open = text.find('@', at);
    size_t close = open == std::string::npos ? open : text.find('@', open + 1);
    if (close == std::string::npos) return out + text.substr(at);
    auto value = values.find(text.substr(open + 1, close - open - 1));
    CHANAS_CHECK(value != values.end()) << text.substr(open, close - open + 1);
    out += text.substr(at, open - at) + value->second;
    at = close + 1;
  }
  return out;
}

std::string find_template(const std::string& name) {
  for (const auto& [file, text] : export_templates()) {
    if (file == name) return text;
  }
  CHANAS_CHECK(false) << "no template " << name;
  return "";
}

size_t input_count(const Stage& stage) { return stage.inputs.size(); }

// Declarations and one adapter per distinct kernel, from the list form of the stage table to the
// kernel's own argument list.
void add_stages(const ExportRequest& request, const std::vector<StageObject>& objects,
                Substitutions& s) {
  const ExecutionPlan& plan = request.plan;
  std::set<std::string> seen;
  size_t most = 1;
  std::string declarations, calls, table;
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const Stage& stage = plan.stages[i];
    const std::string& symbol = objects[i].symbol;
    most = std::max(most, input_count(stage));
    if (seen.insert(symbol).second) {
      std::string parameters, arguments;
      for (size_t k = 0; k < input_count(stage); ++k) {
        parameters += ", chanas_halide_buffer*";
        arguments += fmt::format(", inputs[{}]", k);
      }
      declarations += fmt::format(
          "int {}(void* context{}, chanas_halide_buffer* weights, chanas_halide_buffer* output);\n",
          symbol, parameters);
      calls += fmt::format(
          "static int call_{}(void* context, chanas_halide_buffer** inputs, chanas_halide_buffer* "
          "weights,\n"
          "                   chanas_halide_buffer* output) {{\n  return {}(context{}, weights, "
          "output);\n}}\n",
          symbol, symbol, arguments);
    }
    ScheduleSpace space = schedule_space(stage.workload, plan.target, plan.threads);
    std::string inputs;
    for (int input : stage.inputs) inputs += fmt::format("{}{}", inputs.empty() ? "" : ", ", input);
    table += fmt::format("    {{call_{}, {{{}}}, {}, {}, {}, {}, {}}},\n", symbol, inputs,
                         input_count(stage), stage.output, stage.weight_offset,
                         packing(space, stage.schedule).size,
                         literal(stage.name + ": " + stage.workload.describe()));
  }
  s["STAGE_DECLARATIONS"] = declarations;
  s["STAGE_CALLS"] = calls;
  s["STAGE_TABLE"] = table;
  s["STAGES"] = std::to_string(plan.stages.size());
  s["MAX_INPUTS"] = std::to_string(most);
}

// Instructions that the kernels may use, checked before the first of them runs: by Halide's name of
// the feature, what target/cpuinfo.cpp asks of a machine that has it (names as compilers know
// them). No more than that: a guest whose hypervisor hides one of the others runs what it has
// measured.
std::string cpu_check(const ExportRequest& request) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> features = {
      {"sse41", {"sse4.1"}},
      {"avx", {"avx"}},
      {"avx2", {"avx2"}},
      {"fma", {"fma"}},
      {"avx512", {"avx512f", "avx512cd"}},
      {"avx512_skylake", {"avx512bw", "avx512dq", "avx512vl"}},
      {"avx512_cannonlake", {"avx512ifma"}},
      {"avx512_sapphirerapids", {"avx512bf16"}}};
  const std::string triple = request.plan.target.triple + "-";
  if (!triple.starts_with("x86-64")) return "";
  std::set<std::string> needed;
  for (const auto& [halide, names] : features) {
    if (triple.find("-" + halide + "-") == std::string::npos) continue;
    needed.insert(names.begin(), names.end());
  }
  if (needed.empty()) return "";
  std::string conditions;
  for (const std::string& name : needed) {
    conditions += fmt::format("{}!__builtin_cpu_supports(\"{}\")",
                              conditions.empty() ? "" : " ||\n      ", name);
  }
  return fmt::format("  if ({}) return {}_ERROR_CPU;\n", conditions, "@MACRO@");
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  return text;
}

Substitutions substitutions(const ExportRequest& request, const std::vector<StageObject>& objects) {
  const ExecutionPlan& plan = request.plan;
  Substitutions s;
  s["SYMBOL"] = request.symbol;
  s["MACRO"] = upper(request.symbol);
  const Shape& image = request.graph.ops[static_cast<size_t>(request.graph.input_ops()[0])].shape;
  const Shape& output = request.graph.output().shape;
  s["NETWORK"] = display_name(request);
  s["TARGET"] = plan.target.name;
  s["TRIPLE"] = plan.target.triple;
  s["HEIGHT"] = std::to_string(image.h);
  s["WIDTH"] = std::to_string(image.w);
  s["CHANNELS"] = std::to_string(image.c);
  s["CLASSES"] = std::to_string(output.c);
  s["OUTPUT_FLOATS"] = std::to_string(output.elements());
  s["THREADS"] = std::to_string(plan.threads);
  s["MEAN"] = fmt::format("{:.2f}", kImageMean);
  s["STD"] = fmt::format("{:.2f}", kImageStd);
  s["INPUT"] = std::to_string(plan.input);
  s["OUTPUT"] = std::to_string(plan.output);
  s["BUFFERS"] = std::to_string(plan.buffers.size());
  s["ACTIVATION_BYTES"] = std::to_string(plan.activation_bytes);
  s["WEIGHT_FLOATS"] = std::to_string(plan.weight_floats);
  for (const Buffer& b : plan.buffers) {
    s["VALUES"] +=
        fmt::format("    {{{}, {}, {}, {}}},\n", b.shape.h, b.shape.w, b.shape.c, b.offset_bytes);
  }
  for (int i = 0; i < output.c; ++i) {
    auto index = static_cast<size_t>(i);
    s["CLASS_NAMES"] +=
        "    " + literal(index < request.classes.size() ? request.classes[index] : "") + ",\n";
  }
  Json info = {{"chanas", CHANAS_VERSION},
               {"network", s["NETWORK"]},
               {"target", plan.target.name},
               {"triple", plan.target.triple},
               {"threads", plan.threads},
               {"macs", macs(request.graph)},
               {"params", parameter_count(request.graph)},
               {"resolution", image.h},
               {"classes", output.c},
               {"expected_us", request.expected_us},
               {"test_accuracy", request.test_accuracy}};
  s["INFO"] = literal(info.dump());
  s["CPU_CHECK"] = fill(cpu_check(request), s);
  add_stages(request, objects, s);
  return s;
}

// <name>.bin and the assembly text that takes it in as `const float <symbol>_<name>[]`, with 64
// bytes of zeros behind it.
Status write_floats(const std::string& folder, const std::string& symbol, const std::string& name,
                    const std::vector<float>& values, std::string& assembly) {
  assembly += fmt::format(
      "    .balign 4096\n    .globl {0}_{1}\n    .hidden {0}_{1}\n{0}_{1}:\n"
      "    .incbin \"{1}.bin\"\n    .zero 64\n",
      symbol, name);
  return write_file_atomic(
      join_path(folder, name + ".bin"),
      {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

constexpr const char* kDataSection = "    .section .rodata\n";
constexpr const char* kNoExecutableStack = "    .section .note.GNU-stack,\"\",%progbits\n";

}  // namespace

Status write_sources(const ExportRequest& request, const std::vector<StageObject>& objects,
                     const std::vector<float>& weights, const Reference& reference,
                     const std::string& folder) {
  Substitutions s = substitutions(request, objects);
  std::string source = join_path(folder, "src");
  CHANAS_RETURN_IF_ERROR(make_folder(source));
  const std::string& symbol = request.symbol;
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(folder, symbol + ".h"), fill(find_template("model.h.in"), s)));
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(folder, "example.c"), fill(find_template("example.c.in"), s)));
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(source, "model.c"), fill(find_template("model.c.in"), s)));
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(source, "selftest.c"), fill(find_template("selftest.c.in"), s)));
  std::string data = kDataSection;
  CHANAS_RETURN_IF_ERROR(write_floats(source, symbol, "weights", weights, data));
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(source, "weights.S"), data + kNoExecutableStack));
  data = kDataSection;
  CHANAS_RETURN_IF_ERROR(write_floats(source, symbol, "reference_input", reference.input, data));
  CHANAS_RETURN_IF_ERROR(write_floats(source, symbol, "reference_output", reference.output, data));
  CHANAS_RETURN_IF_ERROR(
      write_file_atomic(join_path(source, "reference.S"), data + kNoExecutableStack));
  for (const auto& [name, text] : runtime_sources()) {
    CHANAS_RETURN_IF_ERROR(write_file_atomic(join_path(source, name), text));
  }
  return absl::OkStatus();
}

}  // namespace chanas
