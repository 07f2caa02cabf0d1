#include "lockstep/engine/cpu/elementwise.h"

#include <algorithm>
#include <cstring>

#include "lockstep/engine/cpu/pointwise_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/convert.h"
#include "lockstep/engine/tensor/dispatch.h"
#include "lockstep/engine/tensor/draw.h"
#include "lockstep/engine/tensor/walk.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kTile = 16384;  // elements per parallel tile

// Calls fn(out offset, in offset, length) for pieces of innermost runs, in parallel.
template <typename F>
void for_each_run(const Walk& walk, F&& fn) {
  const int64_t inner = walk.inner();
  const int64_t out_step = walk.out_strides[walk.dims - 1];
  const int64_t in_step = walk.in_strides[walk.dims - 1];
  const int64_t pieces = (inner + kTile - 1) / kTile;  // of one run
  const int64_t rows_per_tile = std::max<int64_t>(1, kTile / inner);
  const int64_t all_rows = walk.rows();
  const int64_t row_tiles = (all_rows + rows_per_tile - 1) / rows_per_tile;
  const auto run_tile = [&](int64_t tile) {
    const int64_t piece = tile % pieces;
    const int64_t begin = piece * kTile, length = std::min(kTile, inner - begin);
    const int64_t first = tile / pieces * rows_per_tile;
    for (int64_t row = first; row < std::min(first + rows_per_tile, all_rows); ++row) {
      int64_t rest = row, out = begin * out_step, in = begin * in_step;
      for (int d = walk.dims - 2; d >= 0; --d) {
        const int64_t index = rest % walk.sizes[d];
        rest /= walk.sizes[d];
        out += index * walk.out_strides[d];
        in += index * walk.in_strides[d];
      }
      fn(out, in, length);
    }
  };
  if (row_tiles * pieces == 1) {
    run_tile(0);
  } else {
    parallel_for(row_tiles * pieces, run_tile);
  }
}

template <typename Out, typename In>
void copy_run(Out* out, int64_t so, const In* in, int64_t si, int64_t n) {
  if constexpr (std::is_same_v<Out, In>) {
    if (so == 1 && si == 1) {
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(Out));
      return;
    }
  }
  if (so == 1 && si == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = convert<Out>(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * so] = convert<Out>(in[i * si]);
  }
}

template <typename T>
void fill_random_as(T* out, int64_t n, RandomKind kind, double p, double q, const RandomKey& key) {
  constexpr int64_t kPerBlock = kDrawsPerBlock<T>;
  const int64_t tiles = (n + kTile - 1) / kTile;
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t end = std::min(n, (tile + 1) * kTile);
    for (int64_t i = tile * kTile; i < end; i += kPerBlock) {
      T values[kPerBlock] = {};
      draw(values, key.words(static_cast<uint32_t>(i / kPerBlock)), kind, p, q);
      for (int64_t j = 0; j < kPerBlock && i + j < end; ++j) out[i + j] = values[j];
    }
  });
}

}  // namespace

void run_pointwise(PointwiseOp op, const PointwiseCall& call) {
  const PointwiseKernels& kernels = pointwise_kernels();
  if (call.numel <= kTile) {
    prepare_this_thread();
    kernels.run(op, call, 0, call.numel);
    return;
  }
  const int64_t inner = call.dims == 1 ? 1 : call.sizes[call.dims - 1];
  const int64_t per_tile = std::max(inner, kTile / inner * inner);
  parallel_for((call.numel + per_tile - 1) / per_tile, [&](int64_t tile) {
    kernels.run(op, call, tile * per_tile, std::min(call.numel, (tile + 1) * per_tile));
  });
}

void copy_strided(const Tensor& out, const Tensor& in) {
  if (out.numel() == 0) return;
  prepare_this_thread();
  const Walk walk(out, in);
  dispatch_all(out.dtype(), [&](auto out_type) {
    dispatch_all(in.dtype(), [&](auto in_type) {
      using Out = decltype(out_type);
      using In = decltype(in_type);
      Out* to = static_cast<Out*>(out.data_ptr());
      const In* from = static_cast<const In*>(in.data_ptr());
      const int64_t so = walk.out_strides[walk.dims - 1], si = walk.in_strides[walk.dims - 1];
      for_each_run(walk,
                   [&](int64_t o, int64_t i, int64_t n) { copy_run(to + o, so, from + i, si, n); });
    });
  });
}

void fill_strided(const Tensor& out, Scalar value) {
  if (out.numel() == 0) return;
  const Walk walk(out, out);
  dispatch_all(out.dtype(), [&](auto type) {
    using T = decltype(type);
    const T v =
        value.is_floating() ? convert<T>(value.to<double>()) : convert<T>(value.to<int64_t>());
    T* to = static_cast<T*>(out.data_ptr());
    const int64_t stride = walk.out_strides[walk.dims - 1];
    for_each_run(walk, [&](int64_t o, int64_t, int64_t n) {
      if (stride == 1) {
        std::fill_n(to + o, n, v);
      } else {
        for (int64_t i = 0; i < n; ++i) to[o + i * stride] = v;
      }
    });
  });
}

void fill_random(const Tensor& out, RandomKind kind, double p, double q, const RandomKey& key) {
  if (out.dtype() == DType::kFloat32) {
    fill_random_as(out.data<float>(), out.numel(), kind, p, q, key);
  } else {
    fill_random_as(out.data<double>(), out.numel(), kind, p, q, key);
  }
}

}  // namespace lockstep::cpu
