#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/engine/cuda/kernel.cuh"

// For kernels over the rows of a contiguous matrix. A row belongs to kLanes threads: part of a
// warp, a warp, or a block. They take its values in packs of 16 bytes where the addresses allow
// that, and keep as many as fit in registers, so that going through the row again reads only what
// is left.
namespace lockstep::cuda {

// Blocks that must fit on a multiprocessor at once: 128 registers to a thread. Asked for nothing,
// the compiler may spill a few to fit more.
inline constexpr int kRowBlocks = 2;

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T values[kWidth];
};

// One thread's packs of a row of n values; a multiple of kWidth.
template <int kLanes, int kWidth, typename T>
class Row {
 public:
  static constexpr int kHeld = kLanes == kWarp && kWidth < 8 ? 8 : 4;
  using Values = Pack<T, kWidth>;

  __device__ Row(const T* row, int64_t n, int64_t lane)
      : row_(reinterpret_cast<const Values*>(row)), packs_(n / kWidth), lane_(lane) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (lane + j * kLanes < packs_) held_[j] = row_[lane + j * kLanes];
    }
  }

  // Calls fn(number of the pack, its values).
  template <typename F>
  __device__ void for_packs(F&& fn) const {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (lane_ + j * kLanes < packs_) fn(lane_ + j * kLanes, held_[j]);
    }
    for (int64_t p = lane_ + kHeld * kLanes; p < packs_; p += kLanes) fn(p, row_[p]);
  }
  // The same with those of `other`, a row of as many.
  template <typename F>
  __device__ void for_pairs(const Row& other, F&& fn) const {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (lane_ + j * kLanes < packs_) fn(lane_ + j * kLanes, held_[j], other.held_[j]);
    }
    for (int64_t p = lane_ + kHeld * kLanes; p < packs_; p += kLanes) fn(p, row_[p], other.row_[p]);
  }

 private:
  const Values* row_;
  int64_t packs_, lane_;
  Values held_[kHeld];
};

// y[pack] = fn(column, k: number within the pack).
template <int kWidth, typename T, typename F>
__device__ void store_pack(T* row, int64_t pack, F&& fn) {
  Pack<T, kWidth> out;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) out.values[k] = T(fn(pack * kWidth + k, k));
  reinterpret_cast<Pack<T, kWidth>*>(row)[pack] = out;
}

template <int kLanes, typename C>
__device__ C sum_over_row(C value) {
  if constexpr (kLanes == kThreads) {
    return block_sum_for_all(value);
  } else {
    for (int delta = kLanes / 2; delta > 0; delta /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, delta);
    }
    return value;
  }
}

// sum of exp(x - most) over some x. Of no x: -inf and 0.
template <typename C>
struct Exponentials {
  C most = -std::numeric_limits<C>::infinity();
  C sum = 0;

  // -inf counts nothing; without the question a first one would, as exp(-inf - -inf).
  template <int kWidth, typename T>
  __device__ void add(const Pack<T, kWidth>& pack) {
    constexpr C kLowest = -std::numeric_limits<C>::infinity();
    C largest = most;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const C value = static_cast<C>(pack.values[k]);
      largest = value > largest ? value : largest;
    }
    if (largest > most) sum *= std::exp(most - largest);
    most = largest;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const C value = static_cast<C>(pack.values[k]);
      sum += value == kLowest ? C(0) : std::exp(value - most);
    }
  }
};

// Symmetric: all lanes of a butterfly get the same bits.
template <typename C>
__device__ Exponentials<C> joined(const Exponentials<C>& a, const Exponentials<C>& b) {
  Exponentials<C> all;
  all.most = a.most > b.most ? a.most : b.most;
  all.sum = (a.most == all.most ? a.sum : a.sum * std::exp(a.most - all.most)) +
            (b.most == all.most ? b.sum : b.sum * std::exp(b.most - all.most));
  return all;
}

template <int kLanes, typename C>
__device__ Exponentials<C> joined_over_row(Exponentials<C> own) {
  for (int delta = (kLanes < kWarp ? kLanes : kWarp) / 2; delta > 0; delta /= 2) {
    const Exponentials<C> other{__shfl_xor_sync(kAllLanes, own.most, delta),
                                __shfl_xor_sync(kAllLanes, own.sum, delta)};
    own = joined(own, other);
  }
  if constexpr (kLanes == kThreads) {
    constexpr int kWarps = kThreads / kWarp;
    __shared__ C most[kWarps], sum[kWarps];
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (threadIdx.x % kWarp == 0) {
      most[warp] = own.most;
      sum[warp] = own.sum;
    }
    __syncthreads();
    own = {most[0], sum[0]};
    for (int i = 1; i < kWarps; ++i) own = joined(own, Exponentials<C>{most[i], sum[i]});
    __syncthreads();  // they may be written again
  }
  return own;
}

// Calls fn(row, columns, this thread's number among the row's); with row 0 and no columns where the
// block's last rows are missing, since all threads have to take part in the sums.
template <int kLanes, typename F>
__device__ void for_rows(int64_t rows, int64_t cols, F&& fn) {
  constexpr int kRows = kThreads / kLanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < rows;
       first += static_cast<int64_t>(gridDim.x) * kRows) {
    const int64_t row = first + threadIdx.x / kLanes;
    fn(row < rows ? row : 0, row < rows ? cols : 0, static_cast<int64_t>(threadIdx.x % kLanes));
  }
}

// Calls fn(lanes of a row, width of a pack, blocks), the first two integral constants, for rows of
// `cols` values of T; `pointers` are all that packs are taken from or stored to.
template <typename T, typename F, typename... Pointers>
void with_row_shape(int64_t rows, int64_t cols, F&& fn, const Pointers*... pointers) {
  constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
  const auto blocks = [&](int lanes) { return blocks_for(rows, kThreads / lanes); };
  if (cols <= 32) {
    return fn(std::integral_constant<int, 8>{}, std::integral_constant<int, 1>{}, blocks(8));
  }
  // A row starts where a pack may start if the first does and rows are whole packs.
  const bool whole =
      cols % kWidth == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
  const auto with_width = [&](auto width) {
    if (cols <= 1024) {
      fn(std::integral_constant<int, kWarp>{}, width, blocks(kWarp));
    } else {
      fn(std::integral_constant<int, kThreads>{}, width, blocks(kThreads));
    }
  };
  if (whole) {
    with_width(std::integral_constant<int, kWidth>{});
  } else {
    with_width(std::integral_constant<int, 1>{});
  }
}

}  // namespace lockstep::cuda
