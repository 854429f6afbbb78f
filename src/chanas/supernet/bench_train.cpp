// Speed and memory of training steps: ours against the same network in plain LibTorch, on the same
// weights, images and networks, interleaved. `make bench-train`.
//
//   bench-train OUT.json [ROUNDS]      everything; exit code 1 when the losses do not agree
//   bench-train --only CASE VARIANT [STEPS]   a few steps; for memory and profiles
//   bench-train --gpu [SPACE]          the largest network's step on a GPU, by batch size

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "chanas/base/child_process.h"
#include "chanas/base/file.h"
#include "chanas/base/rng.h"
#include "chanas/base/stats.h"
#include "chanas/supernet/cpu.h"
#include "chanas/supernet/device.h"
#include "chanas/supernet/plain.h"
#include "chanas/supernet/supernet.h"

namespace chanas {
namespace {

constexpr int kThreads = 2, kBatch = 64, kWarmUp = 2;
constexpr double kRate = 0.02, kMomentum = 0.9, kDecay = 1e-4, kSmoothing = 0.1;
const std::vector<std::string> kCases = {"max_step", "sandwich_step"};
const std::vector<std::string> kVariants = {"chanas", "libtorch_nhwc", "libtorch_default"};

ArchSpace bench_space() {
  StatusOr<ArchSpace> space = parse_space(R"(
    classes = 10
    resolutions = [32]
    widths = [1.0]
    kernels = [3, 5, 7]
    expands = [3, 4, 6]
    depths = [2, 3, 4]
    stem = { channels = 16, stride = 2, act = "hswish" }
    blocks = [
      { channels = 24, act = "relu" },
      { channels = 40, stride = 2, se = true, act = "relu" },
      { channels = 80, stride = 2, act = "hswish" },
      { channels = 112, se = true, act = "hswish" },
      { channels = 160, stride = 2, se = true, act = "hswish" },
    ]
    head = { channels = 960, act = "hswish", dropout = 0.0 }
  )",
                                          "bench");
  CHANAS_CHECK(space.ok()) << space.status();
  return *space;
}

Batch bench_batch(const ArchSpace& space, int n = kBatch) {
  Batch batch{n, {}, {}};
  Rng rng(1);
  const int resolution = space.resolutions.back();
  std::vector<float>& images = batch.images[resolution];
  images.resize(static_cast<size_t>(n * resolution * resolution * 3));
  for (float& v : images) v = static_cast<float>(rng.normal());
  for (int i = 0; i < n; ++i) {
    batch.labels.push_back(static_cast<int>(rng.uniform(static_cast<uint64_t>(space.classes))));
  }
  return batch;
}

std::vector<Arch> archs_of(const ArchSpace& space, const std::string& bench_case, int step) {
  std::vector<Arch> archs = {largest(space)};
  if (bench_case == "max_step") return archs;
  Rng rng(7, "bench archs", static_cast<uint64_t>(step));
  for (int i = 0; i < 2; ++i) archs.push_back(sample(space, archs[0].cell, rng));
  archs.push_back(smallest(space));
  return archs;
}

// One variant with its weights; step() trains and returns the loss on the labels.
class Variant {
 public:
  virtual ~Variant() = default;
  virtual double step(const std::vector<Arch>& archs) = 0;
};

class Ours : public Variant {
 public:
  explicit Ours(const ArchSpace& space) : supernet_(space, 1, true), batch_(bench_batch(space)) {}
  double step(const std::vector<Arch>& archs) override {
    LossOptions options;
    options.label_smoothing = kSmoothing;
    supernet_.clear_gradients();
    const double loss = supernet_.accumulate(archs, batch_, nullptr, options).loss;
    supernet_.update({.rate = kRate, .momentum = kMomentum, .weight_decay = kDecay});
    return loss;
  }

 private:
  Supernet supernet_;
  Batch batch_;
};

class Plain : public Variant {
 public:
  Plain(const ArchSpace& space, bool channels_last) : space_(space) {
    {
      const Supernet supernet(space, 1, true);
      weights_ = plain_weights(supernet);
      for (const Supernet::Parameter& p : supernet.parameters()) {
        leaves_.push_back(weights_.at(p.name));
        velocity_.push_back(at::zeros(p.shape));
        if (p.decays) decaying_.push_back(leaves_.size() - 1);
      }
    }
    const Batch batch = bench_batch(space);
    images_ = plain_images(batch, space.resolutions.back(), channels_last);
    labels_ = at::empty({batch.n}, at::kLong);
    std::copy(batch.labels.begin(), batch.labels.end(), labels_.mutable_data_ptr<int64_t>());
  }

  double step(const std::vector<Arch>& archs) override {
    for (const at::Tensor& leaf : leaves_) {
      if (leaf.grad().defined()) leaf.mutable_grad().zero_();
    }
    double first = 0;
    at::Tensor teacher;
    for (const Arch& arch : archs) {
      const at::Tensor logits = plain_logits(space_, weights_, arch, images_);
      const at::Tensor loss =
          teacher.defined()
              ? at::cross_entropy_loss(logits, teacher)
              : at::cross_entropy_loss(logits, labels_, {}, at::Reduction::Mean, -100, kSmoothing);
      if (!teacher.defined()) {
        first = loss.item<double>();
        teacher = at::softmax(logits.detach(), 1);
      }
      loss.backward();
    }
    update();
    return first;
  }

