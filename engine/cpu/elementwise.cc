#include "lockstep/engine/cpu/elementwise.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "lockstep/engine/cpu/pointwise_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kTile = 16384;  // elements per parallel tile

// Calls fn with a value of the C++ type of `dtype`.
template <typename F>
void dispatch(DType dtype, F&& fn) {
  switch (dtype) {
    case DType::kFloat32:
      return fn(float{});
    case DType::kFloat64:
      return fn(double{});
    case DType::kBFloat16:
      return fn(BFloat16{});
    case DType::kFloat16:
      return fn(Float16{});
    case DType::kInt64:
      return fn(int64_t{});
    case DType::kInt32:
      return fn(int32_t{});
    case DType::kUInt8:
      return fn(uint8_t{});
    case DType::kBool:
      return fn(bool{});
  }
}

template <typename Out, typename In>
Out convert(In value) {
  if constexpr (std::is_same_v<In, BFloat16> || std::is_same_v<In, Float16>) {
    return convert<Out>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<Out, BFloat16> || std::is_same_v<Out, Float16>) {
    return Out(static_cast<float>(value));
  } else if constexpr (std::is_same_v<Out, bool>) {
    return value != In(0);
  } else if constexpr (std::is_same_v<Out, uint8_t> && std::is_floating_point_v<In>) {
    return static_cast<uint8_t>(static_cast<int64_t>(value));  // wraps, as integers do
  } else {
    return static_cast<Out>(value);
  }
}

// Two tensors of one shape, walked in the order of the first one's memory with even runs merged.
struct Walk {
  int dims = 0;
  int64_t sizes[kMaxDims];
  int64_t out_strides[kMaxDims];
  int64_t in_strides[kMaxDims];

  Walk(const Tensor& out, const Tensor& in) {
    int order[kMaxDims];
    int used = 0;
    for (int d = 0; d < out.dim(); ++d) {
      if (out.sizes()[d] != 1) order[used++] = d;
    }
    std::stable_sort(order, order + used,
                     [&](int a, int b) { return out.strides()[a] > out.strides()[b]; });
    for (int k = 0; k < used; ++k) {
      const int d = order[k];
      const int64_t n = out.sizes()[d], so = out.strides()[d], si = in.strides()[d];
      if (dims > 0 && out_strides[dims - 1] == so * n && in_strides[dims - 1] == si * n) {
        sizes[dims - 1] *= n;
        out_strides[dims - 1] = so;
        in_strides[dims - 1] = si;
      } else {
        sizes[dims] = n;
        out_strides[dims] = so;
        in_strides[dims++] = si;
      }
    }
    if (dims == 0) {
      dims = 1;
      sizes[0] = out_strides[0] = in_strides[0] = 1;
    }
  }

  int64_t rows() const {
    int64_t n = 1;
    for (int d = 0; d < dims - 1; ++d) n *= sizes[d];
    return n;
  }

  // Calls fn(out offset, in offset, length) for pieces of innermost runs, in parallel.
  template <typename F>
  void for_each_run(F&& fn) const {
    const int64_t inner = sizes[dims - 1];
    const int64_t pieces = (inner + kTile - 1) / kTile;  // of one run
    const int64_t rows_per_tile = std::max<int64_t>(1, kTile / inner);
    const int64_t all_rows = rows();
    const int64_t row_tiles = (all_rows + rows_per_tile - 1) / rows_per_tile;
    const auto run_tile = [&](int64_t tile) {
      const int64_t piece = tile % pieces;
      const int64_t begin = piece * kTile, length = std::min(kTile, inner - begin);
      const int64_t first = tile / pieces * rows_per_tile;
      for (int64_t row = first; row < std::min(first + rows_per_tile, all_rows); ++row) {
        int64_t rest = row, out = begin * out_strides[dims - 1], in = begin * in_strides[dims - 1];
        for (int d = dims - 2; d >= 0; --d) {
          const int64_t index = rest % sizes[d];
          rest /= sizes[d];
          out += index * out_strides[d];
          in += index * in_strides[d];
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
};

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

// Standard normals from two words each, by Box and Muller (Annals of Mathematical Statistics 29,
// 1958).
void box_muller(double u, double v, double* a, double* b) {
  const double radius = std::sqrt(-2.0 * std::log1p(-u));
  *a = radius * std::cos(2.0 * std::numbers::pi * v);
  *b = radius * std::sin(2.0 * std::numbers::pi * v);
}

// Four floats or two doubles of one Philox block.
void draw(float* out, const std::array<uint32_t, 4>& w, RandomKind kind, double p, double q) {
  const auto pf = static_cast<float>(p), qf = static_cast<float>(q);
  switch (kind) {
    case RandomKind::kUniform:
      for (size_t i = 0; i < 4; ++i) {
        const float value = pf + uniform_float(w[i]) * (qf - pf);
        out[i] = value < qf ? value : pf;  // rounding must not reach the open end
      }
      return;
    case RandomKind::kNormal:
      for (size_t i = 0; i < 4; i += 2) {
        double a, b;
        box_muller(uniform_float(w[i]), uniform_float(w[i + 1]), &a, &b);
        out[i] = static_cast<float>(p + q * a);
        out[i + 1] = static_cast<float>(p + q * b);
      }
      return;
    case RandomKind::kBernoulli:
      for (size_t i = 0; i < 4; ++i) out[i] = uniform_float(w[i]) < pf ? qf : 0.0f;
      return;
  }
}

void draw(double* out, const std::array<uint32_t, 4>& w, RandomKind kind, double p, double q) {
  const double u = uniform_double(w[0], w[1]), v = uniform_double(w[2], w[3]);
  switch (kind) {
    case RandomKind::kUniform:
      out[0] = p + u * (q - p);
      out[1] = p + v * (q - p);
      return;
    case RandomKind::kNormal:
      box_muller(u, v, &out[0], &out[1]);
      out[0] = p + q * out[0];
      out[1] = p + q * out[1];
      return;
    case RandomKind::kBernoulli:
      out[0] = u < p ? q : 0.0;
      out[1] = v < p ? q : 0.0;
      return;
  }
}

template <typename T>
void fill_random_as(T* out, int64_t n, RandomKind kind, double p, double q, const RandomKey& key) {
  constexpr int64_t kPerBlock = std::is_same_v<T, float> ? 4 : 2;
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
  dispatch(out.dtype(), [&](auto out_type) {
    dispatch(in.dtype(), [&](auto in_type) {
      using Out = decltype(out_type);
      using In = decltype(in_type);
      Out* to = static_cast<Out*>(out.data_ptr());
      const In* from = static_cast<const In*>(in.data_ptr());
      const int64_t so = walk.out_strides[walk.dims - 1], si = walk.in_strides[walk.dims - 1];
      walk.for_each_run(
          [&](int64_t o, int64_t i, int64_t n) { copy_run(to + o, so, from + i, si, n); });
    });
  });
}

void fill_strided(const Tensor& out, Scalar value) {
  if (out.numel() == 0) return;
  const Walk walk(out, out);
  dispatch(out.dtype(), [&](auto type) {
    using T = decltype(type);
    const T v =
        value.is_floating() ? convert<T>(value.to<double>()) : convert<T>(value.to<int64_t>());
    T* to = static_cast<T*>(out.data_ptr());
    const int64_t stride = walk.out_strides[walk.dims - 1];
    walk.for_each_run([&](int64_t o, int64_t, int64_t n) {
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
