#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/layout.h"

namespace lockstep::cpu {

// A 2-d pooling of n images with c channels. out_h and out_w are the caller's, from
// pooled_size(). Padding is implicit: minus infinity for the maximum, zeros for the average.
struct Pool2dShape {
  int64_t n = 0;
  int64_t c = 0;
  int64_t h = 0;
  int64_t w = 0;
  int64_t out_h = 0;
  int64_t out_w = 0;
  int64_t kh = 1;
  int64_t kw = 1;
  int64_t stride_h = 1;
  int64_t stride_w = 1;
  int64_t pad_h = 0;
  int64_t pad_w = 0;
  int64_t dilation_h = 1;  // maximum only
  int64_t dilation_w = 1;
  bool count_include_pad = true;  // average only: padding counts in the divisor
};

// Output pixels along one dimension, as PyTorch counts them: with ceil_mode a last window that
// reaches over the edge counts, unless it would start in the padding behind the input.
int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                    bool ceil_mode);

// y is the maximum of each window: the first of equals, NaN before everything. indices, laid out as
// y, are its places h * shape.w + w. The bits do not depend on num_threads(), in any of these.
template <typename T>  // float, double
void max_pool2d_forward(const Pool2dShape& shape, Layout layout, const T* x, T* y,
                        int32_t* indices);
template <typename T>
void max_pool2d_backward(const Pool2dShape& shape, Layout layout, const T* gy,
                         const int32_t* indices, T* gx);

template <typename T>
void avg_pool2d_forward(const Pool2dShape& shape, Layout layout, const T* x, T* y);
template <typename T>
void avg_pool2d_backward(const Pool2dShape& shape, Layout layout, const T* gy, T* gx);

}  // namespace lockstep::cpu
