#pragma once
// Numbers that both this process and a device work on.

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace chanas {

// Each side sees what the other has written before; what is new travels when it is asked for. On
// the CPU both sides are the same memory and nothing travels. Not thread safe.
class Mirrored {
 public:
  explicit Mirrored(size_t size);  // zeros
  Mirrored(Mirrored&&) = default;

  // The device's side from now on; what device() gave before is of no use then.
  void use(at::Device device);

  // This process's side, good until the next call of device().
  std::span<float> host();
  std::span<const float> host() const;
  // The device's side, always the same memory: views of it stay good, but are up to date only
  // after a call. A caller of the first one may write.
  const at::Tensor& device();
  const at::Tensor& device() const;

 private:
  bool apart() const { return !device_.is_cpu(); }
  void bring_home() const;
  void send() const;

  mutable std::vector<float> host_;
  at::Tensor device_;
  // Which side was written last; both false: they are the same.
  mutable bool host_newer_ = false, device_newer_ = false;
};

}  // namespace chanas
