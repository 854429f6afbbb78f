#include "chanas/supernet/mirrored.h"

#include <ATen/ATen.h>

namespace chanas {
namespace {

at::Tensor view_of(std::vector<float>& host) {
  return at::from_blob(host.data(), {static_cast<int64_t>(host.size())}, at::kFloat);
}

}  // namespace

Mirrored::Mirrored(size_t size) : host_(size), device_(view_of(host_)) {}

void Mirrored::use(at::Device device) {
  if (device_newer_) bring_home();
  device_ = view_of(host_).to(device);
  host_newer_ = device_newer_ = false;
}

std::span<float> Mirrored::host() {
  if (device_newer_) bring_home();
  host_newer_ = apart();
  return host_;
}

std::span<const float> Mirrored::host() const {
  if (device_newer_) bring_home();
  return host_;
}

const at::Tensor& Mirrored::device() {
  if (host_newer_) send();
  device_newer_ = apart();
  return device_;
}

const at::Tensor& Mirrored::device() const {
  if (host_newer_) send();
  return device_;
}

void Mirrored::bring_home() const {
  view_of(host_).copy_(device_);
  device_newer_ = false;
}

void Mirrored::send() const {
  at::Tensor to = device_;
  to.copy_(view_of(host_));
  host_newer_ = false;
}

}  // namespace chanas
