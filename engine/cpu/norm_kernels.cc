#include "lockstep/engine/cpu/norm_kernels.h"

// Element i of the output depends on element i of the inputs only: they may be the same array.
#if defined(__clang__)
#define LOCKSTEP_NO_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define LOCKSTEP_NO_DEPENDENCE _Pragma("GCC ivdep")
#endif

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

template <typename T>
using Block = typename NormKernelsOf<T>::Block;

constexpr int kLanes = 16;

// sum[c] = sum of term(offset, c). Channels last: one pass over the rows, vectors along the
// channels. Channels second: kLanes fixed partial sums per plane, added pairwise.
template <typename T, typename F>
inline __attribute__((always_inline)) void reduce(const Block<T>& b, T* __restrict sum, F term) {
  for (int64_t c = 0; c < b.c; ++c) {
    sum[c] = 0;
  }
  if (b.channels_last) {
    for (int64_t row = 0; row < b.rows; ++row) {
      for (int64_t c = 0; c < b.c; ++c) {
        sum[c] += term(row * b.c + c, c);
      }
    }
    return;
  }
  for (int64_t row = 0; row < b.rows; ++row) {
    for (int64_t c = 0; c < b.c; ++c) {
      const int64_t at = (row * b.c + c) * b.spatial;
      T lanes[kLanes] = {};
      int64_t s = 0;
      for (; s + kLanes <= b.spatial; s += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
          lanes[i] += term(at + s + i, c);
        }
      }
      for (int i = 0; s + i < b.spatial; ++i) {
        lanes[i] += term(at + s + i, c);
      }
      for (int step = kLanes / 2; step > 0; step /= 2) {
        for (int i = 0; i < step; ++i) {
          lanes[i] += lanes[i + step];
        }
      }
      sum[c] += lanes[0];
    }
  }
}

template <typename T, typename F>
inline __attribute__((always_inline)) void map(const Block<T>& b, F fn) {
  if (b.channels_last) {
    for (int64_t row = 0; row < b.rows; ++row) {
      LOCKSTEP_NO_DEPENDENCE
      for (int64_t c = 0; c < b.c; ++c) {
        fn(row * b.c + c, c);
      }
    }
    return;
  }
  for (int64_t row = 0; row < b.rows; ++row) {
    for (int64_t c = 0; c < b.c; ++c) {
      const int64_t at = (row * b.c + c) * b.spatial;
      LOCKSTEP_NO_DEPENDENCE
      for (int64_t s = 0; s < b.spatial; ++s) {
        fn(at + s, c);
      }
    }
  }
}

template <typename T>
void sum(const Block<T>& b, const T* x, T* out) {
  reduce<T>(b, out, [=](int64_t at, int64_t) { return x[at]; });
}

template <typename T>
void sum_of_squares(const Block<T>& b, const T* x, const T* mean, T* out) {
  reduce<T>(b, out, [=](int64_t at, int64_t c) {
    const T centred = x[at] - mean[c];
    return centred * centred;
  });
}

template <typename T>
void gradient_sums(const Block<T>& b, const T* gy, const T* x, const T* mean, T* sum_gy,
                   T* sum_gx) {
  reduce<T>(b, sum_gy, [=](int64_t at, int64_t) { return gy[at]; });
  reduce<T>(b, sum_gx, [=](int64_t at, int64_t c) { return gy[at] * (x[at] - mean[c]); });
}

template <typename T>
void normalize(const Block<T>& b, const T* x, const T* mean, const T* scale, const T* shift, T* y) {
  map<T>(b, [=](int64_t at, int64_t c) { y[at] = (x[at] - mean[c]) * scale[c] + shift[c]; });
}

template <typename T>
void input_gradient(const Block<T>& block, const T* gy, const T* x, const T* mean, const T* scale,
                    const T* a, const T* b, T* gx) {
  map<T>(block, [=](int64_t at, int64_t c) {
    gx[at] = ((gy[at] - a[c]) - (x[at] - mean[c]) * b[c]) * scale[c];
  });
}

template <typename T>
constexpr NormKernelsOf<T> kKernels{.sum = sum<T>,
                                    .sum_of_squares = sum_of_squares<T>,
                                    .gradient_sums = gradient_sums<T>,
                                    .normalize = normalize<T>,
                                    .input_gradient = input_gradient<T>};

}  // namespace

const NormKernels& norm_kernels() {
  static constexpr NormKernels kTable{.f32 = kKernels<float>, .f64 = kKernels<double>};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
