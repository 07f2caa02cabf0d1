#include <cstdlib>
#include <cstring>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "device_memory.h"
#include "pending.h"
#include "runtime_api.h"
#include "runtime_state.h"
#include "stream.h"

// Allocation, pools and copies of the emulated runtime.
namespace {

using namespace lockstep::emulation;

struct HostBlock {
  size_t bytes = 0;
  int device = 0;
  bool registered = false;  // pinned after it was allocated
};

// All guarded by device_mutex().
std::map<const char*, HostBlock>& host_blocks() {
  static auto* const blocks = new std::map<const char*, HostBlock>;
  return *blocks;
}
std::set<cudaMemPool_t>& pools() {
  static auto* const all = new std::set<cudaMemPool_t>;
  return *all;
}

// Whether all of [pointer, pointer + bytes) is pinned.
bool is_pinned(const void* pointer, size_t bytes) {
  const auto* const at = static_cast<const char*>(pointer);
  const auto after = host_blocks().upper_bound(at);
  if (after == host_blocks().begin()) {
    return false;
  }
  const auto& [start, block] = *std::prev(after);
  return at + bytes <= start + block.bytes;
}

// Pinned memory that copies which are still to be done will read.
std::list<std::pair<const char*, size_t>>& awaited_reads() {
  static auto* const reads = new std::list<std::pair<const char*, size_t>>;
  return *reads;
}

// What a copy will write to pinned memory is undefined from now on, unless an earlier copy has yet
// to read it.
void spoil(void* pointer, size_t bytes) {
  auto* const begin = static_cast<char*>(pointer);
  for (const auto& [from, length] : awaited_reads()) {
    if (from < begin + bytes && begin < from + length) {
      return;
    }
  }
  std::memset(begin, 0xff, bytes);
}

bool pool_lives(cudaMemPool_t pool) { return pools().contains(pool); }

cudaMemPool_t default_pool(int device) {
  static auto* const defaults = new std::map<int, cudaMemPool_t>;
  cudaMemPool_t& pool = (*defaults)[device];
  if (pool == nullptr) {
    pool = new CUmemPoolHandle_st{.device = device};
    pools().insert(pool);
  }
  return pool;
}

bool valid(int device) { return device >= 0 && device < device_count(); }

cudaError_t allocate(void** pointer, size_t bytes, int device, cudaMemPool_t pool) {
  if (pointer == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  *pointer = bytes == 0 ? nullptr : device_memory(device).allocate(bytes, pool);
  return *pointer == nullptr && bytes > 0 ? remember(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t release(void* pointer) {
  const int device = device_of(pointer);
  return device >= 0 && device_memory(device).release(pointer) ? cudaSuccess
                                                               : remember(cudaErrorInvalidValue);
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t stream) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) {
    return remember(cudaErrorInvalidMemcpyDirection);
  }
  if (bytes == 0) {
    return cudaSuccess;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t invalid = check_capture(stream); invalid != cudaSuccess) {
    return invalid;
  }
  const int to_device = device_of(to), from_device = device_of(from);
  if (to == nullptr || from == nullptr ||
      (to_device >= 0 && !device_memory(to_device).contains(to, bytes)) ||
      (from_device >= 0 && !device_memory(from_device).contains(from, bytes))) {
    return remember(cudaErrorInvalidValue);
  }
  const bool to_is_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_is_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault &&
      (to_is_device != (to_device >= 0) || from_is_device != (from_device >= 0))) {
    return remember(cudaErrorInvalidValue);
  }
  if (static_cast<char*>(to) < static_cast<const char*>(from) + bytes &&
      static_cast<const char*>(from) < static_cast<char*>(to) + bytes) {
    stop("a copy of %zu bytes from %p to %p overlaps itself", bytes, from, to);
  }
  const bool later_from = from_device >= 0 || is_pinned(from, bytes);
  const bool later_to = to_device >= 0 || is_pinned(to, bytes);
  const bool captured = is_capturing(stream);
  if (captured && !(later_from && later_to)) {
    return check_not_capturing(stream);
  }
  const bool defers = deferring() && !captured;
  std::shared_ptr<std::vector<char>> kept;
  if (defers && !later_from) {
    const auto* const begin = static_cast<const char*>(from);
    kept = std::make_shared<std::vector<char>>(begin, begin + bytes);
  }
  if (defers && to_device < 0 && later_to) {
    spoil(to, bytes);
  }
  auto& reads = awaited_reads();
  const bool reads_late = defers && from_device < 0 && later_from;
  const auto read =
      reads_late ? reads.insert(reads.end(), {static_cast<const char*>(from), bytes}) : reads.end();
  submit(stream, [to, from, bytes, to_device, from_device, kept, reads_late, read] {
    if ((to_device >= 0 && !device_memory(to_device).contains(to, bytes)) ||
        (from_device >= 0 && !device_memory(from_device).contains(from, bytes))) {
      stop("a copy of %zu bytes from %p to %p runs after the memory's release", bytes, from, to);
    }
    const OpenMemory open_to(to_device), open_from(from_device);
    std::memcpy(to, kept ? kept->data() : from, bytes);
    if (reads_late) {
      awaited_reads().erase(read);
    }
  });
  if (!later_to) {
    finish(stream);
  }
  return cudaSuccess;
}

cudaError_t fill(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) {
    return cudaSuccess;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t invalid = check_capture(stream); invalid != cudaSuccess) {
    return invalid;
  }
  const int device = device_of(pointer);
  if (device < 0 || !device_memory(device).contains(pointer, bytes)) {
    return remember(cudaErrorInvalidValue);
  }
  submit(stream, [=] {
    if (!device_memory(device).contains(pointer, bytes)) {
      stop("a fill of %zu bytes at %p runs after the memory's release", bytes, pointer);
    }
    const OpenMemory open(device);
    std::memset(pointer, value, bytes);
  });
  return cudaSuccess;
}

