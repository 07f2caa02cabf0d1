#include "lockstep/engine/cpu/pool_kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

// The part of a window that lies in the input: from `begin` in steps of the dilation up to `end`.
// `padded` is how many taps an average that counts padding divides by.
struct Window {
  int64_t begin;
  int64_t end;
  int64_t padded;
};

Window window(int64_t out, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
              int64_t dilation) {
  int64_t begin = out * stride - pad;
  int64_t end = begin + (kernel - 1) * dilation + 1;
  const int64_t padded = (end < size + pad ? end : size + pad) - begin;
  if (begin < 0) {
    begin += (-begin + dilation - 1) / dilation * dilation;
  }
  return {begin, end < size ? end : size, padded};
}

Window rows(const Pool2dShape& s, int64_t i, int64_t dilation) {
  return window(i, s.h, s.kh, s.stride_h, s.pad_h, dilation);
}
Window cols(const Pool2dShape& s, int64_t j, int64_t dilation) {
  return window(j, s.w, s.kw, s.stride_w, s.pad_w, dilation);
}

template <typename T>
void max_forward(const Pool2dShape& s, const T* x, T* y, int32_t* indices) {
  constexpr T kLowest = -static_cast<T>(__builtin_inf());
  for (int64_t i = 0; i < s.out_h; ++i) {
    const Window wh = rows(s, i, s.dilation_h);
    for (int64_t j = 0; j < s.out_w; ++j) {
      const Window ww = cols(s, j, s.dilation_w);
      T* __restrict best = y + (i * s.out_w + j) * s.c;
      int32_t* __restrict index = indices + (i * s.out_w + j) * s.c;
      const auto first = static_cast<int32_t>(wh.begin * s.w + ww.begin);
      for (int64_t c = 0; c < s.c; ++c) {
        best[c] = kLowest;
        index[c] = first;
      }
      for (int64_t h = wh.begin; h < wh.end; h += s.dilation_h) {
        for (int64_t w = ww.begin; w < ww.end; w += s.dilation_w) {
          const T* __restrict from = x + (h * s.w + w) * s.c;
          const auto here = static_cast<int32_t>(h * s.w + w);
          for (int64_t c = 0; c < s.c; ++c) {
            const T value = from[c];
            const bool take = (value > best[c]) | (value != value);
            best[c] = take ? value : best[c];
            index[c] = take ? here : index[c];
          }
        }
      }
    }
  }
}

// Every place of a window compares itself with the index: more reads than a scatter, but in
// vectors.
template <typename T>
void max_backward(const Pool2dShape& s, const T* gy, const int32_t* indices, T* gx) {
  for (int64_t k = 0; k < s.h * s.w * s.c; ++k) {
    gx[k] = 0;
  }
  for (int64_t i = 0; i < s.out_h; ++i) {
    const Window wh = rows(s, i, s.dilation_h);
    for (int64_t j = 0; j < s.out_w; ++j) {
      const Window ww = cols(s, j, s.dilation_w);
      const T* __restrict from = gy + (i * s.out_w + j) * s.c;
      const int32_t* __restrict index = indices + (i * s.out_w + j) * s.c;
      for (int64_t h = wh.begin; h < wh.end; h += s.dilation_h) {
        for (int64_t w = ww.begin; w < ww.end; w += s.dilation_w) {
          T* __restrict to = gx + (h * s.w + w) * s.c;
          const auto here = static_cast<int32_t>(h * s.w + w);
          for (int64_t c = 0; c < s.c; ++c) {
            to[c] += index[c] == here ? from[c] : T{0};
          }
        }
      }
    }
  }
}

template <typename T>
T divisor(const Pool2dShape& s, const Window& wh, const Window& ww) {
  return static_cast<T>(s.count_include_pad ? wh.padded * ww.padded
                                            : (wh.end - wh.begin) * (ww.end - ww.begin));
}

template <typename T>
void avg_forward(const Pool2dShape& s, const T* x, T* y) {
  for (int64_t i = 0; i < s.out_h; ++i) {
    const Window wh = rows(s, i, 1);
    for (int64_t j = 0; j < s.out_w; ++j) {
      const Window ww = cols(s, j, 1);
      T* __restrict to = y + (i * s.out_w + j) * s.c;
      for (int64_t c = 0; c < s.c; ++c) {
        to[c] = 0;
      }
      if (wh.begin >= wh.end || ww.begin >= ww.end) {
        continue;
      }
      for (int64_t h = wh.begin; h < wh.end; ++h) {
        for (int64_t w = ww.begin; w < ww.end; ++w) {
          const T* __restrict from = x + (h * s.w + w) * s.c;
          for (int64_t c = 0; c < s.c; ++c) {
            to[c] += from[c];
          }
        }
      }
      const T count = divisor<T>(s, wh, ww);
      for (int64_t c = 0; c < s.c; ++c) {
        to[c] /= count;
      }
    }
  }
}

template <typename T>
void avg_backward(const Pool2dShape& s, const T* gy, T* gx) {
  for (int64_t k = 0; k < s.h * s.w * s.c; ++k) {
    gx[k] = 0;
  }
  for (int64_t i = 0; i < s.out_h; ++i) {
    const Window wh = rows(s, i, 1);
    for (int64_t j = 0; j < s.out_w; ++j) {
      const Window ww = cols(s, j, 1);
      const T* __restrict from = gy + (i * s.out_w + j) * s.c;
      const T count = divisor<T>(s, wh, ww);
      for (int64_t h = wh.begin; h < wh.end; ++h) {
        for (int64_t w = ww.begin; w < ww.end; ++w) {
          T* __restrict to = gx + (h * s.w + w) * s.c;
          for (int64_t c = 0; c < s.c; ++c) {
            to[c] += from[c] / count;
          }
        }
      }
    }
  }
}

template <typename T>
constexpr PoolKernelsOf<T> kKernels{.max_forward = max_forward<T>,
                                    .max_backward = max_backward<T>,
                                    .avg_forward = avg_forward<T>,
                                    .avg_backward = avg_backward<T>};

}  // namespace

const PoolKernels& pool_kernels() {
  static constexpr PoolKernels kTable{.f32 = kKernels<float>, .f64 = kKernels<double>};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
