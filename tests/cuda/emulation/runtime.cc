#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include "graph.h"
#include "pending.h"
#include "runtime_api.h"
#include "runtime_state.h"

// Environment, errors and devices of the emulated runtime.
namespace lockstep::emulation {
namespace {

constexpr int kMaxDevices = 16;

uint64_t number_from(const char* variable, uint64_t fallback) {
  const char* const text = std::getenv(variable);
  if (text == nullptr || *text == '\0') {
    return fallback;
  }
  char* end = nullptr;
  errno = 0;
  const uint64_t value = std::strtoull(text, &end, 10);
  if (*end != '\0' || errno != 0 || *text == '-') {
    stop("%s is '%s', not a number", variable, text);
  }
  return value;
}

thread_local int device_of_thread = 0;
thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

int device_count() {
  static const int count =
      static_cast<int>(std::min<uint64_t>(number_from("LOCKSTEP_EMULATED_GPUS", 1), kMaxDevices));
  return count;
}

size_t device_bytes() {
  static const size_t bytes = number_from("LOCKSTEP_EMULATED_GPU_BYTES", uint64_t{1} << 30);
  return bytes;
}

uint64_t order_seed() {
  static const uint64_t seed = number_from("LOCKSTEP_EMULATION_SEED", 0x10c5);
  return seed;
}

int current_device() { return device_of_thread; }

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) {
    last_error = error;
  }
  return error;
}

std::mutex& device_mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

void stop(const char* format, ...) {
  char text[4096] = "lockstep emulation: ";
  const size_t prefix = std::strlen(text);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text + prefix, sizeof(text) - prefix - 1, format, arguments);
  va_end(arguments);
  std::strcat(text, "\n");
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
  std::abort();
}

}  // namespace lockstep::emulation

namespace {

using namespace lockstep::emulation;

bool valid(int device) { return device >= 0 && device < device_count(); }

cudaError_t check() { return device_count() == 0 ? remember(cudaErrorNoDevice) : cudaSuccess; }
cudaError_t check(const void* output) {
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  return output == nullptr ? remember(cudaErrorInvalidValue) : cudaSuccess;
}
}  // namespace

// -- errors

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorHardwareStackError, "cudaErrorHardwareStackError", "hardware stack error"},
    {cudaErrorIllegalInstruction, "cudaErrorIllegalInstruction",
     "an illegal instruction was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorInvalidAddressSpace, "cudaErrorInvalidAddressSpace",
     "operation not supported on global/shared address space"},
    {cudaErrorInvalidPc, "cudaErrorInvalidPc", "invalid program counter"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};
constexpr ErrorText kUnrecognized = {cudaErrorUnknown, "unrecognized error code",
                                     "unrecognized error code"};

const ErrorText& text_of(cudaError_t error) {
  const auto* const found =
      std::find_if(std::begin(kErrors), std::end(kErrors),
                   [error](const ErrorText& entry) { return entry.error == error; });
  return found == std::end(kErrors) ? kUnrecognized : *found;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

// -- devices

cudaError_t cudaGetDeviceCount(int* count) {
  if (count == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  *count = device_count();
  return check();
}

cudaError_t cudaSetDevice(int device) {
  if (check() != cudaSuccess) {
    return cudaErrorNoDevice;
  }
  if (!valid(device)) {
    return remember(cudaErrorInvalidDevice);
  }
  device_of_thread = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  const cudaError_t error = check(device);
  if (error == cudaSuccess) {
    *device = device_of_thread;
  }
  return error;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const cudaError_t error = check(properties);
  if (error != cudaSuccess) {
    return error;
  }
  if (!valid(device)) {
    return remember(cudaErrorInvalidDevice);
  }
  *properties = {};
  std::strcpy(properties->name, "emulated");
  std::snprintf(properties->uuid.bytes, sizeof(properties->uuid.bytes), "emulated %d", device);
  properties->totalGlobalMem = device_bytes();
  properties->sharedMemPerBlock = size_t{48} << 10;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->major = 9;
  properties->minor = 0;
  properties->multiProcessorCount = 132;
  properties->canMapHostMemory = 1;
  properties->concurrentKernels = 1;
  properties->pciBusID = device + 1;
  properties->asyncEngineCount = 3;
  properties->unifiedAddressing = 1;
  properties->memoryBusWidth = 5120;
  properties->l2CacheSize = 50 << 20;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->streamPrioritiesSupported = 1;
  properties->sharedMemPerMultiprocessor = size_t{228} << 10;
  properties->regsPerMultiprocessor = 65536;
  properties->sharedMemPerBlockOptin = size_t{227} << 10;
  properties->maxBlocksPerMultiProcessor = 32;
  properties->memoryPoolsSupported = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaError_t error = check(value);
  if (error != cudaSuccess) {
    return error;
  }
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) {
    return error;
  }
  const auto number = [&]() -> long {
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock:
        return properties.maxThreadsPerBlock;
      case cudaDevAttrMaxGridDimX:
        return properties.maxGridSize[0];
      case cudaDevAttrMaxSharedMemoryPerBlock:
        return static_cast<long>(properties.sharedMemPerBlock);
      case cudaDevAttrWarpSize:
        return properties.warpSize;
      case cudaDevAttrMaxRegistersPerBlock:
        return properties.regsPerBlock;
      case cudaDevAttrMultiProcessorCount:
        return properties.multiProcessorCount;
      case cudaDevAttrIntegrated:
        return properties.integrated;
      case cudaDevAttrPciBusId:
        return properties.pciBusID;
      case cudaDevAttrPciDeviceId:
        return properties.pciDeviceID;
      case cudaDevAttrGlobalMemoryBusWidth:
        return properties.memoryBusWidth;
      case cudaDevAttrL2CacheSize:
        return properties.l2CacheSize;
      case cudaDevAttrMaxThreadsPerMultiProcessor:
        return properties.maxThreadsPerMultiProcessor;
      case cudaDevAttrUnifiedAddressing:
        return properties.unifiedAddressing;
      case cudaDevAttrPciDomainId:
        return properties.pciDomainID;
      case cudaDevAttrComputeCapabilityMajor:
        return properties.major;
      case cudaDevAttrComputeCapabilityMinor:
        return properties.minor;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return static_cast<long>(properties.sharedMemPerMultiprocessor);
      case cudaDevAttrCooperativeLaunch:
        return properties.cooperativeLaunch;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return static_cast<long>(properties.sharedMemPerBlockOptin);
      case cudaDevAttrMaxBlocksPerMultiprocessor:
        return properties.maxBlocksPerMultiProcessor;
      case cudaDevAttrMemoryPoolsSupported:
        return properties.memoryPoolsSupported;
    }
    return -1;
  }();
  if (number < 0) {
    return remember(cudaErrorInvalidValue);
  }
  *value = static_cast<int>(number);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  const cudaError_t error = check(text);
  if (error != cudaSuccess) {
    return error;
  }
  if (!valid(device)) {
    return remember(cudaErrorInvalidDevice);
  }
  if (length < 13) {
    return remember(cudaErrorInvalidValue);
  }
  std::snprintf(text, static_cast<size_t>(length), "0000:%02X:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  const cudaError_t error = check(can);
  if (error != cudaSuccess) {
    return error;
  }
  if (!valid(device) || !valid(peer)) {
    return remember(cudaErrorInvalidDevice);
  }
  *can = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  cudaError_t error = check();
  if (error == cudaSuccess) {
    const std::lock_guard lock(device_mutex());
    error = check_unsafe_call();
    if (error == cudaSuccess) {
      finish_all();
    }
  }
  return error;
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (version == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
