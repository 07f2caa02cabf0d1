// Plain kernels in place of cuDNN's attention: a thread for each row, sums in double.
#include <cmath>
#include <utility>

#include "lockstep/engine/cuda/attention_rules.h"
#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

constexpr int kMostWidth = 128;

template <typename T>
struct Matrices {  // of a tensor (B, H, length, width)
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  explicit Matrices(const Tensor& t)
      : data(data_of<T>(t)), batch(t.stride(0)), head(t.stride(1)), row(t.stride(2)) {}
  __device__ T& at(int64_t b, int64_t h, int64_t i, int64_t e) const {
    return data[b * batch + h * head + i * row + e];
  }
};

struct Problem {
  int64_t heads, queries, keys, width, value_width;
  double scale, keep;
  bool causal;
  Philox philox;
  int64_t count;  // B * H

  explicit Problem(const AttentionCall& c)
      : heads(c.q.size(1)),
        queries(c.q.size(2)),
        keys(c.k.size(2)),
        width(c.q.size(3)),
        value_width(c.v.size(3)),
        scale(c.scale),
        keep(1 - c.dropout),
        causal(c.causal),
        philox{c.key.words(0)[0], c.key.words(0)[1]},
        count(c.q.size(0) * c.q.size(1)) {}

  __device__ int64_t seen(int64_t i) const { return causal && i < keys ? i + 1 : keys; }
  // What dropout multiplies a weight with: an answer of the place alone, as cuDNN's is.
  __device__ double factor(int64_t matrix, int64_t i, int64_t j) const {
    if (keep == 1) return 1;
    const int64_t place = (matrix * queries + i) * keys + j;
    const uint32_t word =
        philox(static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32), 0, 0)[0];
    return uniform_float(word) < keep ? 1 / keep : 0;
  }
};

template <typename T>
__device__ double dot(const Matrices<T>& a, int64_t i, const Matrices<T>& b, int64_t j, int64_t m,
                      int64_t heads, int64_t width) {
  double sum = 0;
  for (int64_t e = 0; e < width; ++e) {
    sum += static_cast<double>(static_cast<float>(a.at(m / heads, m % heads, i, e))) *
           static_cast<double>(static_cast<float>(b.at(m / heads, m % heads, j, e)));
  }
  return sum;
}

template <typename T>
__device__ void store(const Matrices<T>& out, int64_t m, int64_t heads, int64_t i, int64_t width,
                      const double* values) {
  for (int64_t e = 0; e < width; ++e) {
    out.at(m / heads, m % heads, i, e) = T(static_cast<float>(values[e]));
  }
}

template <typename T>
__device__ void add(double* sums, double factor, const Matrices<T>& x, int64_t m, int64_t heads,
                    int64_t i, int64_t width) {
  for (int64_t e = 0; e < width; ++e) {
    sums[e] += factor * static_cast<double>(static_cast<float>(x.at(m / heads, m % heads, i, e)));
  }
}

template <typename T>
__global__ void forward_kernel(Matrices<T> y, float* stats, Matrices<T> q, Matrices<T> k,
                               Matrices<T> v, Problem p) {
  for (int64_t r = grid_index(); r < p.count * p.queries; r += grid_size()) {
    const int64_t m = r / p.queries, i = r % p.queries;
    double most = -INFINITY, sum = 0, out[kMostWidth] = {};
    const auto score = [&](int64_t j) { return p.scale * dot(q, i, k, j, m, p.heads, p.width); };
    for (int64_t j = 0; j < p.seen(i); ++j) most = std::fmax(most, score(j));
    for (int64_t j = 0; j < p.seen(i); ++j) sum += std::exp(score(j) - most);
    for (int64_t j = 0; j < p.seen(i); ++j) {
      const double weight = std::exp(score(j) - most) / sum * p.factor(m, i, j);
      add(out, weight, v, m, p.heads, j, p.value_width);
    }
    store(y, m, p.heads, i, p.value_width, out);
    stats[r] = static_cast<float>(most + std::log(sum));
  }
}

template <typename T>
struct Gradient {
  Matrices<T> q, k, v, y, gy;
  const float* stats;
  Problem p;

  // The weight of key j for query i, and the gradient of its score.
  __device__ double weight(int64_t m, int64_t i, int64_t j) const {
    return std::exp(p.scale * dot(q, i, k, j, m, p.heads, p.width) -
                    static_cast<double>(stats[m * p.queries + i]));
  }
  __device__ double slope(int64_t m, int64_t i, int64_t j) const {
    const double mean = dot(gy, i, y, i, m, p.heads, p.value_width);
    const double here = dot(gy, i, v, j, m, p.heads, p.value_width) * p.factor(m, i, j);
    return p.scale * weight(m, i, j) * (here - mean);
  }
};

