#include <map>
#include <mutex>
#include <numeric>

#include "block.h"
#include "device_code.h"
#include "device_memory.h"
#include "pending.h"
#include "random_order.h"
#include "runtime_api.h"
#include "runtime_state.h"
#include "stream.h"

// Launches: what a device checks, and the order of the blocks.
namespace lockstep::emulation {
namespace {

constexpr size_t kSharedBytes = 48 * 1024, kMaxSharedBytes = 227 * 1024;  // the latter by request

std::map<const void*, size_t>& shared_limits() {  // by kernel
  static std::map<const void*, size_t> limits;
  return limits;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* address) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (address == nullptr) {
    return cudaErrorInvalidDeviceFunction;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || block.x > kMaxThreads ||
      block.y > kMaxThreads || block.z > 64 ||
      uint64_t{block.x} * block.y * block.z > kMaxThreads) {
    return cudaErrorInvalidConfiguration;
  }
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const auto id = config.attrs[i].id;
    if (id == cudaLaunchAttributeCooperative || id == cudaLaunchAttributeClusterDimension) {
      return cudaErrorNotSupported;
    }
  }
  const auto found = shared_limits().find(address);
  if (config.dynamicSmemBytes > (found == shared_limits().end() ? kSharedBytes : found->second)) {
    return cudaErrorInvalidValue;
  }
  return stream_device(config.stream) == current_device() ? check_capture(config.stream)
                                                          : cudaErrorInvalidResourceHandle;
}

void run_grid(dim3 grid, Random& random) {
  // Blocks start in any order on a device, too: a random one, in steps coprime to their number.
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  uint64_t step = random.next() % blocks | 1;
  while (std::gcd(step, blocks) != 1) {
    ++step;
  }
  step %= blocks;
  uint64_t number = random.next() % blocks;
  for (uint64_t i = 0; i < blocks; ++i) {
    run_block(number);
    number = number >= blocks - step ? number - (blocks - step) : number + step;
  }
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t* config, const void* address, void (*run)(void*),
                   const std::shared_ptr<void>& arguments) {
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  if (config == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(device_mutex());
  const cudaError_t error = check_launch(*config, address);
  if (error != cudaSuccess) {
    return remember(error);
  }
  submit(config->stream,
         [address, run, arguments, device = current_device(), grid = config->gridDim,
          block = config->blockDim, shared = config->dynamicSmemBytes] {
           const OpenMemory open(device);
           static uint64_t launches = 0;
           Random random;
           random.seed(order_seed());
           random.seed(random.next() + ++launches);
           begin_kernel({.address = address, .run = run, .arguments = arguments.get()}, grid, block,
                        shared, random.next());
           run_grid(grid, random);
           end_kernel();
         });
  return cudaSuccess;
}

}  // namespace lockstep::emulation

cudaError_t cudaFuncSetAttribute(const void* address, cudaFuncAttribute attribute, int value) {
  using namespace lockstep::emulation;
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  if (address == nullptr) {
    return remember(cudaErrorInvalidDeviceFunction);
  }
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<size_t>(value) > kMaxSharedBytes) {
      return remember(cudaErrorInvalidValue);
    }
    const std::lock_guard lock(device_mutex());
    shared_limits()[address] = static_cast<size_t>(value);
  }
  return cudaSuccess;
}
