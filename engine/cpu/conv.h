#pragma once

#include <compare>
#include <cstdint>

#include "lockstep/engine/cpu/layout.h"

namespace lockstep::cpu {

// A 2-d convolution: n images of c channels and h x w pixels become o channels. Padding is zeros on
// both sides; weights are (o, c / groups, kh, kw), always contiguous in that order.
struct Conv2dShape {
  int64_t n = 0;
  int64_t c = 0;
  int64_t h = 0;
  int64_t w = 0;
  int64_t o = 0;
  int64_t kh = 1;
  int64_t kw = 1;
  int64_t stride_h = 1;
  int64_t stride_w = 1;
  int64_t pad_h = 0;
  int64_t pad_w = 0;
  int64_t dilation_h = 1;
  int64_t dilation_w = 1;
  int64_t groups = 1;

  int64_t out_h() const { return (h + 2 * pad_h - dilation_h * (kh - 1) - 1) / stride_h + 1; }
  int64_t out_w() const { return (w + 2 * pad_w - dilation_w * (kw - 1) - 1) / stride_w + 1; }
  // NOLINTNEXTLINE(modernize-use-nullptr): the check misreads a defaulted operator
  friend auto operator<=>(const Conv2dShape&, const Conv2dShape&) = default;
};

// All activations of a call (x, y and their gradients) have the one layout; kNhwc is the faster.
// float runs on oneDNN, double is a plain loop for references and gradient checks. Outputs are
// overwritten. The bits do not depend on num_threads(). Throws ValueError on a shape whose output
// would be empty or whose groups do not divide the channels.
//
// y = conv(x, w) + bias. bias has o elements or is null.
void conv2d_forward(const Conv2dShape& shape, Layout layout, const float* x, const float* w,
                    const float* bias, float* y);
void conv2d_forward(const Conv2dShape& shape, Layout layout, const double* x, const double* w,
                    const double* bias, double* y);

// The gradient of x from that of y.
void conv2d_backward_data(const Conv2dShape& shape, Layout layout, const float* gy, const float* w,
                          float* gx);
void conv2d_backward_data(const Conv2dShape& shape, Layout layout, const double* gy,
                          const double* w, double* gx);

// The gradients of w and, unless gb is null, of the bias: sums over the batch in a fixed tree.
void conv2d_backward_weights(const Conv2dShape& shape, Layout layout, const float* x,
                             const float* gy, float* gw, float* gb);
void conv2d_backward_weights(const Conv2dShape& shape, Layout layout, const double* x,
                             const double* gy, double* gw, double* gb);

}  // namespace lockstep::cpu
