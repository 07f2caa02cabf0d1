#pragma once

#include <algorithm>
#include <cstdint>

#include "lockstep/engine/tensor/dims.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Two tensors of one shape, walked in the order of the first one's memory with even runs merged.
// At least one dimension; the last is the innermost. Trivially copyable: kernels take it by value.
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

  // All but the innermost dimension.
  int64_t rows() const {
    int64_t n = 1;
    for (int d = 0; d < dims - 1; ++d) n *= sizes[d];
    return n;
  }
  int64_t inner() const { return sizes[dims - 1]; }
};

}  // namespace lockstep
