#include "lockstep/engine/cpu/gemm_integer.h"

#include <algorithm>
#include <type_traits>

#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep::cpu {
namespace {

template <typename T>
void run(const GemmCall& call) {
  using Modular = std::make_unsigned_t<T>;
  const int64_t step_a = call.trans_a ? call.lda : 1;
  const int64_t row_b = call.trans_b ? 1 : call.ldb, column_b = call.trans_b ? call.ldb : 1;
  const auto product_row = [&](int64_t batch, int64_t i) {
    const T* a =
        static_cast<const T*>(call.a) + batch * call.stride_a + i * (call.trans_a ? 1 : call.lda);
    const T* b = static_cast<const T*>(call.b) + batch * call.stride_b;
    T* c = static_cast<T*>(call.c) + batch * call.stride_c + i * call.ldc;
    if (!call.accumulate) std::fill_n(c, call.n, T(0));
    for (int64_t k = 0; k < call.k; ++k) {
      const auto factor = static_cast<Modular>(a[k * step_a]);
      const T* row = b + k * row_b;
      for (int64_t j = 0; j < call.n; ++j) {
        const auto value = static_cast<Modular>(row[j * column_b]);
        c[j] = static_cast<T>(static_cast<Modular>(static_cast<Modular>(c[j]) + factor * value));
      }
    }
  };
  constexpr int64_t kTile = 16384;  // multiplications
  const int64_t rows = call.batch * call.m;
  const int64_t per_tile = std::max<int64_t>(1, kTile / std::max<int64_t>(call.n * call.k, 1));
  parallel_for((rows + per_tile - 1) / per_tile, [&](int64_t tile) {
    const int64_t end = std::min(rows, (tile + 1) * per_tile);
    for (int64_t row = tile * per_tile; row < end; ++row) product_row(row / call.m, row % call.m);
  });
}

}  // namespace

void gemm_integer(const GemmCall& call) {
  if (call.dtype == DType::kInt64) return run<int64_t>(call);
  if (call.dtype == DType::kInt32) return run<int32_t>(call);
  run<uint8_t>(call);
}

}  // namespace lockstep::cpu
