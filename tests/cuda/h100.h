#pragma once

#include <cstdint>
#include <string_view>

#include "lockstep/engine/cuda/cudnn_graph.h"

// An H100 that need not be there: cuDNN makes plans for its description.
namespace lockstep::cuda {

inline constexpr std::string_view kH100 = R"({
  "cudaDeviceId": 0, "deviceVer": 900, "driverVer": 13000, "totalGlobalMem": 85000000000,
  "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
  "regsPerBlock": 65536, "multiProcessorCount": 132, "warpSize": 32,
  "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
  "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
  "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
  "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000,
  "l2CacheSize": 52428800, "deviceName": "NVIDIA H100 80GB HBM3"})";

inline CudnnDescriptor properties_from(std::string_view json) {
  CudnnDescriptor properties(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                 static_cast<int64_t>(json.size()), json.data());
  properties.finalize();
  return properties;
}

inline CudnnTarget h100() {
  static const CudnnDescriptor properties = properties_from(kH100);
  return {.properties = &properties};
}

}  // namespace lockstep::cuda
