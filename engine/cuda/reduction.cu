#include "lockstep/engine/cuda/reduction.h"

#include <algorithm>

#include "lockstep/engine/cuda/axes.cuh"
#include "lockstep/engine/cuda/elementwise.h"
#include "lockstep/engine/tensor/tensor_impl.h"

// How a reduction is spread over threads. The threads of a block are `columns` neighbouring outputs
// times `lanes` that share the terms of each; neighbouring threads go along whichever is closer
// together in memory. What the lanes found is combined in shared memory by a tree. Where there are
// too few outputs to fill the device, the terms are cut into `splits` parts as well; the results of
// the parts make a (splits, outputs) matrix, which is reduced in the same way.
namespace lockstep::cuda {
namespace {

struct Reduction {
  Axes kept, terms;
  int64_t outputs, count;     // results, and terms of each
  Divisor tiles;              // of `columns` outputs
  int64_t splits, per_split;  // parts of the terms
  int columns, lanes;         // powers of two; their product is kThreads
  bool along_terms;           // neighbouring threads take neighbouring terms
};

constexpr int64_t kTermsPerLane = 16;    // fewer are not worth a further split
constexpr int64_t kTermsInARow = 64;     // added one to another; beyond it, pairs of such sums
constexpr int64_t kWantedBlocks = 1024;  // fill the largest devices

int64_t power_of_two(int64_t at_least, int64_t at_most) {
  int64_t n = 1;
  while (n < at_least && n < at_most) n *= 2;
  return n;
}

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// The smallest step between neighbours, if there are any.
int64_t step_of(const Axes& axes) {
  int64_t step = INT64_MAX;
  for (int d = 0; d < axes.dims; ++d) {
    if (axes.strides[d] > 0) step = std::min(step, axes.strides[d]);
  }
  return step;
}

Reduction planned(const Axes& kept, const Axes& terms) {
  Reduction r;
  r.kept = kept;
  r.terms = terms;
  r.outputs = kept.numel();
  r.count = terms.numel();
  r.along_terms = step_of(terms) < step_of(kept);
  const int64_t lanes = power_of_two(divide_up(r.count, 4), kThreads);
  const int64_t columns = r.along_terms ? 1 : power_of_two(r.outputs, kWarp);
  r.lanes = static_cast<int>(std::min(lanes, kThreads / columns));
  r.columns = kThreads / r.lanes;
  r.tiles = Divisor(divide_up(r.outputs, r.columns));
  const int64_t splits = std::min(divide_up(r.count, r.lanes * kTermsPerLane),
                                  divide_up(kWantedBlocks, r.tiles.value()));
  r.per_split = divide_up(divide_up(r.count, splits), r.lanes) * r.lanes;
  r.splits = divide_up(r.count, r.per_split);
  return r;
}

// The reduction of what the parts gave.
Reduction planned_over_splits(const Reduction& first) {
  Axes kept, terms;
  kept.add(first.outputs, 1);
  terms.add(first.splits, first.outputs);
  Reduction r = planned(kept, terms);
  r.splits = 1;
  r.per_split = r.count;
  return r;
}

// Which output of a tile and which of its lanes a thread is; lanes are `step` threads apart.
struct Place {
  int column, lane, step;
};
__device__ Place place_of(const Reduction& r) {
  const int t = static_cast<int>(threadIdx.x);
  if (r.along_terms) return {t / r.lanes, t % r.lanes, 1};
  return {t % r.columns, t / r.columns, r.columns};
}

// out[split][output]
template <typename Out, typename In>
__global__ void __launch_bounds__(kThreads) sum_kernel(Out* out, const In* in, const Reduction r) {
  __shared__ Sum<In> sums[kThreads];
  const Place at = place_of(r);
  for (int64_t item = blockIdx.x; item < r.tiles.value() * r.splits; item += gridDim.x) {
    const Split part = split(item, r.tiles);
    const int64_t output = part.remainder * r.columns + at.column;
    Sum<In> total = 0;
    if (output < r.outputs) {
      const In* from = in + offset_in(r.kept, output);
      const int64_t first = part.quotient * r.per_split;
      const int64_t end = first + r.per_split < r.count ? first + r.per_split : r.count;
      for (int64_t i = first + at.lane; i < end;) {
        const int64_t row_end = i + kTermsInARow * r.lanes < end ? i + kTermsInARow * r.lanes : end;
        Sum<In> row = 0;
        for (; i < row_end; i += r.lanes) row += convert<Sum<In>>(from[offset_in(r.terms, i)]);
        total += row;
      }
    }
    sums[threadIdx.x] = total;
    for (int width = r.lanes / 2; width > 0; width /= 2) {
      __syncthreads();
      if (at.lane < width) sums[threadIdx.x] += sums[threadIdx.x + width * at.step];
    }
    if (at.lane == 0 && output < r.outputs) {
      out[part.quotient * r.outputs + output] = convert<Out>(sums[threadIdx.x]);
    }
    __syncthreads();  // `sums` will be written again
  }
}

template <typename T>
void sum_as(cudaStream_t stream, const Tensor& out, const Tensor& in, const Reduction& r) {
  if (r.splits == 1) {
    return launch(stream, blocks_for(r.tiles.value(), 1), kThreads, sum_kernel<T, T>,
                  data_of<T>(out), data_of<T>(in), r);
  }
  using S = Sum<T>;
  const Tensor parts = empty_dense({r.splits, r.outputs}, kDTypeOf<S>, in.device());
  launch(stream, blocks_for(r.tiles.value() * r.splits, 1), kThreads, sum_kernel<S, T>,
         data_of<S>(parts), data_of<T>(in), r);
  const Reduction second = planned_over_splits(r);
  launch(stream, blocks_for(second.tiles.value(), 1), kThreads, sum_kernel<T, S>, data_of<T>(out),
         data_of<S>(parts), second);
}

template <typename T>
__device__ bool is_nan(T value) {
  if constexpr (std::is_floating_point_v<T>) return value != value;
  return false;
}

// Whether (a, at i) beats (b, at j): an order of all pairs, so that it does not matter in which
// order they meet. An index of -1 stands for no candidate.
template <typename T>
__device__ bool beats(T a, int64_t i, T b, int64_t j, bool largest) {
  if (i < 0 || j < 0) return j < 0 && i >= 0;
  if (is_nan(a) || is_nan(b)) return is_nan(a) && (!is_nan(b) || i < j);
  if (a == b) return i < j;
  return largest ? a > b : a < b;
}

// values and indices: [split][output]. `places`: the indices of `in`, if not its terms' numbers.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    extreme_kernel(T* values, int64_t* indices, const T* in, const int64_t* places,
                   const Reduction r, bool largest) {
  using C = Compute<T>;
  __shared__ C best_values[kThreads];
  __shared__ int64_t best_indices[kThreads];
  const Place at = place_of(r);
  for (int64_t item = blockIdx.x; item < r.tiles.value() * r.splits; item += gridDim.x) {
    const Split part = split(item, r.tiles);
    const int64_t output = part.remainder * r.columns + at.column;
    C best = C(0);
    int64_t index = -1;
    if (output < r.outputs) {
      const int64_t base = offset_in(r.kept, output);
      const int64_t first = part.quotient * r.per_split;
      const int64_t end = first + r.per_split < r.count ? first + r.per_split : r.count;
      for (int64_t i = first + at.lane; i < end; i += r.lanes) {
        const int64_t from = base + offset_in(r.terms, i);
        const C value = convert<C>(in[from]);
        const int64_t place = places ? places[from] : i;
        if (beats(value, place, best, index, largest)) {
          best = value;
          index = place;
        }
      }
    }
    best_values[threadIdx.x] = best;
    best_indices[threadIdx.x] = index;
    for (int width = r.lanes / 2; width > 0; width /= 2) {
      __syncthreads();
      const int other = static_cast<int>(threadIdx.x) + width * at.step;
      if (at.lane < width && beats(best_values[other], best_indices[other],
                                   best_values[threadIdx.x], best_indices[threadIdx.x], largest)) {
        best_values[threadIdx.x] = best_values[other];
        best_indices[threadIdx.x] = best_indices[other];
      }
    }
    if (at.lane == 0 && output < r.outputs) {
      values[part.quotient * r.outputs + output] = convert<T>(best_values[threadIdx.x]);
      indices[part.quotient * r.outputs + output] = best_indices[threadIdx.x];
    }
    __syncthreads();
  }
}

template <typename T>
void extreme_as(cudaStream_t stream, const Tensor& values, const Tensor& indices, const Tensor& in,
                const Reduction& r, bool largest) {
  const auto run = [&](const Tensor& to, const Tensor& to_indices, const Tensor& from,
                       const int64_t* places, const Reduction& reduction) {
    launch(stream, blocks_for(reduction.tiles.value() * reduction.splits, 1), kThreads,
           extreme_kernel<T>, data_of<T>(to), data_of<int64_t>(to_indices), data_of<T>(from),
           places, reduction, largest);
  };
  if (r.splits == 1) return run(values, indices, in, nullptr, r);
  const Tensor best = empty_dense({r.splits, r.outputs}, in.dtype(), in.device());
  const Tensor places = empty_dense({r.splits, r.outputs}, DType::kInt64, in.device());
  run(best, places, in, nullptr, r);
  run(values, indices, best, data_of<int64_t>(places), planned_over_splits(r));
}

}  // namespace

