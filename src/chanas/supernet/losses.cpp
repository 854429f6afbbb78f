#include "chanas/supernet/losses.h"

#include <ATen/ATen.h>

#include "chanas/base/status.h"

namespace chanas {

at::Tensor smooth_targets(const std::vector<int>& labels, int classes, double smoothing) {
  at::Tensor target = at::full({static_cast<int64_t>(labels.size()), classes}, smoothing / classes);
  float* row = target.mutable_data_ptr<float>();
  for (const int label : labels) {
    CHANAS_CHECK(label >= 0 && label < classes) << label;
    row[label] += static_cast<float>(1 - smoothing);
    row += classes;
  }
  return target;
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target) {
  return -(target * at::log_softmax(logits, 1)).sum() / logits.size(0);
}

at::Tensor alpha_divergence(const at::Tensor& logits, const at::Tensor& teacher_logits,
                            double clip) {
  const at::Tensor log_q = at::log_softmax(logits, 1);
  const at::Tensor log_p = at::log_softmax(teacher_logits.detach(), 1);
  const at::Tensor p = log_p.exp(), fixed_log_q = log_q.detach();
  const at::Tensor clipped = fixed_log_q.exp() * (fixed_log_q - log_p).exp().clamp_max(clip);
  const at::Tensor forward = (p * (log_p - fixed_log_q)).sum(1);
  const at::Tensor backward = 0.5 * (clipped.sum(1) - 1);
  // d D(alpha) = -1 / alpha * sum of q * (p / q)^alpha * d log q, with the clipped ratio.
  const at::Tensor forward_slope = -(p * log_q).sum(1), backward_slope = (clipped * log_q).sum(1);
  const at::Tensor larger = backward > forward;
  const at::Tensor slope = at::where(larger, backward_slope, forward_slope).mean();
  return at::where(larger, backward, forward).mean() + slope - slope.detach();
}

at::Tensor with_gap(const at::Tensor& loss, const at::Tensor& other, GapTerm kind, double lambda) {
  switch (kind) {
    case GapTerm::kAbsolute:
      return loss + lambda * (other - loss).abs();
    case GapTerm::kOneSided:
      return loss + lambda * (other - loss).relu();
    case GapTerm::kStopLoss:
      return loss + lambda * (other - loss.detach()).abs();
    case GapTerm::kStopOther:
      return loss + lambda * (other.detach() - loss).abs();
  }
  CHANAS_CHECK(false);
  return loss;
}

at::Tensor dropout_mask(int n, int64_t features, double rate, Rng rng) {
  at::Tensor mask = at::empty({n, features});
  float* to = mask.mutable_data_ptr<float>();
  const auto keep = static_cast<float>(1 / (1 - rate));
  for (int64_t i = 0; i < n * features; ++i) to[i] = rng.bernoulli(rate) ? 0 : keep;
  return mask;
}

}  // namespace chanas
