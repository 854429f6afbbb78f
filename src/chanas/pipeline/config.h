#pragma once
// Everything a run is told: a TOML file, overridden by flags. Every key has a default; the built-in
// demo is the default config.

#include <string>
#include <string_view>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace chanas {

struct RunConfig {
  // [run]
  std::string space = "demo";    // name or file
  std::string data = "builtin";  // "builtin", folder, .tar, .tar.gz
  std::string device = "local";  // "local" or "simulated"
  double limit_ms = 0;           // 0: half-way between the smallest and the largest network
  int threads = 1;
  uint64_t seed = 1;
  double budget_s = 0;  // wall clock for the whole run, shared out; 0: by the counts below

  // [data]
  int image_size = 0;         // side that images are kept at; 0: the largest resolution
  int64_t memory_mb = 0;      // images beyond it are kept in a file; 0: half of the machine's
  double max_damaged = 0.01;  // share of images that may be unreadable

  // [tune]
  std::string tune_strategy = "gp";
  int tune_trials = 12;        // per workload
  double tune_budget_s = 70;   // defaults are always measured; 0: none
  int boundary_networks = 12;  // measured whole to fit the boundary term

  // [train]
  double train_epochs = 24;   // 0: by train_budget_s
  double train_budget_s = 0;  // 0 with epochs 0: the trainer's default
  int batch_size = 64;
  // Per 64 images. Above the 0.08 of the paper's long trainings: few steps need larger ones.
  double learning_rate = 0.32;
  double weight_decay = 3e-5;
  double warmup_share = 0.1;
  double label_smoothing = 0.1;
  double clip = 1;
  std::string trainer = "sandwich";  // "sandwich", "progressive"
  int random_nets = 2;
  std::string sampling = "uniform";   // "uniform", "macs"
  std::string distillation = "soft";  // "soft", "alpha"
  double alpha_clip = 5;
  double sort_share = 0;
  bool kernel_transform = true;
  std::string loss = "plain";  // one of loss_names()
  double gap_lambda = 0.45;
  std::string augment = "light";      // data/augmentation.h
  int64_t builtin_images = 10000;     // of the built-in generator, 46 % of them to train on
  double builtin_noise = 1;           // of their pixels, a multiple of the usual
  std::string train_device = "auto";  // "auto", "cpu", "cuda"
  std::string precision = "float32";  // or "bfloat16"
  std::string launcher;               // of all ranks; empty: one process
  int max_restarts = 3;               // of lost ranks

  // [narrow]
  std::string rule = "tinynas";  // "paper", "tinynas", "acc"
  int delta = 1000;
  int probes = 4;

  // [predict]
  int samples = 150;
  int images = 1000;  // of the ranking part, per sample
  int hidden = 128;
  int recalibration_images = 512;

  // [search]
  int population = 100;
  int generations = 200;

  // [verify]
  int finalists = 6;
  int latency_samples = 200;
  double margin = 0.02;  // measured latency must stay this share below the limit

  // [export]
  std::string symbol = "model";  // prefix of the library's C functions, deploy/deploy.h
};

// kInvalidArgument names file, line and the nearest key.
StatusOr<RunConfig> parse_config(std::string_view toml, std::string_view file_name);
StatusOr<RunConfig> load_config(const std::string& path);
Status validate(const RunConfig& config);
// The resolved config, stored with the run and readable by parse_config.
std::string to_toml(const RunConfig& config);

// Every key: section, name, help, default as text. For docs and `chanas run --help-config`.
struct ConfigKey {
  std::string section, name, help, value;
};
std::vector<ConfigKey> config_keys(const RunConfig& config = {});

// "90", "90 s", "20 min", "1.5 h" -> seconds.
StatusOr<double> parse_duration(std::string_view text);

}  // namespace chanas
