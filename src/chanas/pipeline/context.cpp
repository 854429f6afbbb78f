#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/file.h"
#include "chanas/base/log.h"
#include "chanas/base/progress.h"
#include "chanas/pipeline/stages.h"

namespace chanas {

StageContext::~StageContext() = default;

StatusOr<ArchSpace> StageContext::space() {
  if (!space_) {
    CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(config.space));
    // The classifier is the data's: known once the first stage has looked at it.
    if (std::optional<StageRecord> record = directory.stage("space")) {
      CHANAS_ASSIGN_OR_RETURN(Json output, parse_json(record->output));
      space.classes = static_cast<int>(output["classes"].size());
    }
    space_ = std::move(space);
  }
  return *space_;
}

StatusOr<Runner*> StageContext::runner() {
  if (!runner_) {
    if (config.device == "simulated") {
      runner_ = make_simulated_runner();
    } else {
      CHANAS_ASSIGN_OR_RETURN(runner_, make_local_runner());
    }
    if (config.threads > runner_->target().cores) {
      return absl::InvalidArgumentError(fmt::format("run.threads is {}, this device offers 1 to {}",
                                                    config.threads, runner_->target().cores));
    }
  }
  return runner_.get();
}

StatusOr<Store*> StageContext::store() {
  if (!store_) {
    CHANAS_ASSIGN_OR_RETURN(
        store_, Store::open(options.store.empty() ? directory.file("chanas.db") : options.store));
  }
  return store_.get();
}

StatusOr<MeasurePlan> StageContext::measure_plan() {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(config.space));
  MeasurePlan plan;
  plan.threads = config.threads;
  plan.cold_bytes = typical_weight_bytes(space);
  return plan;
}

StatusOr<const LatencyTable*> StageContext::table() {
  if (!table_) {
    CHANAS_ASSIGN_OR_RETURN(ArchSpace s, space());
    CHANAS_ASSIGN_OR_RETURN(Runner * r, runner());
    CHANAS_ASSIGN_OR_RETURN(Store * db, store());
    CHANAS_ASSIGN_OR_RETURN(MeasurePlan plan, measure_plan());
    CHANAS_ASSIGN_OR_RETURN(
        LatencyTable built,
        LatencyTable::build(*db, record_key(r->target(), plan), r->target(), space_elements(s)));
    table_ = std::make_unique<LatencyTable>(std::move(built));
  }
  return table_.get();
}

StatusOr<const LatencyPredictor*> StageContext::latency() {
  if (!latency_) {
    CHANAS_ASSIGN_OR_RETURN(ArchSpace s, space());
    CHANAS_ASSIGN_OR_RETURN(const LatencyTable* rows, table());
    CHANAS_ASSIGN_OR_RETURN(BoundaryTerm term, boundary_from_json(output("tune")["boundary"]));
    CHANAS_ASSIGN_OR_RETURN(LatencyPredictor predictor, LatencyPredictor::build(s, *rows, term));
    latency_ = std::make_unique<LatencyPredictor>(std::move(predictor));
  }
  return latency_.get();
}

StatusOr<double> StageContext::limit_us() {
  if (config.limit_ms > 0) return config.limit_ms * 1000;
  CHANAS_ASSIGN_OR_RETURN(const LatencyPredictor* predictor, latency());
  CHANAS_ASSIGN_OR_RETURN(ArchSpace s, space());
  double least = predictor->minimum_us(s.cells().front());
  for (const SubSpace& cell : s.cells()) least = std::min(least, predictor->minimum_us(cell));
  return (least + predictor->latency_us(largest(s))) / 2;
}

DataConfig StageContext::data() const {
  DataConfig data;
  data.source = config.data;
  data.builtin_images = config.builtin_images;
  data.builtin_noise = config.builtin_noise;
  data.seed = config.seed;
  data.size = config.image_size;
  data.memory_mb = config.memory_mb;
  data.max_damaged = config.max_damaged;
  if (data.source == "builtin") {
    // Images cost nothing here: so many are held out that networks differ by more than chance.
    data.ranking_share = 0.3;
    data.test_share = 0.3;
  } else {
    data.cache = directory.file("images.packed");
  }
  return data;
}

