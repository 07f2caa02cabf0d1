#include <algorithm>

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "lockstep/engine/cuda/cuda_backend.h"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/cuda/nccl_comm.h"
#include "lockstep/engine/plugin_table.h"

// The plugin's face: one symbol.
namespace lockstep::cuda {
namespace {

std::string version(int number) {  // 13000 is 13.0
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

int device_count(std::string& why) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  int driver = 0;
  cudaDriverGetVersion(&driver);
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    why = fmt::format(
        "there is no NVIDIA driver here (nvidia-smi would show one); install one that supports "
        "CUDA "
        "{} or newer",
        version(runtime));
  } else if (status == cudaErrorInsufficientDriver) {
    why = fmt::format(
        "the NVIDIA driver supports CUDA {}, and this build needs {}; update the driver",
        version(driver), version(runtime));
  } else if (status == cudaErrorNoDevice || status == cudaSuccess) {
    why = "the NVIDIA driver shows no device (CUDA_VISIBLE_DEVICES may hide them)";
  } else {
    why = fmt::format("CUDA does not start: {} ({})", cudaGetErrorString(status),
                      cudaGetErrorName(status));
  }
  return 0;
}

Facts facts() {
  Facts all;
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  all.emplace_back("CUDA driver", driver ? "supports CUDA " + version(driver) : "none");
  all.emplace_back("CUDA runtime", version(runtime));
  for (auto& fact : library_facts()) all.push_back(std::move(fact));
  const std::string problem = nccl_comms().problem();
  all.emplace_back("NCCL", problem.empty() ? nccl_comms().version() : "none: " + problem);
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    count = 0;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    all.emplace_back(fmt::format("cuda:{}", i),
                     fmt::format("{}, {:.1f} GiB, compute capability {}.{}, {} multiprocessors",
                                 p.name, static_cast<double>(p.totalGlobalMem) / (1 << 30), p.major,
                                 p.minor, p.multiProcessorCount));
  }
  return all;
}

}  // namespace
}  // namespace lockstep::cuda

extern "C" const lockstep::PluginTable* lockstep_cuda_plugin() {
  using namespace lockstep;
  static constexpr PluginTable kTable{.abi = LOCKSTEP_PLUGIN_ABI,
                                      .device_count = cuda::device_count,
                                      .make_backend = cuda::make_backend,
                                      .facts = cuda::facts,
                                      .comms = cuda::nccl_comms};
  return &kTable;
}
