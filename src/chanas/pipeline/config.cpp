#include "chanas/pipeline/config.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <cmath>
#include <functional>
#include <variant>

#include "chanas/base/file.h"
#include "chanas/base/names.h"
#include "chanas/data/augmentation.h"
#include "chanas/deploy/deploy.h"
#include "chanas/supernet/client.h"
#include "chanas/tune/tuner.h"

namespace chanas {
namespace {

using Value = std::variant<std::string*, bool*, double*, int*, int64_t*, uint64_t*>;

// A key of the file: where it lies in RunConfig, what it may be, what it means.
struct Binding {
  std::string section, name, help;
  Value value;
  double low = 0, high = 0;  // of numbers
  bool duration = false;     // text such as "20 min" is accepted
};

std::vector<Binding> bindings(RunConfig& c) {
  return {
      {"run", "space", "space name or TOML file (chanas space --list)", &c.space},
      {"run", "data", "builtin, a folder of class folders, or a .tar/.tar.gz of one", &c.data},
      {"run", "device", "local, or simulated (a formula, for dry runs)", &c.device},
      {"run", "limit_ms", "latency limit in milliseconds; 0: half-way between smallest and largest",
       &c.limit_ms, 0, 1e6},
      {"run", "threads", "threads the network runs on", &c.threads, 1, 256},
      {"run", "seed", "one seed, one result", &c.seed, 0, 9e15},
      {"run", "budget", "time for the whole run, shared out over the stages; 0: none", &c.budget_s,
       0, 1e8, true},
      {"data", "size", "side that images are kept at; 0: the largest resolution of the space",
       &c.image_size, 0, 512},
      {"data", "memory_mb", "images beyond it are kept in a file; 0: half of the machine's memory",
       &c.memory_mb, 0, 1 << 24},
      {"data", "max_damaged", "unreadable images up to this share are skipped, more are an error",
       &c.max_damaged, 0, 1},
      {"tune", "strategy", "gp, evolution, random or grid", &c.tune_strategy},
      {"tune", "trials", "schedules measured per workload", &c.tune_trials, 1, 100000},
      {"tune", "budget", "time for tuning; 0: none", &c.tune_budget_s, 0, 1e8, true},
      {"tune", "boundary_networks", "whole networks measured to correct the table's sums",
       &c.boundary_networks, 0, 1000},
      {"train", "epochs", "passes over the training images; 0: by budget", &c.train_epochs, 0, 1e5},
      {"train", "budget", "time for training; 0: by epochs", &c.train_budget_s, 0, 1e8, true},
      {"train", "batch_size", "images per step", &c.batch_size, 2, 65536},
      {"train", "learning_rate", "peak rate per 64 images", &c.learning_rate, 1e-6, 100},
      {"train", "weight_decay", "of convolutions and the classifier", &c.weight_decay, 0, 1},
      {"train", "warmup_share", "share of a stage's steps in which the rate rises", &c.warmup_share,
       0, 0.9},
      {"train", "label_smoothing", "share of the target spread over all classes",
       &c.label_smoothing, 0, 0.9},
      {"train", "clip", "largest norm of the gradient; 0: none", &c.clip, 0, 1e9},
      {"train", "trainer", "sandwich, or progressive (shrinking in stages, taught by the largest)",
       &c.trainer},
      {"train", "random_nets", "of a sandwich, besides largest and smallest", &c.random_nets, 0,
       16},
      {"train", "sampling", "of random networks: uniform, or macs (bands of multiply-adds)",
       &c.sampling},
      {"train", "distillation", "soft (outputs of the teacher), or alpha (adaptive divergence)",
       &c.distillation},
      {"train", "alpha_clip", "clips the ratios of alpha distillation", &c.alpha_clip, 1, 1e6},
      {"train", "sort_share",
       "sandwich: share of steps on the largest network before its channels are sorted; 0: not",
       &c.sort_share, 0, 0.9},
      {"train", "kernel_transform", "learned 7 to 5 to 3 matrices; false: centre crop",
       &c.kernel_transform},
      {"train", "loss",
       "plain, data_matched (on train and gap part), or with a generalisation-gap term: gap "
       "(paper), gap_one_sided, gap_stop_train, gap_stop_gap",
       &c.loss},
      {"train", "gap_lambda", "weight of the generalisation gap", &c.gap_lambda, 0, 10},
      {"train", "augment",
       "none, light (shift and flip) or crop (random resized crop); then +colour, +policy, +cutout",
       &c.augment},
      {"train", "builtin_images",
       "images that the built-in generator draws, about half of them to train on",
       &c.builtin_images, 200, 1e7},
      {"train", "builtin_noise", "noise of their pixels, a multiple of the usual: more is harder",
       &c.builtin_noise, 0, 10},
      {"train", "device", "auto (a GPU where there is one), cpu, cuda", &c.train_device},
      {"train", "precision", "float32, or bfloat16 (mixed precision, on GPUs)", &c.precision},
      {"train", "launcher", "command that starts all ranks, as \"mpirun -n 4\"; empty: one process",
       &c.launcher},
      {"train", "max_restarts", "times that lost ranks are started again", &c.max_restarts, 0,
       1000},
      {"narrow", "rule", "paper, tinynas or acc", &c.rule},
      {"narrow", "delta", "networks sampled per sub-space", &c.delta, 10, 1000000},
      {"narrow", "probes", "networks per sub-space whose accuracy is taken (rule acc)", &c.probes,
       0, 1000},
      {"predict", "samples", "networks evaluated to train the accuracy predictor", &c.samples, 20,
       100000},
      {"predict", "images", "ranking images per network", &c.images, 50, 10000000},
      {"predict", "hidden", "width of the predictor's three hidden layers", &c.hidden, 8, 4096},
      {"predict", "recalibration_images", "training images that renew BN statistics",
       &c.recalibration_images, 32, 1000000},
      {"search", "population", "architectures per generation", &c.population, 4, 100000},
      {"search", "generations", "generations", &c.generations, 1, 1000000},
      {"verify", "finalists", "architectures measured whole", &c.finalists, 1, 1000},
      {"verify", "samples", "runs of each, for its median", &c.latency_samples, 10, 1000000},
      {"verify", "margin", "measured latency stays this share below the limit", &c.margin, 0, 0.5},
      {"export", "symbol",
       "prefix of the library's C functions and name of its files, so that several fit into one "
       "program",
       &c.symbol},
  };
}

std::string position(std::string_view file, const toml::node& node) {
  return fmt::format("{}:{}", file, node.source().begin.line);
}

Status type_error(std::string_view file, const toml::node& node, const Binding& b,
                  std::string_view expected) {
  return absl::InvalidArgumentError(fmt::format(
      "{}: {}.{}: expected {}, found {}", position(file, node), b.section, b.name, expected,
      fmt::format("a {}", toml::impl::node_type_friendly_names[static_cast<size_t>(node.type())])));
}

Status check_range(const Binding& b, double number) {
  if (number >= b.low && number <= b.high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}.{} is {}, expected {} to {}", b.section, b.name, number, b.low, b.high));
}

Status assign(std::string_view file, const toml::node& node, const Binding& b) {
  if (auto text = std::get_if<std::string*>(&b.value)) {
    auto value = node.value_exact<std::string>();
    if (!value) return type_error(file, node, b, "text");
    **text = *value;
    return absl::OkStatus();
  }
  if (auto flag = std::get_if<bool*>(&b.value)) {
    auto value = node.value_exact<bool>();
    if (!value) return type_error(file, node, b, "true or false");
    **flag = *value;
    return absl::OkStatus();
  }
  std::optional<double> number;
  if (b.duration && node.is_string()) {
    auto seconds = parse_duration(*node.value_exact<std::string>());
    if (!seconds.ok()) return annotate(seconds.status(), position(file, node));
    number = *seconds;
  } else if (node.is_integer() || node.is_floating_point()) {
    number = node.value<double>();
  }
  if (!number)
    return type_error(file, node, b, b.duration ? "seconds or a text like \"20 min\"" : "a number");
  CHANAS_RETURN_IF_ERROR(annotate(check_range(b, *number), position(file, node)));
  bool whole = *number == std::floor(*number);
  if (!std::holds_alternative<double*>(b.value) && !whole) {
    return type_error(file, node, b, "a whole number");
  }
  if (auto p = std::get_if<double*>(&b.value)) **p = *number;
  if (auto p = std::get_if<int*>(&b.value)) **p = static_cast<int>(*number);
  if (auto p = std::get_if<int64_t*>(&b.value)) **p = static_cast<int64_t>(*number);
  if (auto p = std::get_if<uint64_t*>(&b.value)) **p = static_cast<uint64_t>(*number);
  return absl::OkStatus();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string value_text(const Value& value) {
  return std::visit(
      [](auto* p) -> std::string {
        if constexpr (std::is_same_v<decltype(p), std::string*>) {
          return quoted(*p);
        } else {
          return fmt::format("{}", *p);
        }
      },
      value);
}

Status unknown_key(std::string_view where, std::string_view key,
                   const std::vector<std::string>& known) {
  std::string nearest = nearest_name(key, known);
  return absl::InvalidArgumentError(
      fmt::format("{}: unknown key \"{}\"{}", where, key,
                  nearest.empty() ? fmt::format("; known here: {}", join(known))
                                  : fmt::format("; did you mean \"{}\"?", nearest)));
}

Status one_of(std::string_view name, const std::string& value,
              const std::vector<std::string>& known) {
  for (const std::string& k : known) {
    if (value == k) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      fmt::format("{} is \"{}\", expected one of {}", name, value, join(known)));
}

}  // namespace

StatusOr<RunConfig> parse_config(std::string_view text, std::string_view file) {
  RunConfig config;
  toml::table table;
  try {
    table = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(fmt::format("{}:{}: {}", file, error.source().begin.line,
                                                  std::string(error.description())));
  }
  std::vector<Binding> all = bindings(config);
  std::vector<std::string> sections;
  for (const Binding& b : all) {
    if (sections.empty() || sections.back() != b.section) sections.push_back(b.section);
  }
  for (auto&& [section, node] : table) {
    std::vector<std::string> names;
    for (const Binding& b : all) {
      if (b.section == section.str()) names.push_back(b.name);
    }
    if (names.empty()) return unknown_key(position(file, node), section.str(), sections);
    const toml::table* keys = node.as_table();
    if (!keys) {
      return absl::InvalidArgumentError(
          fmt::format("{}: [{}] must be a table", position(file, node), section.str()));
    }
    for (auto&& [key, value] : *keys) {
      auto found = std::find_if(all.begin(), all.end(), [&](const Binding& b) {
        return b.section == section.str() && b.name == key.str();
      });
      if (found == all.end()) return unknown_key(position(file, value), key.str(), names);
      CHANAS_RETURN_IF_ERROR(assign(file, value, *found));
    }
  }
  CHANAS_RETURN_IF_ERROR(annotate(validate(config), file));
  return config;
}

StatusOr<RunConfig> load_config(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(std::string text, read_file(path));
  return parse_config(text, path);
}

Status validate(const RunConfig& c) {
  RunConfig copy = c;
  for (const Binding& b : bindings(copy)) {
    CHANAS_RETURN_IF_ERROR(std::visit(
        [&](auto* p) -> Status {
          if constexpr (std::is_same_v<decltype(p), std::string*> ||
                        std::is_same_v<decltype(p), bool*>) {
            return absl::OkStatus();
          } else {
            return check_range(b, static_cast<double>(*p));
          }
        },
        b.value));
  }
  CHANAS_RETURN_IF_ERROR(one_of("run.device", c.device, {"local", "simulated"}));
  CHANAS_RETURN_IF_ERROR(one_of("train.loss", c.loss, loss_names()));
  CHANAS_RETURN_IF_ERROR(one_of("train.trainer", c.trainer, {"sandwich", "progressive"}));
  CHANAS_RETURN_IF_ERROR(one_of("train.sampling", c.sampling, {"uniform", "macs"}));
  CHANAS_RETURN_IF_ERROR(one_of("train.distillation", c.distillation, {"soft", "alpha"}));
  CHANAS_RETURN_IF_ERROR(annotate(parse_augment(c.augment).status(), "train"));
  CHANAS_RETURN_IF_ERROR(one_of("train.device", c.train_device, {"auto", "cpu", "cuda"}));
  CHANAS_RETURN_IF_ERROR(one_of("train.precision", c.precision, {"float32", "bfloat16"}));
  CHANAS_RETURN_IF_ERROR(one_of("tune.strategy", c.tune_strategy, strategy_names()));
  CHANAS_RETURN_IF_ERROR(one_of("narrow.rule", c.rule, {"paper", "tinynas", "acc"}));
  CHANAS_RETURN_IF_ERROR(annotate(check_symbol(c.symbol), "export.symbol"));
  if (c.rule == "acc" && c.probes == 0) {
    return absl::InvalidArgumentError("narrow.rule \"acc\" needs narrow.probes of at least 1");
  }
  return absl::OkStatus();
}

std::string to_toml(const RunConfig& config) {
  std::string out, section;
  for (const ConfigKey& key : config_keys(config)) {
    if (key.section != section) {
      out += fmt::format("{}[{}]\n", section.empty() ? "" : "\n", key.section);
      section = key.section;
    }
    out += fmt::format("{} = {}\n", key.name, key.value);
  }
  return out;
}

std::vector<ConfigKey> config_keys(const RunConfig& config) {
  RunConfig copy = config;
  std::vector<ConfigKey> keys;
  for (const Binding& b : bindings(copy)) {
    keys.push_back({b.section, b.name, b.help, value_text(b.value)});
  }
  return keys;
}

StatusOr<double> parse_duration(std::string_view text) {
  std::string copy(text);
  char* end = nullptr;
  double value = std::strtod(copy.c_str(), &end);
  std::string unit(end);
  while (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);
  double factor = unit.empty() || unit == "s"    ? 1
                  : unit == "min" || unit == "m" ? 60
                  : unit == "h"                  ? 3600
                                                 : 0;
  if (end == copy.c_str() || factor == 0 || !std::isfinite(value) || value < 0) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" is not a duration; expected a number of seconds, or e.g. \"90 s\", "
                    "\"20 min\", \"1.5 h\"",
                    text));
  }
  return value * factor;
}

}  // namespace chanas
