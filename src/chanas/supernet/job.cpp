#include "chanas/supernet/job.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "chanas/base/names.h"

namespace chanas {
namespace {

// One list of fields per struct serves both directions: visit(name, member).

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, DataConfig>
void fields(S& s, const V& visit) {
  visit("source", s.source);
  visit("builtin_images", s.builtin_images);
  visit("builtin_noise", s.builtin_noise);
  visit("size", s.size);
  visit("seed", s.seed);
  visit("gap_share", s.gap_share);
  visit("ranking_share", s.ranking_share);
  visit("test_share", s.test_share);
  visit("memory_mb", s.memory_mb);
  visit("cache", s.cache);
  visit("max_damaged", s.max_damaged);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, DataInfo>
void fields(S& s, const V& visit) {
  visit("classes", s.classes);
  visit("size", s.size);
  visit("images", s.images);
  visit("train", s.train);
  visit("gap", s.gap);
  visit("ranking", s.ranking);
  visit("test", s.test);
  visit("damaged", s.damaged);
  visit("fingerprint", s.fingerprint);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, TrainConfig>
void fields(S& s, const V& visit) {
  visit("epochs", s.epochs);
  visit("budget_s", s.budget_s);
  visit("batch_size", s.batch_size);
  visit("learning_rate", s.learning_rate);
  visit("warmup_share", s.warmup_share);
  visit("weight_decay", s.weight_decay);
  visit("label_smoothing", s.label_smoothing);
  visit("clip", s.clip);
  visit("trainer", s.trainer);
  visit("random_nets", s.random_nets);
  visit("sampling", s.sampling);
  visit("distillation", s.distillation);
  visit("alpha_clip", s.alpha_clip);
  visit("sort_share", s.sort_share);
  visit("loss", s.loss);
  visit("gap_lambda", s.gap_lambda);
  visit("augment", s.augment);
  visit("kernel_transform", s.kernel_transform);
  visit("seed", s.seed);
  visit("threads", s.threads);
  visit("checkpoint_every_s", s.checkpoint_every_s);
  visit("launcher", s.launcher);
  visit("max_restarts", s.max_restarts);
  visit("device", s.device);
  visit("precision", s.precision);
  visit("collective", s.collective);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, TrainProgress>
void fields(S& s, const V& visit) {
  visit("stage", s.stage);
  visit("step", s.step);
  visit("steps", s.steps);
  visit("planned", s.planned);
  visit("epoch", s.epoch);
  visit("images_per_s", s.images_per_s);
  visit("input_wait", s.input_wait);
  visit("loss", s.loss);
  visit("gap", s.gap);
  visit("negative_gap_share", s.negative_gap_share);
  visit("gradient_norm", s.gradient_norm);
  visit("learning_rate", s.learning_rate);
  visit("accuracy_largest", s.accuracy_largest);
  visit("accuracy_smallest", s.accuracy_smallest);
  visit("accuracy_random", s.accuracy_random);
  visit("seconds_left", s.seconds_left);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, TrainResult>
void fields(S& s, const V& visit) {
  visit("steps", s.steps);
  visit("epochs", s.epochs);
  visit("seconds", s.seconds);
  visit("params", s.params);
  visit("continued", s.continued);
  visit("accuracy_largest", s.accuracy_largest);
  visit("accuracy_smallest", s.accuracy_smallest);
  visit("accuracy_test", s.accuracy_test);
  visit("mean_gap", s.mean_gap);
  visit("negative_gap_share", s.negative_gap_share);
  visit("rollbacks", s.rollbacks);
  visit("history", s.history);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, EvaluateConfig>
void fields(S& s, const V& visit) {
  visit("part", s.part);
  visit("images", s.images);
  visit("recalibration_images", s.recalibration_images);
  visit("threads", s.threads);
  visit("device", s.device);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, PredictorConfig>
void fields(S& s, const V& visit) {
  visit("hidden", s.hidden);
  visit("epochs", s.epochs);
  visit("learning_rate", s.learning_rate);
  visit("weight_decay", s.weight_decay);
  visit("folds", s.folds);
  visit("seed", s.seed);
  visit("threads", s.threads);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, PredictorFit>
void fields(S& s, const V& visit) {
  visit("samples", s.samples);
  visit("rmse", s.rmse);
  visit("kendall_tau", s.kendall_tau);
  visit("spearman", s.spearman);
  visit("predicted", s.predicted);
}

template <typename S, typename V>
requires std::same_as<std::remove_const_t<S>, SubnetExport>
void fields(S& s, const V& visit) {
  visit("weights_path", s.weights_path);
  visit("reference_path", s.reference_path);
  visit("accuracy", s.accuracy);
  visit("test_images", s.test_images);
  visit("params", s.params);
}

template <typename S>
Json write(const S& s) {
  Json json = Json::object();
  fields(s, [&](const char* name, const auto& member) {
    if constexpr (std::same_as<std::decay_t<decltype(member)>, std::vector<TrainProgress>>) {
      Json list = Json::array();
      for (const TrainProgress& progress : member) list.push_back(write(progress));
      json[name] = std::move(list);
    } else {
      json[name] = member;
    }
  });
  return json;
}

template <typename S>
Status read(const Json& json, S& s);

template <typename T>
bool assign(const Json& value, T& member) {
  if constexpr (std::same_as<T, std::vector<TrainProgress>>) {
    if (!value.is_array()) return false;
    member.assign(value.size(), {});
    for (size_t i = 0; i < value.size(); ++i) {
      if (!read(value[i], member[i]).ok()) return false;
    }
    return true;
  } else if constexpr (std::same_as<T, bool>) {
    if (!value.is_boolean()) return false;
  } else if constexpr (std::integral<T>) {
    if (!value.is_number_integer()) return false;
    if (std::unsigned_integral<T> && !value.is_number_unsigned()) return false;
  } else if constexpr (std::floating_point<T>) {
    if (!value.is_number()) return false;
  } else if constexpr (std::same_as<T, std::string>) {
    if (!value.is_string()) return false;
  } else {
    if (!value.is_array()) return false;
  }
  try {
    value.get_to(member);
  } catch (const Json::exception&) {
    return false;
  }
  return true;
}

template <typename S>
Status read(const Json& json, S& s) {
  if (!json.is_object()) return absl::InvalidArgumentError("expected an object of settings");
  std::vector<std::string> known;
  Status status;
  fields(s, [&](const char* name, auto& member) {
    known.emplace_back(name);
    const auto found = json.find(name);
    if (found == json.end() || assign(*found, member) || !status.ok()) return;
    status = absl::InvalidArgumentError(
        fmt::format("\"{}\" is {}, a value of the wrong type", name, found->dump()));
  });
  for (const auto& [key, value] : json.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string nearest = nearest_name(key, known);
    return absl::InvalidArgumentError(
        fmt::format("unknown key \"{}\"{}", key,
                    nearest.empty() ? fmt::format("; expected {}", join(known))
                                    : fmt::format("; did you mean \"{}\"?", nearest)));
  }
  return status;
}

}  // namespace

std::vector<std::string> loss_names() {
  return {"plain", "data_matched", "gap", "gap_one_sided", "gap_stop_train", "gap_stop_gap"};
}

Json to_json(const DataConfig& config) { return write(config); }
Json to_json(const TrainConfig& config) { return write(config); }
Json to_json(const EvaluateConfig& config) { return write(config); }
Json to_json(const PredictorConfig& config) { return write(config); }
Json to_json(const DataInfo& info) { return write(info); }
Json to_json(const TrainProgress& progress) { return write(progress); }
Json to_json(const TrainResult& result) { return write(result); }
Json to_json(const PredictorFit& fit) { return write(fit); }
Json to_json(const SubnetExport& exported) { return write(exported); }

Status from_json(const Json& json, DataConfig& config) { return read(json, config); }
Status from_json(const Json& json, TrainConfig& config) { return read(json, config); }
Status from_json(const Json& json, EvaluateConfig& config) { return read(json, config); }
Status from_json(const Json& json, PredictorConfig& config) { return read(json, config); }
Status from_json(const Json& json, DataInfo& info) { return read(json, info); }
Status from_json(const Json& json, TrainProgress& progress) { return read(json, progress); }
Status from_json(const Json& json, TrainResult& result) { return read(json, result); }
Status from_json(const Json& json, PredictorFit& fit) { return read(json, fit); }
Status from_json(const Json& json, SubnetExport& exported) { return read(json, exported); }

}  // namespace chanas
