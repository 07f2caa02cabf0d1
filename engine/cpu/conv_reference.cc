// Convolution in double: plain loops, for references and gradient checks.
#include <algorithm>

#include "lockstep/engine/cpu/conv.h"
#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep::cpu {
namespace {

struct Strides {
  int64_t n, c, h, w;
};

Strides strides_of(Layout layout, int64_t c, int64_t h, int64_t w) {
  return layout == Layout::kNhwc ? Strides{h * w * c, 1, w * c, c}
                                 : Strides{c * h * w, h * w, w, 1};
}

// The taps of one kernel row or column that meet the input: those with 0 <= in(k) < size.
template <typename F>
void for_taps(int64_t out, int64_t stride, int64_t pad, int64_t dilation, int64_t taps,
              int64_t size, F&& fn) {
  for (int64_t k = 0; k < taps; ++k) {
    const int64_t in = out * stride - pad + k * dilation;
    if (in >= 0 && in < size) {
      fn(k, in);
    }
  }
}

// Calls fn(x offset, w offset) for everything that output (image, o, i, j) is a sum of.
template <typename F>
void for_terms(const Conv2dShape& s, const Strides& sx, int64_t image, int64_t o, int64_t i,
               int64_t j, F&& fn) {
  const int64_t channels = s.c / s.groups;
  const int64_t first = o / (s.o / s.groups) * channels;
  for (int64_t c = 0; c < channels; ++c) {
    for_taps(i, s.stride_h, s.pad_h, s.dilation_h, s.kh, s.h, [&](int64_t kh, int64_t h) {
      for_taps(j, s.stride_w, s.pad_w, s.dilation_w, s.kw, s.w, [&](int64_t kw, int64_t w) {
        fn(image * sx.n + (first + c) * sx.c + h * sx.h + w * sx.w,
           ((o * channels + c) * s.kh + kh) * s.kw + kw);
      });
    });
  }
}

template <typename F>
void for_outputs(const Conv2dShape& s, const Strides& sy, int64_t image, int64_t o, F&& fn) {
  for (int64_t i = 0; i < s.out_h(); ++i) {
    for (int64_t j = 0; j < s.out_w(); ++j) {
      fn(i, j, image * sy.n + o * sy.c + i * sy.h + j * sy.w);
    }
  }
}

}  // namespace

void conv2d_forward(const Conv2dShape& s, Layout layout, const double* x, const double* w,
                    const double* bias, double* y) {
  const Strides sx = strides_of(layout, s.c, s.h, s.w);
  const Strides sy = strides_of(layout, s.o, s.out_h(), s.out_w());
  parallel_for(s.n * s.o, [&](int64_t tile) {
    const int64_t image = tile / s.o;
    const int64_t o = tile % s.o;
    for_outputs(s, sy, image, o, [&](int64_t i, int64_t j, int64_t at) {
      double sum = bias != nullptr ? bias[o] : 0.0;
      for_terms(s, sx, image, o, i, j, [&](int64_t from, int64_t k) { sum += x[from] * w[k]; });
      y[at] = sum;
    });
  });
}

void conv2d_backward_data(const Conv2dShape& s, Layout layout, const double* gy, const double* w,
                          double* gx) {
  const Strides sx = strides_of(layout, s.c, s.h, s.w);
  const Strides sy = strides_of(layout, s.o, s.out_h(), s.out_w());
  parallel_for(s.n, [&](int64_t image) {
    std::fill_n(gx + image * sx.n, sx.n, 0.0);
    for (int64_t o = 0; o < s.o; ++o) {
      for_outputs(s, sy, image, o, [&](int64_t i, int64_t j, int64_t at) {
        for_terms(s, sx, image, o, i, j, [&](int64_t to, int64_t k) { gx[to] += gy[at] * w[k]; });
      });
    }
  });
}

void conv2d_backward_weights(const Conv2dShape& s, Layout layout, const double* x, const double* gy,
                             double* gw, double* gb) {
  const Strides sx = strides_of(layout, s.c, s.h, s.w);
  const Strides sy = strides_of(layout, s.o, s.out_h(), s.out_w());
  const int64_t taps = s.c / s.groups * s.kh * s.kw;
  parallel_for(s.o, [&](int64_t o) {
    std::fill_n(gw + o * taps, taps, 0.0);
    double bias = 0.0;
    for (int64_t image = 0; image < s.n; ++image) {
      for_outputs(s, sy, image, o, [&](int64_t i, int64_t j, int64_t at) {
        bias += gy[at];
        for_terms(s, sx, image, o, i, j,
                  [&](int64_t from, int64_t k) { gw[k] += x[from] * gy[at]; });
      });
    }
    if (gb != nullptr) {
      gb[o] = bias;
    }
  });
}

}  // namespace lockstep::cpu