template <typename T>
__global__ void query_kernel(Matrices<T> gq, Gradient<T> g) {
  const Problem& p = g.p;
  for (int64_t r = grid_index(); r < p.count * p.queries; r += grid_size()) {
    const int64_t m = r / p.queries, i = r % p.queries;
    double out[kMostWidth] = {};
    for (int64_t j = 0; j < p.seen(i); ++j) {
      add(out, g.slope(m, i, j), g.k, m, p.heads, j, p.width);
    }
    store(gq, m, p.heads, i, p.width, out);
  }
}

template <typename T>
__global__ void key_kernel(Matrices<T> gk, Matrices<T> gv, Gradient<T> g) {
  const Problem& p = g.p;
  for (int64_t r = grid_index(); r < p.count * p.keys; r += grid_size()) {
    const int64_t m = r / p.keys, j = r % p.keys;
    double key[kMostWidth] = {}, value[kMostWidth] = {};
    for (int64_t i = 0; i < p.queries; ++i) {
      if (j >= p.seen(i)) continue;
      add(key, g.slope(m, i, j), g.q, m, p.heads, i, p.width);
      add(value, g.weight(m, i, j) * p.factor(m, i, j), g.gy, m, p.heads, i, p.value_width);
    }
    store(gk, m, p.heads, j, p.width, key);
    store(gv, m, p.heads, j, p.value_width, value);
  }
}

__global__ void mask_kernel(float* mask, Problem p) {
  for (int64_t r = grid_index(); r < p.count * p.queries; r += grid_size()) {
    for (int64_t j = 0; j < p.keys; ++j) {
      mask[r * p.keys + j] = p.factor(r / p.queries, r % p.queries, j) > 0 ? 1.0f : 0.0f;
    }
  }
}

// As fused_attention.h promises; cuDNN would not notice.
void check_inputs(const AttentionCall& c) {
  for (const Tensor& t : {c.q, c.k, c.v}) {
    bool right = t.stride(3) == 1 && reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0;
    for (int d = 0; d < 3; ++d) right = right && t.stride(d) > 0 && t.stride(d) % 8 == 0;
    check<Error>(right, "[attention] an argument is not aligned: strides {}", t.strides().str());
  }
}
template <typename... Tensors>
void check_results(const Tensors&... results) {
  for (const Tensor& t : {results...}) {
    check<Error>(t.transpose(1, 2).is_contiguous(), "[attention] a result has strides {}",
                 t.strides().str());
  }
}

template <typename F>
void dispatch_half(DType dtype, F&& fn) {
  dtype == DType::kBFloat16 ? fn(BFloat16{}) : fn(Float16{});
}

template <typename... Parameters, typename... Arguments>
void launch_rows(cudaStream_t stream, int64_t rows, void (*kernel)(Parameters...),
                 Arguments&&... arguments) {
  constexpr int kRows = 32;
  launch(stream, blocks_for(rows, kRows), kRows, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace

bool can_attend_by_library(const AttentionCall& call, bool gradient) {
  return may_attend(call, gradient);
}

void attention_by_library(cudaStream_t stream, const Tensor& y, const Tensor& stats,
                          const AttentionCall& c) {
  check_inputs(c);
  check_results(y);
  const Problem p(c);
  dispatch_half(y.dtype(), [&](auto type) {
    using M = Matrices<decltype(type)>;
    launch_rows(stream, p.count * p.queries, forward_kernel<decltype(type)>, M(y),
                data_of<float>(stats), M(c.q), M(c.k), M(c.v), p);
  });
}

void attention_gradient_by_library(cudaStream_t stream, const Tensor& gq, const Tensor& gk,
                                   const Tensor& gv, const Tensor& gy, const Tensor& y,
                                   const Tensor& stats, const AttentionCall& c) {
  check_inputs(c);
  check_results(gq, gk, gv, gy, y);
  const Problem p(c);
  dispatch_half(y.dtype(), [&](auto type) {
    using T = decltype(type);
    using M = Matrices<T>;
    const Gradient<T> g{M(c.q), M(c.k), M(c.v), M(y), M(gy), data_of<float>(stats), p};
    launch_rows(stream, p.count * p.queries, query_kernel<T>, M(gq), g);
    launch_rows(stream, p.count * p.keys, key_kernel<T>, M(gk), M(gv), g);
  });
}

void attention_mask_by_library(cudaStream_t stream, const Tensor& mask, const AttentionCall& c) {
  const Problem p(c);
  launch_rows(stream, p.count * p.queries, mask_kernel, data_of<float>(mask), p);
}

}  // namespace lockstep::cuda