void sum_dims(cudaStream_t stream, const Tensor& out, const Tensor& in) {
  if (out.numel() == 0) return;
  if (in.numel() == 0) return fill_strided(stream, out, 0);
  Axes kept, terms;
  int reduced[kMaxDims];
  int count = 0;
  for (int d = 0; d < in.dim(); ++d) {
    if (out.sizes()[d] == in.sizes()[d]) {
      kept.add(in.sizes()[d], in.strides()[d]);
    } else {
      reduced[count++] = d;
    }
  }
  std::stable_sort(reduced, reduced + count,
                   [&](int a, int b) { return in.strides()[a] > in.strides()[b]; });
  for (int k = 0; k < count; ++k) terms.add(in.sizes()[reduced[k]], in.strides()[reduced[k]]);
  const Reduction r = planned(kept, terms);
  switch (in.dtype()) {
    case DType::kFloat32:
      return sum_as<float>(stream, out, in, r);
    case DType::kFloat64:
      return sum_as<double>(stream, out, in, r);
    case DType::kBFloat16:
      return sum_as<BFloat16>(stream, out, in, r);
    case DType::kFloat16:
      return sum_as<Float16>(stream, out, in, r);
    case DType::kInt64:
      return sum_as<int64_t>(stream, out, in, r);
    default:
      no_kernel("sum", in.dtype());
  }
}

void extreme_along(cudaStream_t stream, const Tensor& values, const Tensor& indices,
                   const Tensor& in, int dim, bool largest) {
  if (values.numel() == 0) return;
  Axes kept, terms;
  for (int d = 0; d < in.dim(); ++d) {
    (d == dim ? terms : kept).add(in.sizes()[d], in.strides()[d]);
  }
  const Reduction r = planned(kept, terms);
  dispatch_all(in.dtype(), [&](auto type) {
    extreme_as<decltype(type)>(stream, values, indices, in, r, largest);
  });
}

}  // namespace lockstep::cuda
