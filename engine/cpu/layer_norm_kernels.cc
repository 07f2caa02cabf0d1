#include "lockstep/engine/cpu/layer_norm_kernels.h"

// Element i of the output depends on element i of the inputs only: they may be the same array.
#if defined(__clang__)
#define LOCKSTEP_NO_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define LOCKSTEP_NO_DEPENDENCE _Pragma("GCC ivdep")
#endif

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int kLanes = 16;

// sum of term(c): kLanes fixed partial sums of a piece of the row, added pairwise; the pieces in
// double.
template <typename T, typename F>
inline __attribute__((always_inline)) double sum_of(int64_t cols, F term) {
  constexpr int64_t kPiece = 4096;
  double total = 0;
  for (int64_t begin = 0; begin < cols; begin += kPiece) {
    const int64_t end = begin + kPiece < cols ? begin + kPiece : cols;
    T lanes[kLanes] = {};
    int64_t c = begin;
    for (; c + kLanes <= end; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        lanes[i] += term(c + i);
      }
    }
    for (int i = 0; c + i < end; ++i) {
      lanes[i] += term(c + i);
    }
    for (int step = kLanes / 2; step > 0; step /= 2) {
      for (int i = 0; i < step; ++i) {
        lanes[i] += lanes[i + step];
      }
    }
    total += static_cast<double>(lanes[0]);
  }
  return total;
}

template <typename F>
inline __attribute__((always_inline)) void map(int64_t cols, F fn) {
  LOCKSTEP_NO_DEPENDENCE
  for (int64_t c = 0; c < cols; ++c) {
    fn(c);
  }
}

template <typename T>
void forward(int64_t cols, const T* x, const T* weight, const T* bias, double eps, T* y, T* mean,
             T* rstd) {
  const auto count = static_cast<double>(cols);
  T m = 0;
  if (mean != nullptr) {
    m = static_cast<T>(sum_of<T>(cols, [=](int64_t c) { return x[c]; }) / count);
    *mean = m;
  }
  const double variance = sum_of<T>(cols,
                                    [=](int64_t c) {
                                      const T centred = x[c] - m;
                                      return centred * centred;
                                    }) /
                          count;
  const T r = static_cast<T>(1 / __builtin_sqrt(variance + eps));
  *rstd = r;
  if (weight != nullptr && bias != nullptr) {
    map(cols, [=](int64_t c) { y[c] = (x[c] - m) * r * weight[c] + bias[c]; });
  } else if (weight != nullptr) {
    map(cols, [=](int64_t c) { y[c] = (x[c] - m) * r * weight[c]; });
  } else if (bias != nullptr) {
    map(cols, [=](int64_t c) { y[c] = (x[c] - m) * r + bias[c]; });
  } else {
    map(cols, [=](int64_t c) { y[c] = (x[c] - m) * r; });
  }
}

template <typename T>
void add_sums(int64_t cols, const T* gy, const T* x, const T* mean, T rstd, T* gweight, T* gbias) {
  const T m = mean != nullptr ? *mean : T{0};
  if (gweight != nullptr) {
    map(cols, [=](int64_t c) { gweight[c] += gy[c] * ((x[c] - m) * rstd); });
  }
  if (gbias != nullptr) {
    map(cols, [=](int64_t c) { gbias[c] += gy[c]; });
  }
}

// With g = gy weight and s = (x - mean) rstd: gx = (g - mean(g) - s mean(g s)) rstd, without
// mean(g) where the mean is not that of x but 0.
template <typename T, typename F>
inline __attribute__((always_inline)) void through(int64_t cols, const T* x, const T* mean, T rstd,
                                                   T* gx, F g) {
  const T m = mean != nullptr ? *mean : T{0};
  const auto count = static_cast<double>(cols);
  const T a = mean != nullptr ? static_cast<T>(sum_of<T>(cols, g) / count) : T{0};
  const T b = static_cast<T>(
      sum_of<T>(cols, [=](int64_t c) { return g(c) * ((x[c] - m) * rstd); }) / count);
  map(cols, [=](int64_t c) { gx[c] = ((g(c) - a) - (x[c] - m) * rstd * b) * rstd; });
}

template <typename T>
void input_gradient(int64_t cols, const T* gy, const T* x, const T* mean, T rstd, const T* weight,
                    T* gx) {
  if (weight != nullptr) {
    through(cols, x, mean, rstd, gx, [=](int64_t c) { return gy[c] * weight[c]; });
  } else {
    through(cols, x, mean, rstd, gx, [=](int64_t c) { return gy[c]; });
  }
}

template <typename T>
constexpr LayerNormKernelsOf<T> kKernels{
    .forward = forward<T>, .add_sums = add_sums<T>, .input_gradient = input_gradient<T>};

}  // namespace

const LayerNormKernels& layer_norm_kernels() {
  static constexpr LayerNormKernels kTable{.f32 = kKernels<float>, .f64 = kKernels<double>};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
