#pragma once
// The elastic supernet (paper section 3.3): one set of weights at the largest width, kernel, ratio
// and depth, of which every network of a space is a part.
//
// A network's parameters have the names and shapes of lower(network) (graph/graph.h). Each is cut
// from the supernet's parameter of the same place: leading channels always, leading units of a
// block, and depthwise windows through the kernel transformation: the window is cut to the next
// smaller one of the space, flattened, and multiplied by a learned matrix, again and again until it
// has the wanted size (identity at first; without the transformation only cut).
//
// Batch normalisation knows no running statistics here: training uses those of the batch, and every
// evaluation takes new ones from training images first (Subnet::recalibrate).

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/graph/graph.h"
#include "chanas/supernet/device.h"

namespace chanas {

class Collective;

struct Batch {
  int n = 0;
  // As networks of each resolution r see them: [n, r, r, 3], normalised (data/config.h).
  std::map<int, std::vector<float>> images;
  std::vector<int> labels;  // n; may be empty where labels are not used
  // Logits [n, classes] of a teacher; empty: the first network of a step teaches the others.
  std::vector<float> teacher = {};
  // Over several ranks: these are images [first, first + n) of `whole`; whole 0: all there are.
  int first = 0, whole = 0;
};

// The gap term of a loss L, with G the loss on the gap batch. Gradients, s = sign(G - L):
enum class GapTerm {
  kAbsolute,   // |G - L| (paper eq. 3): L gets 1 - lambda s, G gets lambda s
  kOneSided,   // max(0, G - L): the same for s > 0, else L alone
  kStopLoss,   // |G - constant L|: L gets 1, G gets lambda s
  kStopOther,  // |constant G - L|: L gets 1 - lambda s, G nothing
};

struct LossOptions {
  double label_smoothing = 0.1;
  GapTerm gap = GapTerm::kAbsolute;
  double gap_lambda = 0.45;  // weight of the gap, when there is a gap batch
  // Networks learn from the teacher by alpha-divergence with this clip; 0: by cross entropy against
  // its soft outputs.
  double alpha_clip = 0;
  uint64_t dropout_seed = 0;  // dropout of networks that learn labels is a function of this
  // Of whose batch this batch is a part (null: no others). Losses and BN statistics are those of
  // all parts, the gradient is this part's. All ranks get the same archs.
  Collective* ranks = nullptr;
};

// Of the first network, against the labels.
struct StepLoss {
  double loss = 0;
  double gap = 0;            // mean over the networks: loss on gap batch - loss
  double negative_gaps = 0;  // share of the networks with a negative gap
};

// SGD with Nesterov momentum as PyTorch has it, where gradients are set to zero between steps, not
// to none: a weight that no network of the step uses still moves by its momentum and decays.
struct SgdStep {
  double gradient_scale = 1;  // the gradient is multiplied by this first
  double rate = 0, momentum = 0.9, weight_decay = 0;
};

class Subnet;

// Sets the threads of everything here, in this process; 0: all cores this process may use. Returns
// how many those are.
int set_threads(int threads);

// Not thread safe.
class Supernet {
 public:
  // One tensor of the supernet. Weights of convolutions decay, BN and biases do not.
  struct Parameter {
    std::string name;
    std::vector<int64_t> shape;
    size_t offset = 0, size = 0;  // in values() and the like, where gaps between tensors are zero
    bool decays = false;
  };

  // He initialisation (fan out); the last BN scale of every residual unit starts at 0, so that the
  // unit starts as identity. A function of the space and the seed.
  Supernet(const ArchSpace& space, uint64_t seed, bool kernel_transform);
  // Weights for one network of the space alone, to train it from scratch; all functions below take
  // this arch only.
  static Supernet alone(const ArchSpace& space, const Arch& arch, uint64_t seed);
  ~Supernet();
  Supernet(Supernet&&) noexcept;

  const ArchSpace& space() const;
  const std::vector<Parameter>& parameters() const;
  // Where everything is computed and kept from now on; subnets stay where they were cut.
  void use(const Device& device);

  // All numbers that are trained, the gradient that accumulate() adds to, and the momentum of
  // update(). From a GPU they are brought here when asked for, and taken back by the next function
  // that computes with them: ask again after it.
  std::span<float> values();
  std::span<const float> values() const;
  std::span<float> gradients();
  std::span<float> momentum();

  void clear_gradients();
  // Euclidean, summed in double.
  double gradient_norm() const;
  void update(const SgdStep& step);

  // Adds the gradient of the sum of the archs' losses. Without a teacher in the batch one sandwich
  // (in-place distillation): the first arch learns the labels, all others the outputs of the first
  // one. With a teacher all learn the labels and the teacher's outputs, in equal parts. With a gap
  // batch each loss gets a gap term. Batches hold the resolutions of all archs.
  StepLoss accumulate(const std::vector<Arch>& archs, const Batch& batch, const Batch* gap_batch,
                      const LossOptions& options);

  // A copy of the network's weights as they are now; without BN statistics.
  Subnet subnet(const Arch& arch) const;
  // The same for training mode only: logits [n, classes] with the statistics of the batch, which
  // may be a part as in LossOptions.
  std::vector<float> batch_logits(const Arch& arch, const Batch& batch,
                                  Collective* ranks = nullptr) const;

 private:
  Supernet(const ArchSpace& space, const Arch& whole, uint64_t seed, bool kernel_transform,
           bool alone);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One network with weights of its own. Not thread safe.
class Subnet {
 public:
  Subnet(Network network, Parameters parameters);  // needs check_parameters() to be OK
  ~Subnet();
  Subnet(Subnet&&) noexcept;

  const Network& network() const;
  // BN statistics become the mean over `count` batches of the mean and variance in each batch.
  void recalibrate(int count, const std::function<const Batch&(int index)>& batch);
  // [n, classes], with the statistics there are. CHECKs that there are some.
  std::vector<float> logits(const Batch& batch) const;
  // Everything, names and shapes of lower(network()).
  Parameters parameters() const;

 private:
  friend class Supernet;
  struct Impl;
  explicit Subnet(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Share of images whose largest logit is that of their label.
double top1(std::span<const float> logits, int classes, std::span<const int> labels);

}  // namespace chanas
