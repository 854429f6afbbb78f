#pragma once
// One network's forward pass: the same one for training, evaluation and export.

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "chanas/supernet/functions.h"
#include "chanas/supernet/supernet.h"

namespace chanas {

// By the names of a graph's parameters. (`Tensor` is the plain one of graph.h.)
using Tensors = std::map<std::string, at::Tensor>;

at::Device device_of(const Device& device);

// While it lives, operations on this thread are those that the device asks for.
class Operations {
 public:
  explicit Operations(const Device& device);
  ~Operations();
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

 private:
  const GenericOperations generic_;
  const at::DeviceType type_;
  const bool mixed_;
};

// The batch's images on the device, as the stem's matrix product reads them.
at::Tensor stem_patches(const Network& network, const Batch& batch, const Device& device);

// Where batch normalisation takes its statistics from.
enum class Statistics { kBatch, kGiven };

// Logits [n, classes] of the network whose parameters are `tensors`, for `patches` of
// stem_patches(). `keep` (undefined: none) multiplies the classifier's input. With kBatch, `record`
// (may be null) receives the statistics of each batch normalisation, which are those of the parts
// of all `ranks` (may be null).
at::Tensor forward(const Network& network, const Tensors& tensors, Statistics statistics,
                   const at::Tensor& patches, int64_t n, const at::Tensor& keep,
                   Tensors* record = nullptr, Collective* ranks = nullptr);

std::vector<float> to_vector(const at::Tensor& tensor);

}  // namespace chanas
