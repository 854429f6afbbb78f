// chanas-nn: one job of training per process; job.h has the protocol.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "chanas/base/cancellation.h"
#include "chanas/base/file.h"
#include "chanas/data/sheet.h"
#include "chanas/graph/safetensors.h"
#include "chanas/supernet/collective.h"
#include "chanas/supernet/cpu.h"
#include "chanas/supernet/evaluate.h"
#include "chanas/supernet/job.h"
#include "chanas/supernet/plan.h"
#include "chanas/supernet/predictor.h"
#include "chanas/supernet/trainer.h"

namespace chanas {
namespace {

const auto kStart = std::chrono::steady_clock::now();

constexpr int kReferenceImages = 4;

// Of several ranks only the first one talks to the client.
bool g_speaks = true;
std::FILE* g_events = stdout;

// Events alone go to standard output: what libraries print there (NCCL does) goes to the errors.
void keep_standard_output_for_events() {
  const int events = ::dup(STDOUT_FILENO);
  if (events < 0 || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return;
  if (std::FILE* file = ::fdopen(events, "w")) g_events = file;
}

void emit(const std::string& event, Json json) {
  if (!g_speaks) return;
  json["event"] = event;
  // Texts may hold file names in any encoding.
  const std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::fwrite(line.data(), 1, line.size(), g_events);
  std::fflush(g_events);
}

void note(const std::string& text) { emit("note", {{"text", text}}); }
void warn(const std::string& text) { emit("warning", {{"text", text}}); }

// Everything most jobs begin with.
struct Setting {
  ArchSpace space;
  DataConfig data;
  Dataset dataset;
};

StatusOr<Setting> load_setting(const Json& job, int threads) {
  Setting setting;
  CHANAS_ASSIGN_OR_RETURN(setting.space, space_from_json(job.at("space")));
  CHANAS_RETURN_IF_ERROR(annotate(from_json(job.at("data"), setting.data), "data"));
  const int size = stored_size(setting.data, setting.space.resolutions.back());
  CHANAS_ASSIGN_OR_RETURN(setting.dataset,
                          load_dataset(setting.data, size, set_threads(threads), warn));
  return setting;
}

Status run_data(const Json& job) {
  CHANAS_ASSIGN_OR_RETURN(Setting setting, load_setting(job, 0));
  if (job.contains("sheet")) {
    CHANAS_RETURN_IF_ERROR(write_png(job.at("sheet").get<std::string>(),
                                     contact_sheet(setting.dataset, Part::kTrain, 12)));
  }
  emit("result", to_json(setting.dataset.info));
  return absl::OkStatus();
}

// Ranks on one machine share its cores, unless the launcher has divided them already.
int threads_of_rank(const Launch& launch) {
  const int cores = set_threads(0);
  const auto all = static_cast<int>(std::thread::hardware_concurrency());
  return cores < all ? cores : std::max(1, cores / launch.local_world);
}

Status run_train(const Json& job) {
  TrainConfig config;
  CHANAS_RETURN_IF_ERROR(annotate(from_json(job.at("train"), config), "train"));
  CHANAS_RETURN_IF_ERROR(validate(config));
  CHANAS_ASSIGN_OR_RETURN(const Launch launch, launch_from_environment());
  g_speaks = launch.rank == 0;
  TrainHooks hooks;
  CHANAS_ASSIGN_OR_RETURN(hooks.device,
                          open_device(config.device, config.precision, launch.local_rank));
  CHANAS_ASSIGN_OR_RETURN(const std::unique_ptr<Collective> ranks,
                          open_collective(launch, config.collective, hooks.device.gpu));
  if (config.threads == 0) config.threads = threads_of_rank(launch);
  StatusOr<Setting> loaded = load_setting(job, config.threads);
  CHANAS_RETURN_IF_ERROR(ranks->agree(loaded.status()));
  const Setting setting = *std::move(loaded);
  hooks.ranks = ranks.get();
  hooks.start = kStart;
  hooks.warn = warn;
  hooks.note = note;
  hooks.progress = [](const TrainProgress& progress) { emit("progress", to_json(progress)); };
  std::optional<Arch> alone;
  if (job.contains("arch")) {
    CHANAS_ASSIGN_OR_RETURN(alone, arch_from_json(setting.space, job.at("arch")));
  }
  CHANAS_ASSIGN_OR_RETURN(TrainResult result, train(setting.space, setting.dataset, config,
                                                    job.at("folder").get<std::string>(), hooks,
                                                    alone ? &*alone : nullptr));
  emit("result", to_json(result));
  return absl::OkStatus();
}

void warn_if_few(const Evaluator& evaluator, int64_t wanted) {
  if (evaluator.recalibration_images() >= wanted) return;
  warn(fmt::format("{} training images for batch normalisation, {} were asked for",
                   evaluator.recalibration_images(), wanted));
}

Status run_evaluate(const Json& job) {
  EvaluateConfig config;
  CHANAS_RETURN_IF_ERROR(annotate(from_json(job.at("evaluate"), config), "evaluate"));
  CHANAS_ASSIGN_OR_RETURN(Part part, parse_part(config.part));
  if (part != Part::kRanking && part != Part::kTest) {
    return absl::InvalidArgumentError(
        fmt::format("part is \"{}\", expected ranking or test", config.part));
  }
  if (config.recalibration_images < 1) {
    return absl::InvalidArgumentError(fmt::format("recalibration_images is {}, expected at least 1",
                                                  config.recalibration_images));
  }
  CHANAS_ASSIGN_OR_RETURN(Setting setting, load_setting(job, config.threads));
  std::vector<Arch> archs;
  for (const Json& json : job.at("archs")) {
    CHANAS_ASSIGN_OR_RETURN(Arch arch, arch_from_json(setting.space, json));
    archs.push_back(std::move(arch));
  }
  CHANAS_ASSIGN_OR_RETURN(
      Supernet supernet,
      load_supernet(setting.space, setting.dataset, job.at("folder").get<std::string>(), warn));
  CHANAS_ASSIGN_OR_RETURN(const Device device, open_device(config.device, "float32"));
  supernet.use(device);
  Evaluator evaluator(setting.dataset, part, config.images, config.recalibration_images);
  warn_if_few(evaluator, config.recalibration_images);
  for (size_t i = 0; i < archs.size(); ++i) {
    CHANAS_RETURN_IF_ERROR(check_cancelled());
    emit("accuracy", {{"index", i}, {"accuracy", evaluator.accuracy(supernet, archs[i])}});
  }
  emit("result", Json::object());
  return absl::OkStatus();
}

Status run_fit_predictor(const Json& job) {
  PredictorConfig config;
  CHANAS_RETURN_IF_ERROR(annotate(from_json(job.at("predictor"), config), "predictor"));
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, space_from_json(job.at("space")));
  std::vector<PredictorSample> samples;
  for (const Json& json : job.at("samples")) {
    CHANAS_ASSIGN_OR_RETURN(Arch arch, arch_from_json(space, json.at("arch")));
    samples.push_back({std::move(arch), json.at("accuracy").get<double>()});
  }
  auto told = kStart;
  CHANAS_ASSIGN_OR_RETURN(
      PredictorFit result,
      fit(space, samples, config, job.at("path").get<std::string>(), [&](double share) {
        const auto now = std::chrono::steady_clock::now();
        if (now - told < std::chrono::milliseconds(200)) return;
        told = now;
        emit("progress", {{"share", share}});
      }));
  emit("result", to_json(result));
  return absl::OkStatus();
}

Status run_export(const Json& job) {
  CHANAS_ASSIGN_OR_RETURN(Setting setting, load_setting(job, job.at("threads").get<int>()));
  CHANAS_ASSIGN_OR_RETURN(Arch arch, arch_from_json(setting.space, job.at("arch")));
  const auto folder = job.at("to").get<std::string>();
  const int64_t recalibration = job.at("recalibration_images").get<int64_t>();
  CHANAS_ASSIGN_OR_RETURN(
      Supernet supernet,
      load_supernet(setting.space, setting.dataset, job.at("folder").get<std::string>(), warn));
  CHANAS_RETURN_IF_ERROR(make_folder(folder));

  Evaluator evaluator(setting.dataset, Part::kTest, 0, recalibration);
  warn_if_few(evaluator, recalibration);
  Subnet subnet = supernet.subnet(arch);
  evaluator.recalibrate(subnet);
  SubnetExport exported;
  exported.weights_path = join_path(folder, "weights.safetensors");
  exported.reference_path = join_path(folder, "reference.safetensors");
  exported.params = params(subnet.network());
  exported.test_images = evaluator.images();
  const Parameters parameters = subnet.parameters();
  CHANAS_RETURN_IF_ERROR(write_safetensors(exported.weights_path,
                                           {parameters, {{"arch", arch_id(setting.space, arch)}}}));

  // What was written, not what it was made from.
  const Subnet final_net(subnet.network(), parameters);
  exported.accuracy = evaluator.accuracy(final_net);
  const std::vector<int>& test = setting.dataset.part(Part::kTest);
  const size_t count = std::min<size_t>(kReferenceImages, test.size());
  const Batch batch =
      make_batch(setting.dataset, std::span(test).first(count), arch.cell.resolution);
  SafetensorsFile reference;
  const int64_t n = batch.n, r = arch.cell.resolution;
  reference.parameters.set("input", {{n, r, r, 3}, batch.images.at(arch.cell.resolution)});
  reference.parameters.set("logits", {{n, setting.space.classes}, final_net.logits(batch)});
  CHANAS_RETURN_IF_ERROR(write_safetensors(exported.reference_path, reference));
  emit("result", to_json(exported));
  return absl::OkStatus();
}

const std::map<std::string, Status (*)(const Json&)>& jobs() {
  static const auto& all = *new std::map<std::string, Status (*)(const Json&)>{
      {"data", run_data},     {"evaluate", run_evaluate},
      {"export", run_export}, {"fit-predictor", run_fit_predictor},
      {"train", run_train},
  };
  return all;
}

StatusOr<Json> read_standard_input() {
  return parse_json(std::string(std::istreambuf_iterator<char>(std::cin), {}));
}

// The one place where LibTorch's, the JSON library's and the system's exceptions end.
Status run(const std::string& name, const std::string& path) {
  const auto job = jobs().find(name);
  if (job == jobs().end()) {
    return absl::InvalidArgumentError(fmt::format(
        "unknown job \"{}\", expected data, train, evaluate, fit-predictor or export", name));
  }
  CHANAS_ASSIGN_OR_RETURN(Json description, path == "-" ? read_standard_input() : read_json(path));
  try {
    return job->second(description);
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", path, error.what()));
  } catch (const PeerLost& lost) {
    return lost.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "out of memory; take smaller images, a smaller batch or a smaller space");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

}  // namespace
}  // namespace chanas

int main(int argc, char** argv) {
  chanas::install_signal_handlers();
  chanas::prepare_cpu();
  if (argc != 3) {
    std::fputs("usage: chanas-nn <data|train|evaluate|fit-predictor|export> <job.json, or ->\n",
               stderr);
    return 2;
  }
  chanas::keep_standard_output_for_events();
  const chanas::Status status = chanas::run(argv[1], argv[2]);
  if (!status.ok()) {
    chanas::emit("error", {{"code", static_cast<int>(status.code())},
                           {"message", std::string(chanas::message(status))}});
    if (!chanas::g_speaks) std::fprintf(stderr, "chanas-nn: %s\n", status.ToString().c_str());
  }
  return chanas::exit_code(status);
}
