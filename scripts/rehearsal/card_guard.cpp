// Makes a PyTorch that was built for the CPU accept tensors on cuda:0 that have shapes and no
// numbers. Its automatic differentiation asks for a device guard, and whether there is a card; it
// asks once, so this library is loaded before PyTorch's own (LD_PRELOAD).
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

using c10::Device, c10::DeviceIndex, c10::DeviceType, c10::Stream;

struct Guard final : public c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device card() { return Device(DeviceType::CUDA, 0); }
  static Stream only() { return Stream(Stream::DEFAULT, card()); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return card(); }
  Device exchangeDevice(Device) const override { return card(); }
  Stream getStream(Device) const noexcept override { return only(); }
  Stream exchangeStream(Stream) const noexcept override { return only(); }
};

struct CUDAHooks : public at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
};

using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

C10_REGISTER_GUARD_IMPL(CUDA, Guard)