SupernetFiles StageContext::supernet() const {
  return {directory.file("supernet/" + inputs.at("train")), ""};
}

SubSpace StageContext::chosen_cell() {
  const Json& cell = output("narrow")["cell"];
  return {cell["resolution"], cell["width"]};
}

const Json& StageContext::output(const std::string& stage) {
  std::unique_ptr<Json>& kept = outputs_[stage];
  if (!kept) {
    std::optional<StageRecord> record = directory.stage(stage);
    CHANAS_CHECK(record.has_value()) << "stage " << stage << " is not finished";
    StatusOr<Json> json = parse_json(record->output);
    CHANAS_CHECK(json.ok()) << stage;
    kept = std::make_unique<Json>(*std::move(json));
  }
  return *kept;
}

// Every accuracy is kept as soon as it is known: an interrupted stage goes on where it was.
StatusOr<std::vector<double>> StageContext::evaluate(const std::string& title,
                                                     const std::vector<Arch>& archs,
                                                     const std::string& part, int64_t images) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace s, space());
  std::string file = directory.file("evaluations.jsonl");
  // Weights of another training give other accuracies.
  std::string suffix =
      fmt::format(" {} {} {} {}", part, images, config.recalibration_images, inputs.at("train"));
  std::map<std::string, double> known = read_journal(file);
  std::vector<std::string> keys;
  std::vector<Arch> missing;
  std::set<std::string> asked;
  for (const Arch& arch : archs) {
    keys.push_back(arch_id(s, arch) + suffix);
    if (!known.contains(keys.back()) && asked.insert(keys.back()).second) missing.push_back(arch);
  }
  if (!missing.empty()) {
    EvaluateConfig evaluation;
    evaluation.part = part;
    evaluation.images = images;
    evaluation.recalibration_images = config.recalibration_images;
    evaluation.device = config.train_device;
    Progress progress(title, static_cast<double>(archs.size()));
    progress.start_at(static_cast<double>(archs.size() - missing.size()));
    size_t done = archs.size() - missing.size();
    Status append;
    CHANAS_ASSIGN_OR_RETURN(
        std::vector<double> accuracy,
        evaluate_subnets(s, data(), supernet(), missing, evaluation, [&](size_t i, double value) {
          Status status = append_line(file, Json({arch_id(s, missing[i]) + suffix, value}).dump());
          if (append.ok()) append = status;
          if (!options.quiet)
            progress.update(static_cast<double>(++done), fmt::format("{:.1f} %", value * 100));
        }));
    CHANAS_RETURN_IF_ERROR(append);
    for (size_t i = 0; i < missing.size(); ++i)
      known[arch_id(s, missing[i]) + suffix] = accuracy[i];
  }
  std::vector<double> out;
  for (const std::string& key : keys) out.push_back(known.at(key));
  return out;
}

Evaluators latency_evaluators(const LatencyPredictor& latency) {
  Evaluators evaluators;
  evaluators.latency_us = [&](const Arch& arch) { return latency.latency_us(arch); };
  evaluators.minimum_us = [&](const SubSpace& cell) { return latency.minimum_us(cell); };
  evaluators.minimum_arch = [&](const SubSpace& cell) { return latency.minimum_arch(cell); };
  return evaluators;
}

Status check_limit(StageContext& context) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, context.space());
  CHANAS_ASSIGN_OR_RETURN(const LatencyPredictor* latency, context.latency());
  CHANAS_ASSIGN_OR_RETURN(double limit_us, context.limit_us());
  double least = latency->minimum_us(space.cells().front());
  for (const SubSpace& cell : space.cells()) least = std::min(least, latency->minimum_us(cell));
  if (least <= limit_us) return absl::OkStatus();
  return absl::OutOfRangeError(
      fmt::format("no network of space {} can meet {:.3g} ms on this device: the smallest latency "
                  "it can reach is {:.3g} ms; "
                  "raise --limit-ms or choose a smaller space",
                  space.name, limit_us / 1000, least / 1000));
}

}  // namespace chanas
