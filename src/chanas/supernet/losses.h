#pragma once
// Losses of a training step on logits [n, classes]: means over the rows, differentiable in the
// logits. Thread safe.

#include <vector>

#include "chanas/base/rng.h"
#include "chanas/supernet/supernet.h"

namespace at {
class Tensor;
}

namespace chanas {

// Distributions [n, classes]: 1 - smoothing on the label, the rest spread over all classes.
at::Tensor smooth_targets(const std::vector<int>& labels, int classes, double smoothing);

// Against a distribution per row.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target);

// Adaptive alpha-divergence (AlphaNet, arXiv 2102.07954) of the network's distribution q from the
// teacher's p: per row the larger of D(alpha = 1), the Kullback-Leibler divergence, and
// D(alpha = -1), whose ratios q / p are clipped at `clip` in value and gradient. The first one
// punishes missing what the teacher believes, the second one believing what it does not.
at::Tensor alpha_divergence(const at::Tensor& logits, const at::Tensor& teacher_logits,
                            double clip);

// loss + lambda * (the term that `kind` names) with the loss on other images.
at::Tensor with_gap(const at::Tensor& loss, const at::Tensor& other, GapTerm kind, double lambda);

// 0 or 1 / (1 - rate), [n, features].
at::Tensor dropout_mask(int n, int64_t features, double rate, Rng rng);

}  // namespace chanas
