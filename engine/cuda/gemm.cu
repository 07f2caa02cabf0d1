#include "lockstep/engine/cuda/gemm.h"

#include <type_traits>

#include "lockstep/engine/cuda/tile_product.cuh"

namespace lockstep::cuda {
namespace {

// What products of T are added up in. Integers are modular, so that they may overflow.
template <typename T>
using Sum = std::conditional_t<std::is_integral_v<T>,
                               std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>, Compute<T>>;

// Rows of A or columns of B, `across` elements apart; their elements are `along` apart.
template <typename T>
struct Matrix {
  using Line = const T*;
  const T* data;
  int64_t across, along;
  bool along_line;
  __device__ Line line(int64_t index) const { return data + index * across; }
  __device__ Sum<T> at(const Line& line, int64_t k) const {
    return static_cast<Sum<T>>(line[k * along]);
  }
};

template <typename T>
struct Result {
  T* c;
  int64_t ld;
  bool accumulate;
  bool along_rows = false;
  __device__ int64_t place(int64_t row) const { return row * ld; }
  __device__ void put(int64_t place, int64_t column, Sum<T> sum) const {
    T* const out = c + place + column;
    *out = T(accumulate ? static_cast<Sum<T>>(*out) + sum : sum);
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) gemm_kernel(const GemmCall call, const Tiles tiles) {
  for (int64_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const Tiles::Tile tile = tiles.tile(i);
    const Matrix<T> a{static_cast<const T*>(call.a) + tile.result * call.stride_a,
                      call.trans_a ? 1 : call.lda, call.trans_a ? call.lda : 1, !call.trans_a};
    const Matrix<T> b{static_cast<const T*>(call.b) + tile.result * call.stride_b,
                      call.trans_b ? call.ldb : 1, call.trans_b ? 1 : call.ldb, call.trans_b};
    tile_product<Sum<T>>(a, tile.row, call.m, b, tile.column, call.n, 0, call.k,
                         Result<T>{static_cast<T*>(call.c) + tile.result * call.stride_c, call.ldc,
                                   call.accumulate});
  }
}

}  // namespace

void gemm_by_kernel(cudaStream_t stream, const GemmCall& call) {
  const Tiles tiles(call.m, call.n, call.batch);
  if (tiles.count() == 0) return;
  dispatch_all(call.dtype, [&](auto type) {
    using T = std::conditional_t<std::is_same_v<decltype(type), bool>, void, decltype(type)>;
    if constexpr (std::is_void_v<T>) {
      no_kernel("gemm", call.dtype);
    } else {
      launch(stream, blocks_for(tiles.count(), 1), kThreads, gemm_kernel<T>, call, tiles);
    }
  });
}

}  // namespace lockstep::cuda
