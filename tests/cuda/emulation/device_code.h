#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "runtime_types.h"

// What kernels are written with: keywords, indices, barriers, warp operations, atomics, and the
// launch. Warp operations follow the PTX instructions shfl.sync and vote.sync.

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after the other and device work is serialised, so one copy serves all. Not
// thread_local: AddressSanitizer puts redzones around static arrays only.
#define __shared__ static

namespace lockstep::emulation {

// A line of a kernel. As a default argument, the line of the call.
struct Place {
  const char* file = "";
  const char* function = "";
  int line = 0;
  static constexpr Place current(const char* file = __builtin_FILE(),
                                 const char* function = __builtin_FUNCTION(),
                                 int line = __builtin_LINE()) {
    return {file, function, line};
  }
};

// Of the running thread; written by the scheduler.
extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

enum class BarrierKind : uint8_t { kSync, kCount, kAnd, kOr };
enum class WarpKind : uint8_t { kSync, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kVote };

// Waits for the other threads of the block; the number of threads with a true predicate.
int block_barrier(BarrierKind kind, bool predicate, const Place& place);
// Waits for the lanes in `mask`. Shuffles: the value of lane `source` (one of this warp); votes:
// the mask of lanes whose value is not zero.
uint64_t warp_exchange(WarpKind kind, unsigned mask, uint64_t value, int source,
                       const Place& place);
// The lane that a shuffle reads, by the rules of PTX: the caller itself where it would leave its
// segment of `width` lanes.
int shuffle_source(WarpKind kind, int operand, int width, const Place& place);

// The dynamicSmemBytes bytes of the running block.
void* dynamic_shared();

// Calls run(arguments.get()) once for each thread of the grid, now or later.
cudaError_t launch(const cudaLaunchConfig_t* config, const void* kernel, void (*run)(void*),
                   const std::shared_ptr<void>& arguments);

template <class T>
T shuffle(WarpKind kind, unsigned mask, T value, int operand, int width, const Place& place) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_exchange(kind, mask, bits, shuffle_source(kind, operand, width, place), place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
concept AtomicInteger =
    std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>;

}  // namespace lockstep::emulation

inline constexpr const uint3& threadIdx = lockstep::emulation::thread_index;
inline constexpr const uint3& blockIdx = lockstep::emulation::block_index;
inline constexpr const dim3& blockDim = lockstep::emulation::block_size;
inline constexpr const dim3& gridDim = lockstep::emulation::grid_size;
inline constexpr int warpSize = 32;

// -- barriers
inline void __syncthreads(
    lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  lockstep::emulation::block_barrier(lockstep::emulation::BarrierKind::kSync, false, place);
}
inline int __syncthreads_count(
    int predicate, lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::block_barrier(lockstep::emulation::BarrierKind::kCount,
                                            predicate != 0, place);
}
inline int __syncthreads_or(
    int predicate, lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::block_barrier(lockstep::emulation::BarrierKind::kOr, predicate != 0,
                                            place) != 0;
}
inline int __syncthreads_and(
    int predicate, lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::block_barrier(lockstep::emulation::BarrierKind::kAnd, predicate == 0,
                                            place) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// -- warps
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  lockstep::emulation::warp_exchange(lockstep::emulation::WarpKind::kSync, mask, 0, 0, place);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::shuffle(lockstep::emulation::WarpKind::kShuffle, mask, value, lane,
                                      width, place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::shuffle(lockstep::emulation::WarpKind::kShuffleUp, mask, value,
                                      static_cast<int>(delta), width, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::shuffle(lockstep::emulation::WarpKind::kShuffleDown, mask, value,
                                      static_cast<int>(delta), width, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return lockstep::emulation::shuffle(lockstep::emulation::WarpKind::kShuffleXor, mask, value,
                                      lane_mask, width, place);
}
inline unsigned __ballot_sync(
    unsigned mask, int predicate,
    lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return static_cast<unsigned>(lockstep::emulation::warp_exchange(
      lockstep::emulation::WarpKind::kVote, mask, predicate != 0, 0, place));
}
inline int __any_sync(unsigned mask, int predicate,
                      lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      lockstep::emulation::Place place = lockstep::emulation::Place::current()) {
  return __ballot_sync(mask, predicate == 0, place) == 0;
}

// -- atomics: threads take turns at barriers only, so plain accesses are atomic. There are none on
// floating-point numbers: their result would depend on the order.
template <lockstep::emulation::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  // In unsigned arithmetic, which wraps as the device does.
  const T old = *address;
  using U = std::make_unsigned_t<T>;
  *address = static_cast<T>(static_cast<U>(old) + static_cast<U>(value));
  return old;
}
template <lockstep::emulation::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address < value ? value : *address);
}
template <lockstep::emulation::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value < *address ? value : *address);
}
template <lockstep::emulation::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address | value);
}
template <lockstep::emulation::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address & value);
}
template <lockstep::emulation::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value);
}
template <lockstep::emulation::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return std::exchange(*address, *address == expected ? value : *address);
}

// -- launch: as the toolkit's template, arguments are converted to the kernel's parameters. A
// kernel that throws ends the process.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return [&](Parameters... converted) {
    auto thread = [kernel, converted...]() noexcept { kernel(converted...); };
    return lockstep::emulation::launch(
        config, reinterpret_cast<const void*>(kernel),
        [](void* body) noexcept { (*static_cast<decltype(thread)*>(body))(); },
        std::make_shared<decltype(thread)>(thread));
  }(std::forward<Arguments>(arguments)...);
}