 private:
  // SGD with Nesterov momentum, as torch.optim.SGD with foreach.
  void update() {
    const at::NoGradGuard no_gradients;
    std::vector<at::Tensor> gradients;
    for (at::Tensor& leaf : leaves_) {
      if (!leaf.grad().defined()) leaf.mutable_grad() = at::zeros_like(leaf);
      gradients.push_back(leaf.grad());
    }
    std::vector<at::Tensor> decayed, weights;
    for (const size_t i : decaying_) {
      decayed.push_back(gradients[i]);
      weights.push_back(leaves_[i]);
    }
    at::_foreach_add_(decayed, weights, kDecay);
    at::_foreach_mul_(velocity_, kMomentum);
    at::_foreach_add_(velocity_, gradients, 1);
    at::_foreach_add_(gradients, velocity_, kMomentum);
    at::_foreach_add_(leaves_, gradients, -kRate);
  }

  const ArchSpace& space_;
  PlainWeights weights_;
  std::vector<at::Tensor> leaves_, velocity_;
  std::vector<size_t> decaying_;
  at::Tensor images_, labels_;
};

std::unique_ptr<Variant> make_variant(const ArchSpace& space, const std::string& name) {
  if (name == "chanas") return std::make_unique<Ours>(space);
  return std::make_unique<Plain>(space, name == "libtorch_nhwc");
}

// Peak resident memory in MB and losses of a few steps in a process of their own.
struct Alone {
  double peak_rss_mb = 0;
  std::vector<double> losses;
};

// Not that of getrusage, which begins with the memory of the process that started this one.
double peak_rss_mb() {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kilobytes = 0;
  while (status >> word && word != "VmHWM:") {
  }
  status >> kilobytes;
  return kilobytes / 1024;
}

Json run_only(const std::string& bench_case, const std::string& name, int steps) {
  const ArchSpace space = bench_space();
  const std::unique_ptr<Variant> variant = make_variant(space, name);
  Json losses = Json::array();
  for (int i = 0; i < steps; ++i) losses.push_back(variant->step(archs_of(space, bench_case, i)));
  return {{"losses", losses}, {"peak_rss_mb", peak_rss_mb()}};
}

StatusOr<Alone> run_alone(const std::string& bench_case, const std::string& name) {
  CHANAS_ASSIGN_OR_RETURN(
      ChildProcess child,
      ChildProcess::start({"/proc/self/exe", "--only", bench_case, name, "3"}, {}));
  CHANAS_ASSIGN_OR_RETURN(std::string line, child.read_line(300));
  const Json json = Json::parse(line);
  return Alone{json["peak_rss_mb"].get<double>(), json["losses"].get<std::vector<double>>()};
}

struct Row {
  std::vector<double> seconds;
  Alone alone;
};

Status run_case(const std::string& bench_case, int rounds, Json& out) {
  std::map<std::string, Row> rows;
  for (const std::string& name : kVariants) {
    CHANAS_ASSIGN_OR_RETURN(rows[name].alone, run_alone(bench_case, name));
    // The same weights, images and networks give the same losses, or the comparison means nothing.
    const std::vector<double>&ours = rows["chanas"].alone.losses, &other = rows[name].alone.losses;
    for (size_t i = 0; i < ours.size(); ++i) {
      if (std::abs(ours[i] - other[i]) <= 1e-3 * std::abs(ours[i])) continue;
      return absl::InternalError(fmt::format("{}: loss of step {} is {} here and {} in {}",
                                             bench_case, i, ours[i], other[i], name));
    }
  }
  const ArchSpace space = bench_space();
  std::map<std::string, std::unique_ptr<Variant>> variants;
  for (const std::string& name : kVariants) variants[name] = make_variant(space, name);
  for (int round = -kWarmUp; round < rounds; ++round) {
    for (const std::string& name : kVariants) {
      const std::vector<Arch> archs = archs_of(space, bench_case, round + kWarmUp);
      const auto start = std::chrono::steady_clock::now();
      variants[name]->step(archs);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (round >= 0) rows[name].seconds.push_back(took.count());
    }
  }
  const std::vector<double>& ours = rows["chanas"].seconds;
  for (const std::string& name : kVariants) {
    const Row& row = rows[name];
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(row.seconds[i] / ours[i]);
    const double seconds = median(row.seconds);
    fmt::print(
        "{:14} {:17} {:7.1f} images/s  {:6.0f} ms ({:.0f} to {:.0f})  {:5.0f} MB  ours is "
        "{:.2f}x ({:.2f} to {:.2f})\n",
        bench_case, name, kBatch / seconds, 1000 * seconds, 1000 * percentile(row.seconds, 0),
        1000 * percentile(row.seconds, 1), row.alone.peak_rss_mb, median(ratios),
        percentile(ratios, 0), percentile(ratios, 1));
    out.push_back({{"case", bench_case},
                   {"variant", name},
                   {"images_per_s", kBatch / seconds},
                   {"peak_rss_mb", row.alone.peak_rss_mb},
                   {"step_ms", 1000 * seconds},
                   {"step_ms_p10", 1000 * percentile(row.seconds, 0.1)},
                   {"step_ms_p90", 1000 * percentile(row.seconds, 0.9)},
                   {"rounds", rounds},
                   {"speedup", median(ratios)}});
  }
  std::fflush(stdout);
  return absl::OkStatus();
}

Status run_all(const std::string& path, int rounds) {
  CHANAS_RETURN_IF_ERROR(make_folder(std::filesystem::absolute(path).parent_path().string()));
  const Network network = to_network(bench_space(), largest(bench_space()));
  fmt::print("largest net {:.1f}M MACs, {:.2f}M parameters; batch {}, {} threads, {} rounds\n",
             static_cast<double>(macs(network)) / 1e6, static_cast<double>(params(network)) / 1e6,
             kBatch, kThreads, rounds);
  Json out = Json::array();
  for (const std::string& bench_case : kCases) {
    CHANAS_RETURN_IF_ERROR(run_case(bench_case, rounds, out));
  }
  return write_file_atomic(path, out.dump(2) + "\n");
}

// Steps in bfloat16 of the largest network at width 1.0: our kernels and LibTorch's operations in
// turns.
Status run_gpu(const std::string& name) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(name));
  space.widths = {space.widths.front()};
  CHANAS_ASSIGN_OR_RETURN(Device device, open_device("cuda", "bfloat16"));
  const c10::impl::VirtualGuardImpl gpu(c10::DeviceType::CUDA);
  fmt::print("{}, {}: ms per step, median (fastest to slowest)\n", name, describe(device));
  for (const int n : {128, 256, 512, 1024}) {
    const Batch batch = bench_batch(space, n);
    struct Variant {
      std::string name;
      Supernet supernet;
      std::vector<double> seconds = {};
      double first = 0;  // steps, with what is compiled or chosen in them
    };
    std::vector<Variant> variants;
    for (const bool generic : {false, true}) {
      device.generic = generic;
      variants.push_back({generic ? "LibTorch" : "chanas", Supernet(space, 1, true)});
      variants.back().supernet.use(device);
    }
    const auto seconds_of = [&](Supernet& supernet) {
      gpu.synchronizeDevice(static_cast<c10::DeviceIndex>(device.gpu));
      const auto start = std::chrono::steady_clock::now();
      supernet.clear_gradients();
      supernet.accumulate({largest(space)}, batch, nullptr, {});
      // Reading the norm waits for the gradient, as a training does.
      supernet.update({.gradient_scale = 1 / supernet.gradient_norm(), .rate = kRate});
      gpu.synchronizeDevice(static_cast<c10::DeviceIndex>(device.gpu));
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    for (Variant& v : variants) {
      for (int i = 0; i < 8; ++i) v.first += seconds_of(v.supernet);
    }
    for (int i = 0; i < 30; ++i) {
      for (Variant& v : variants) v.seconds.push_back(seconds_of(v.supernet));
    }
    for (const Variant& v : variants) {
      fmt::print(
          "batch {:4} {:8}: {:6.1f} ({:.1f} to {:.1f}), {:6.0f} images/s; first 8 {:.1f} s\n", n,
          v.name, 1000 * median(v.seconds), 1000 * percentile(v.seconds, 0),
          1000 * percentile(v.seconds, 1), n / median(v.seconds), v.first);
    }
    fmt::print("batch {:4}: {:.2f}x\n", n,
               median(variants[1].seconds) / median(variants[0].seconds));
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace chanas

int main(int argc, char** argv) {
  using namespace chanas;
  const std::vector<std::string> args(argv + 1, argv + argc);
  prepare_cpu();
  set_threads(kThreads);
  if (args.size() >= 3 && args[0] == "--only") {
    fmt::print("{}\n", run_only(args[1], args[2], args.size() > 3 ? std::stoi(args[3]) : 3).dump());
    return 0;
  }
  if (!args.empty() && args[0] == "--gpu") {
    const Status status = run_gpu(args.size() > 1 ? args[1] : "cifar");
    if (!status.ok()) fmt::print(stderr, "bench-train: {}\n", message(status));
    return exit_code(status);
  }
  if (args.empty()) {
    fmt::print(
        stderr,
        "usage: bench-train OUT.json [ROUNDS] | --only CASE VARIANT [STEPS] | --gpu [SPACE]\n");
    return 2;
  }
  const Status status = run_all(args[0], args.size() > 1 ? std::stoi(args[1]) : 9);
  if (!status.ok()) fmt::print(stderr, "bench-train: {}\n", message(status));
  return exit_code(status);
}
