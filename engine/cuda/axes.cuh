#pragma once

#include "lockstep/engine/cuda/division.cuh"
#include "lockstep/engine/cuda/kernel.cuh"

// Places in strided and dense tensors, for kernels.
namespace lockstep::cuda {

struct Split {
  int64_t quotient, remainder;
};
__device__ inline Split split(int64_t n, const Divisor& divisor) {
  const int64_t quotient = divisor.quotient(n);
  return {quotient, n - quotient * divisor.value()};
}

// Some dimensions of a strided tensor, the last the fastest; even runs are merged. Trivially
// copyable: kernels take it by value.
struct Axes {
  int dims = 0;
  Divisor sizes[kMaxDims];
  int64_t strides[kMaxDims] = {};

  void add(int64_t size, int64_t stride) {
    if (size == 1) return;
    if (dims > 0 && strides[dims - 1] == size * stride) {
      sizes[dims - 1] = Divisor(sizes[dims - 1].value() * size);
      strides[dims - 1] = stride;
    } else {
      sizes[dims] = Divisor(size);
      strides[dims++] = stride;
    }
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int d = 0; d < dims; ++d) n *= sizes[d].value();
    return n;
  }
};

// Where element i lies.
__device__ inline int64_t offset_in(const Axes& axes, int64_t i) {
  int64_t offset = 0;
  for (int d = axes.dims - 1; d > 0; --d) {
    const Split at = split(i, axes.sizes[d]);
    offset += at.remainder * axes.strides[d];
    i = at.quotient;
  }
  return offset + i * axes.strides[0];
}

// A dense tensor, not empty, seen as (outer, length, inner), `length` along one dimension; a line
// is what runs along it, and there are outer * inner of them.
struct Lines {
  int64_t outer = 1;
  Divisor length, inner, count;

  Lines(const Tensor& t, int dim) {
    int64_t inner_size = 1;
    for (int d = 0; d < dim; ++d) outer *= t.sizes()[d];
    for (int d = dim + 1; d < t.dim(); ++d) inner_size *= t.sizes()[d];
    length = Divisor(t.dim() > 0 ? t.sizes()[dim] : 1);
    inner = Divisor(inner_size);
    count = Divisor(outer * inner_size);
  }
};

// The first element of a line.
__device__ inline int64_t start_of(const Lines& lines, int64_t line) {
  const Split at = split(line, lines.inner);
  return at.quotient * lines.length.value() * lines.inner.value() + at.remainder;
}

// What sums are added up in.
template <typename T>
using Sum = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

}  // namespace lockstep::cuda