cudaError_t check_unsafe_call_locking() {
  const std::lock_guard lock(device_mutex());
  return check_unsafe_call();
}

// Errors that every call on a stream may return.
cudaError_t check(cudaStream_t stream) {
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  return stream_device(stream) < 0 ? remember(cudaErrorInvalidResourceHandle) : cudaSuccess;
}

}  // namespace

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  if (free == nullptr || total == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(device_mutex());
  size_t reserved = 0;
  for (const auto* pool : pools()) {
    reserved += pool->device == current_device() ? pool->reserved : 0;
  }
  *free = device_memory(current_device()).free_bytes(reserved);
  *total = device_memory(current_device()).limit();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t unsafe = check_unsafe_call(); unsafe != cudaSuccess) {
    return unsafe;
  }
  return allocate(pointer, bytes, current_device(), nullptr);
}

cudaError_t cudaFree(void* pointer) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess || pointer == nullptr) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t unsafe = check_unsafe_call(); unsafe != cudaSuccess) {
    return unsafe;
  }
  finish_all();
  return release(pointer);
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = check(stream);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t captured = check_not_capturing(stream); captured != cudaSuccess) {
    return captured;
  }
  const int device = stream_device(stream);
  return allocate(pointer, bytes, device, default_pool(device));
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
  const cudaError_t error = check(stream);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t captured = check_not_capturing(stream); captured != cudaSuccess) {
    return captured;
  }
  if (!pool_lives(pool)) {
    return remember(cudaErrorInvalidValue);
  }
  return allocate(pointer, bytes, pool->device, pool);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  const cudaError_t error = check(stream);
  if (error != cudaSuccess || pointer == nullptr) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t captured = check_not_capturing(stream); captured != cudaSuccess) {
    return captured;
  }
  if (!deferring()) {
    return release(pointer);
  }
  const int device = device_of(pointer);
  if (device < 0 || !device_memory(device).contains(pointer, 0)) {
    return remember(cudaErrorInvalidValue);
  }
  submit(stream, [pointer] {
    if (release(pointer) != cudaSuccess) {
      stop("%p is released twice", pointer);
    }
  });
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  constexpr unsigned kKnown =
      cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
  if (pointer == nullptr || (flags & ~kKnown) != 0) {
    return remember(cudaErrorInvalidValue);
  }
  *pointer = nullptr;
  if (bytes == 0) {
    return cudaSuccess;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t unsafe = check_unsafe_call(); unsafe != cudaSuccess) {
    return unsafe;
  }
  if (posix_memalign(pointer, 4096, bytes) != 0) {
    return remember(cudaErrorMemoryAllocation);
  }
  host_blocks()[static_cast<const char*>(*pointer)] = {.bytes = bytes, .device = current_device()};
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess || pointer == nullptr) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t unsafe = check_unsafe_call(); unsafe != cudaSuccess) {
    return unsafe;
  }
  const auto found = host_blocks().find(static_cast<const char*>(pointer));
  if (found == host_blocks().end() || found->second.registered) {
    return remember(cudaErrorInvalidValue);
  }
  finish_all();
  host_blocks().erase(found);
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int flags) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  if (pointer == nullptr || bytes == 0 ||
      (flags & ~static_cast<unsigned>(cudaHostRegisterPortable)) != 0) {
    return remember(cudaErrorInvalidValue);
  }
  const auto* const begin = static_cast<const char*>(pointer);
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t unsafe = check_unsafe_call(); unsafe != cudaSuccess) {
    return unsafe;
  }
  const auto next = host_blocks().upper_bound(begin);
  if ((next != host_blocks().end() && next->first < begin + bytes) ||
      (next != host_blocks().begin() &&
       std::prev(next)->first + std::prev(next)->second.bytes > begin)) {
    return remember(cudaErrorHostMemoryAlreadyRegistered);
  }
  host_blocks()[begin] = {.bytes = bytes, .device = current_device(), .registered = true};
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* pointer) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t unsafe = check_unsafe_call(); unsafe != cudaSuccess) {
    return unsafe;
  }
  const auto found = host_blocks().find(static_cast<const char*>(pointer));
  if (found == host_blocks().end() || !found->second.registered) {
    return remember(cudaErrorHostMemoryNotRegistered);
  }
  finish_all();
  host_blocks().erase(found);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  if (attributes == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(device_mutex());
  void* const address = const_cast<void*>(pointer);
  const int device = device_of(pointer);
  if (device >= 0 && device_memory(device).contains(pointer, 1)) {
    *attributes = {cudaMemoryTypeDevice, device, address, nullptr};
    return cudaSuccess;
  }
  const auto after = host_blocks().upper_bound(static_cast<const char*>(pointer));
  if (after != host_blocks().begin()) {
    const auto& [start, block] = *std::prev(after);
    if (static_cast<const char*>(pointer) < start + block.bytes) {
      *attributes = {cudaMemoryTypeHost, block.device, address, address};
      return cudaSuccess;
    }
  }
  *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, address};
  return cudaSuccess;
}

