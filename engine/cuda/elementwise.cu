#include "lockstep/engine/cuda/elementwise.h"

#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/tensor/walk.h"

namespace lockstep::cuda {
namespace {

// Offsets of element i of a walk, counted with the innermost dimension fastest. 32-bit division is
// several times faster where it suffices.
template <typename Index>
__device__ void place(const Walk& walk, Index i, int64_t* out, int64_t* in) {
  *out = *in = 0;
  for (int d = walk.dims - 1; d > 0; --d) {
    const auto size = static_cast<Index>(walk.sizes[d]);
    const Index at = i % size;
    i /= size;
    *out += at * walk.out_strides[d];
    *in += at * walk.in_strides[d];
  }
  *out += i * walk.out_strides[0];
  *in += i * walk.in_strides[0];
}

__device__ void place(const Walk& walk, bool narrow, int64_t i, int64_t* out, int64_t* in) {
  if (narrow) {
    place<uint32_t>(walk, static_cast<uint32_t>(i), out, in);
  } else {
    place<int64_t>(walk, i, out, in);
  }
}

template <typename Out, typename In>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(Out* out, const In* in, const Walk walk, int64_t n, bool narrow) {
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    int64_t to, from;
    place(walk, narrow, i, &to, &from);
    out[to] = convert<Out>(in[from]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(T* out, T value, const Walk walk, int64_t n, bool narrow) {
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    int64_t to, unused;
    place(walk, narrow, i, &to, &unused);
    out[to] = value;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    random_kernel(T* out, int64_t n, RandomKind kind, double p, double q, const RandomKey given,
                  const RandomKey* base) {
  RandomKey key = given;
  if (base) {
    key = *base;
    key.ordinal += given.ordinal;
  }
  constexpr int kDraws = kDrawsPerBlock<T>;
  const int64_t blocks = (n + kDraws - 1) / kDraws;
  for (int64_t block = grid_index(); block < blocks; block += grid_size()) {
    T values[kDraws] = {};
    draw(values, key.words(static_cast<uint32_t>(block)), kind, p, q);
    for (int j = 0; j < kDraws && block * kDraws + j < n; ++j) out[block * kDraws + j] = values[j];
  }
}

bool is_narrow(int64_t n) { return n <= INT32_MAX; }

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() &&
         ((a.is_contiguous() && b.is_contiguous()) ||
          (a.is_channels_last() && b.is_channels_last() && a.strides() == b.strides()));
}

}  // namespace

void copy_strided(cudaStream_t stream, const Tensor& out, const Tensor& in) {
  const int64_t n = out.numel();
  if (n == 0) return;
  if (same_bytes(out, in)) {
    check_cuda(cudaMemcpyAsync(out.data_ptr(), in.data_ptr(),
                               static_cast<size_t>(n) * size_of(out.dtype()),
                               cudaMemcpyDeviceToDevice, stream),
               "copy");
    return;
  }
  const Walk walk(out, in);
  dispatch_all(out.dtype(), [&](auto out_type) {
    dispatch_all(in.dtype(), [&](auto in_type) {
      using Out = decltype(out_type);
      using In = decltype(in_type);
      launch(stream, blocks_for(n), kThreads, copy_kernel<Out, In>, data_of<Out>(out),
             data_of<In>(in), walk, n, is_narrow(n));
    });
  });
}

void fill_strided(cudaStream_t stream, const Tensor& out, Scalar value) {
  const int64_t n = out.numel();
  if (n == 0) return;
  const Walk walk(out, out);
  dispatch_all(out.dtype(), [&](auto type) {
    using T = decltype(type);
    const T v =
        value.is_floating() ? convert<T>(value.to<double>()) : convert<T>(value.to<int64_t>());
    launch(stream, blocks_for(n), kThreads, fill_kernel<T>, data_of<T>(out), v, walk, n,
           is_narrow(n));
  });
}

void fill_random(cudaStream_t stream, const Tensor& out, RandomKind kind, double p, double q,
                 const RandomKey& key, const RandomKey* base) {
  const int64_t n = out.numel();
  if (n == 0) return;
  if (out.dtype() == DType::kFloat32) {
    launch(stream, blocks_for(n, kThreads * kDrawsPerBlock<float>), kThreads, random_kernel<float>,
           out.data<float>(), n, kind, p, q, key, base);
  } else {
    launch(stream, blocks_for(n, kThreads * kDrawsPerBlock<double>), kThreads,
           random_kernel<double>, out.data<double>(), n, kind, p, q, key, base);
  }
}

}  // namespace lockstep::cuda
