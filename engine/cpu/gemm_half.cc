#include "lockstep/engine/cpu/gemm_half.h"

#include <algorithm>

#include "lockstep/engine/cpu/bf16_matmul.h"
#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/gemm.h"
#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep::cpu {
namespace {

// `batch` row-major matrices, `stride` elements apart, rows `ld` apart.
struct Matrices {
  int64_t batch, rows, cols, ld, stride;

  // Calls fn(dense, given): the first elements of a row in a dense copy and in place.
  template <typename F>
  void for_rows(F&& fn) const {
    constexpr int64_t kTile = 16384;  // elements
    const int64_t all = batch * rows;
    const int64_t per_tile = std::max<int64_t>(1, kTile / std::max<int64_t>(cols, 1));
    parallel_for((all + per_tile - 1) / per_tile, [&](int64_t tile) {
      const int64_t end = std::min(all, (tile + 1) * per_tile);
      for (int64_t row = tile * per_tile; row < end; ++row) {
        fn(row * cols, row / rows * stride + row % rows * ld);
      }
    });
  }
};

template <typename Half>
void widen(const Matrices& m, const void* from, float* to) {
  const auto* given = static_cast<const Half*>(from);
  m.for_rows([&](int64_t dense, int64_t at) {
    for (int64_t j = 0; j < m.cols; ++j) to[dense + j] = static_cast<float>(given[at + j]);
  });
}

template <typename Half>
void narrow(const Matrices& m, const float* from, void* to) {
  auto* given = static_cast<Half*>(to);
  m.for_rows([&](int64_t dense, int64_t at) {
    for (int64_t j = 0; j < m.cols; ++j) given[at + j] = Half(from[dense + j]);
  });
}

template <typename Half>
void run(const GemmCall& call) {
  // One matrix for the whole batch is converted once.
  const auto operand = [&](int64_t rows, int64_t cols, bool trans, int64_t ld, int64_t stride) {
    const bool shared = call.batch == 1 || stride == 0;
    return Matrices{shared ? 1 : call.batch, trans ? cols : rows, trans ? rows : cols, ld, stride};
  };
  const Matrices a = operand(call.m, call.k, call.trans_a, call.lda, call.stride_a);
  const Matrices b = operand(call.k, call.n, call.trans_b, call.ldb, call.stride_b);
  const Matrices c{call.batch, call.m, call.n, call.ldc, call.stride_c};
  const auto space = [](const Matrices& m) {
    return static_cast<size_t>(m.batch * m.rows * m.cols) * sizeof(float);
  };
  const Workspace wide_a(space(a)), wide_b(space(b)), wide_c(space(c));
  widen<Half>(a, call.a, wide_a.as<float>());
  widen<Half>(b, call.b, wide_b.as<float>());
  if (call.accumulate) widen<Half>(c, call.c, wide_c.as<float>());
  const GemmArgs<float> args{.transpose_a = call.trans_a,
                             .transpose_b = call.trans_b,
                             .m = call.m,
                             .n = call.n,
                             .k = call.k,
                             .a = wide_a.as<float>(),
                             .lda = std::max<int64_t>(a.cols, 1),
                             .b = wide_b.as<float>(),
                             .ldb = std::max<int64_t>(b.cols, 1),
                             .beta = call.accumulate ? 1.0F : 0.0F,
                             .c = wide_c.as<float>(),
                             .ldc = std::max<int64_t>(call.n, 1)};
  batched_gemm(args, call.batch, a.batch == 1 ? 0 : a.rows * a.cols,
               b.batch == 1 ? 0 : b.rows * b.cols, call.m * call.n);
  narrow<Half>(c, wide_c.as<float>(), call.c);
}

// Where the machine can, bfloat16 is multiplied as it is; small products are not worth the setup.
bool run_natively(const GemmCall& call) {
  constexpr double kWorth = 1 << 18;  // multiply-adds
  const double work =
      static_cast<double>(call.m) * static_cast<double>(call.n) * static_cast<double>(call.k);
  if (call.dtype != DType::kBFloat16 || work < kWorth || !has_bf16_matmul()) return false;
  const Matrices c{call.batch, call.m, call.n, call.ldc, call.stride_c};
  const int64_t elements = call.m * call.n;
  const Workspace wide(static_cast<size_t>(call.batch * elements) * sizeof(float));
  const auto product = [&](int64_t i) {
    bf16_matmul({.transpose_a = call.trans_a,
                 .transpose_b = call.trans_b,
                 .m = call.m,
                 .n = call.n,
                 .k = call.k,
                 .a = static_cast<const BFloat16*>(call.a) + i * call.stride_a,
                 .lda = call.lda,
                 .b = static_cast<const BFloat16*>(call.b) + i * call.stride_b,
                 .ldb = call.ldb,
                 .c = wide.as<float>() + i * elements});
  };
  if (call.batch == 1) {
    product(0);  // in tiles
  } else {
    parallel_for(call.batch, product);
  }
  if (call.accumulate) {
    auto* given = static_cast<BFloat16*>(call.c);
    c.for_rows([&](int64_t dense, int64_t at) {
      float* row = wide.as<float>() + dense;
      for (int64_t j = 0; j < c.cols; ++j) row[j] += static_cast<float>(given[at + j]);
    });
  }
  narrow<BFloat16>(c, wide.as<float>(), call.c);
  return true;
}

}  // namespace

void gemm_half(const GemmCall& call) {
  if (call.m == 0 || call.n == 0 || call.batch == 0 || run_natively(call)) return;
  call.dtype == DType::kBFloat16 ? run<BFloat16>(call) : run<Float16>(call);
}

}  // namespace lockstep::cpu