// -- copies

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t unsafe = check_unsafe_call_locking(); unsafe != cudaSuccess) {
    return unsafe;
  }
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const cudaError_t error = check(stream);
  return error != cudaSuccess ? error : copy(to, from, bytes, kind, stream);
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  if (const cudaError_t unsafe = check_unsafe_call_locking(); unsafe != cudaSuccess) {
    return unsafe;
  }
  return cudaMemsetAsync(pointer, value, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = check(stream);
  return error != cudaSuccess ? error : fill(pointer, value, bytes, stream);
}

// -- pools

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  if (pool == nullptr || properties == nullptr ||
      properties->allocType != cudaMemAllocationTypePinned ||
      properties->location.type != cudaMemLocationTypeDevice || !valid(properties->location.id)) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(device_mutex());
  *pool =
      new CUmemPoolHandle_st{.device = properties->location.id, .max_bytes = properties->maxSize};
  pools().insert(*pool);
  return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (!pool_lives(pool) || pool == default_pool(pool->device)) {
    return remember(cudaErrorInvalidValue);
  }
  pools().erase(pool);
  if (pool->used == 0) {
    delete pool;
  } else {
    pool->destroyed = true;
  }
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (!pool_lives(pool) || value == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  switch (attribute) {
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
      return cudaSuccess;
    case cudaMemPoolAttrReleaseThreshold:
      pool->threshold = *static_cast<uint64_t*>(value);
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh:
    case cudaMemPoolAttrUsedMemHigh:
      if (*static_cast<uint64_t*>(value) != 0) {
        return remember(cudaErrorInvalidValue);  // high-water marks can only be reset
      }
      (attribute == cudaMemPoolAttrUsedMemHigh ? pool->used_high : pool->reserved_high) =
          attribute == cudaMemPoolAttrUsedMemHigh ? pool->used : pool->reserved;
      return cudaSuccess;
    default:
      return remember(cudaErrorInvalidValue);
  }
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (!pool_lives(pool) || value == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  auto& number = *static_cast<uint64_t*>(value);
  switch (attribute) {
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
      *static_cast<int*>(value) = 1;
      return cudaSuccess;
    case cudaMemPoolAttrReleaseThreshold:
      number = pool->threshold;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemCurrent:
      number = pool->reserved;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh:
      number = pool->reserved_high;
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemCurrent:
      number = pool->used;
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemHigh:
      number = pool->used_high;
      return cudaSuccess;
  }
  return remember(cudaErrorInvalidValue);
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  const std::lock_guard lock(device_mutex());
  if (!pool_lives(pool)) {
    return remember(cudaErrorInvalidValue);
  }
  pool->reserved = std::max(pool->used, std::min(pool->reserved, bytes));
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  const cudaError_t error = check(nullptr);
  if (error != cudaSuccess) {
    return error;
  }
  if (pool == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  if (!valid(device)) {
    return remember(cudaErrorInvalidDevice);
  }
  const std::lock_guard lock(device_mutex());
  *pool = default_pool(device);
  return cudaSuccess;
}
