#include "lockstep/engine/cpu/pool.h"

#include <limits>
#include <type_traits>

#include "lockstep/engine/cpu/pool_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

template <typename T>
const PoolKernelsOf<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return pool_kernels().f32;
  } else {
    return pool_kernels().f64;
  }
}

void check_shape(const Pool2dShape& s) {
  check(s.kh >= 1 && s.kw >= 1 && s.stride_h >= 1 && s.stride_w >= 1 && s.dilation_h >= 1 &&
            s.dilation_w >= 1 && s.pad_h >= 0 && s.pad_w >= 0,
        "[pool2d] kernel {}x{}, stride {}x{}, padding {}x{}, dilation {}x{}: out of range", s.kh,
        s.kw, s.stride_h, s.stride_w, s.pad_h, s.pad_w, s.dilation_h, s.dilation_w);
  check(2 * s.pad_h <= s.kh && 2 * s.pad_w <= s.kw,
        "[pool2d] padding {}x{} is more than half of the kernel {}x{}", s.pad_h, s.pad_w, s.kh,
        s.kw);
  check(s.h * s.w <= std::numeric_limits<int32_t>::max(),
        "[pool2d] planes of {}x{} pixels are too large for 32-bit indices", s.h, s.w);
}

// Calls fn(shape, input offset, output offset) per image in nhwc, in parallel over the batch. In
// nchw every plane is an image of one channel.
template <typename F>
void for_images(Pool2dShape shape, Layout layout, F&& fn) {
  check_shape(shape);
  int64_t planes = 1;
  if (layout == Layout::kNchw) {
    planes = shape.c;
    shape.c = 1;
  }
  const int64_t in = shape.h * shape.w * shape.c;
  const int64_t out = shape.out_h * shape.out_w * shape.c;
  parallel_for(shape.n, [&](int64_t n) {
    for (int64_t image = n * planes; image < (n + 1) * planes; ++image) {
      fn(shape, image * in, image * out);
    }
  });
}

}  // namespace

int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                    bool ceil_mode) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  check(stride >= 1 && kernel >= 1 && room >= 0,
        "[pool2d] kernel {} (dilation {}, stride {}) does not fit into {} pixels with padding {}",
        kernel, dilation, stride, size, pad);
  int64_t out = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (out - 1) * stride >= size + pad) {
    --out;
  }
  return out;
}

template <typename T>
void max_pool2d_forward(const Pool2dShape& shape, Layout layout, const T* x, T* y,
                        int32_t* indices) {
  for_images(shape, layout, [&](const Pool2dShape& image, int64_t in, int64_t out) {
    kernels<T>().max_forward(image, x + in, y + out, indices + out);
  });
}

template <typename T>
void max_pool2d_backward(const Pool2dShape& shape, Layout layout, const T* gy,
                         const int32_t* indices, T* gx) {
  for_images(shape, layout, [&](const Pool2dShape& image, int64_t in, int64_t out) {
    kernels<T>().max_backward(image, gy + out, indices + out, gx + in);
  });
}

template <typename T>
void avg_pool2d_forward(const Pool2dShape& shape, Layout layout, const T* x, T* y) {
  for_images(shape, layout, [&](const Pool2dShape& image, int64_t in, int64_t out) {
    kernels<T>().avg_forward(image, x + in, y + out);
  });
}

template <typename T>
void avg_pool2d_backward(const Pool2dShape& shape, Layout layout, const T* gy, T* gx) {
  for_images(shape, layout, [&](const Pool2dShape& image, int64_t in, int64_t out) {
    kernels<T>().avg_backward(image, gy + out, gx + in);
  });
}

template void max_pool2d_forward(const Pool2dShape&, Layout, const float*, float*, int32_t*);
template void max_pool2d_forward(const Pool2dShape&, Layout, const double*, double*, int32_t*);
template void max_pool2d_backward(const Pool2dShape&, Layout, const float*, const int32_t*, float*);
template void max_pool2d_backward(const Pool2dShape&, Layout, const double*, const int32_t*,
                                  double*);
template void avg_pool2d_forward(const Pool2dShape&, Layout, const float*, float*);
template void avg_pool2d_forward(const Pool2dShape&, Layout, const double*, double*);
template void avg_pool2d_backward(const Pool2dShape&, Layout, const float*, float*);
template void avg_pool2d_backward(const Pool2dShape&, Layout, const double*, double*);

}  // namespace lockstep::cpu
