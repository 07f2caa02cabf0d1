#include "lockstep/engine/cpu/softmax_kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

// exp for x <= 0 without branches, so that loops over it vectorise. x = n * ln 2 + r with
// |r| <= ln(2) / 2; exp(r) by its Taylor polynomial of degree 7 (error below 1e-8 relative), 2^n by
// its bits. ln 2 in two parts keeps r exact to rounding. Below the smallest normal number: zero.
inline float exp_of(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = (__builtin_bit_cast(uint32_t, shifted) + 127u) << 23;
  const float result = p * __builtin_bit_cast(float, exponent);
  return x < -87.33f ? 0.0f : result;
}
inline double exp_of(double x) { return __builtin_exp(x); }

// Sums run in kLanes fixed partial sums, added pairwise, whatever the instruction set.
constexpr int kLanes = 16;

template <typename T>
inline T add_lanes(T (&lanes)[kLanes]) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) {
      lanes[i] += lanes[i + step];
    }
  }
  return lanes[0];
}

template <typename T>
inline T max_of(int64_t cols, const T* x) {
  const int64_t whole = cols / kLanes * kLanes;
  T most[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    most[i] = x[i < cols ? i : 0];
  }
  for (int64_t c = 0; c < whole; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      most[i] = x[c + i] > most[i] ? x[c + i] : most[i];
    }
  }
  T max = most[0];
  for (int i = 1; i < kLanes; ++i) {
    max = most[i] > max ? most[i] : max;
  }
  for (int64_t c = whole; c < cols; ++c) {
    max = x[c] > max ? x[c] : max;
  }
  return max;
}

template <typename T>
inline T log_of(T x) {
  return static_cast<T>(__builtin_log(static_cast<double>(x)));
}

template <typename T>
void log_sum(int64_t cols, const T* x, T* max_and_log_sum) {
  const T max = max_of(cols, x);
  const int64_t whole = cols / kLanes * kLanes;
  T sums[kLanes] = {};
  for (int64_t c = 0; c < whole; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      sums[i] += exp_of(x[c + i] - max);
    }
  }
  for (int64_t c = whole; c < cols; ++c) {
    sums[c - whole] += exp_of(x[c] - max);
  }
  max_and_log_sum[0] = max;
  max_and_log_sum[1] = log_of(add_lanes(sums));
}

template <typename T>
void forward(int64_t cols, const T* x, T* y) {
  T of_row[2];
  log_sum(cols, x, of_row);
  for (int64_t c = 0; c < cols; ++c) {
    y[c] = (x[c] - of_row[0]) - of_row[1];
  }
}

template <typename T>
void scaled_softmax(int64_t cols, const T* x, const T* max_and_log_sum, T factor, T* y) {
  const T max = max_and_log_sum[0], log_sum = max_and_log_sum[1];
  for (int64_t c = 0; c < cols; ++c) {
    y[c] = factor * exp_of((x[c] - max) - log_sum);
  }
}

template <typename T>
void softmax(int64_t cols, const T* x, T* y) {
  const T max = max_of(cols, x);
  const int64_t whole = cols / kLanes * kLanes;
  T sums[kLanes] = {};
  for (int64_t c = 0; c < whole; c += kLanes) {
    T e[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      e[i] = exp_of(x[c + i] - max);
    }
    for (int i = 0; i < kLanes; ++i) {
      sums[i] += e[i];
    }
    for (int i = 0; i < kLanes; ++i) {
      y[c + i] = e[i];
    }
  }
  for (int64_t c = whole; c < cols; ++c) {
    y[c] = exp_of(x[c] - max);
    sums[c - whole] += y[c];
  }
  const T scale = T{1} / add_lanes(sums);
  for (int64_t c = 0; c < cols; ++c) {
    y[c] *= scale;
  }
}

template <typename T>
void softmax_backward(int64_t cols, const T* gy, const T* y, T* gx) {
  const int64_t whole = cols / kLanes * kLanes;
  T sums[kLanes] = {};
  for (int64_t c = 0; c < whole; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      sums[i] += gy[c + i] * y[c + i];
    }
  }
  for (int64_t c = whole; c < cols; ++c) {
    sums[c - whole] += gy[c] * y[c];
  }
  const T sum = add_lanes(sums);
  for (int64_t c = 0; c < cols; ++c) {
    gx[c] = y[c] * (gy[c] - sum);
  }
}

template <typename T>
void backward(int64_t cols, const T* gy, const T* y, T* gx) {
  const int64_t whole = cols / kLanes * kLanes;
  T sums[kLanes] = {};
  for (int64_t c = 0; c < whole; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      sums[i] += gy[c + i];
    }
  }
  for (int64_t c = whole; c < cols; ++c) {
    sums[c - whole] += gy[c];
  }
  const T sum = add_lanes(sums);
  for (int64_t c = 0; c < cols; ++c) {
    gx[c] = gy[c] - exp_of(y[c]) * sum;
  }
}

template <typename T>
constexpr SoftmaxKernelsOf<T> kKernels{.forward = forward<T>,
                                       .backward = backward<T>,
                                       .softmax = softmax<T>,
                                       .softmax_backward = softmax_backward<T>,
                                       .log_sum = log_sum<T>,
                                       .scaled_softmax = scaled_softmax<T>};

}  // namespace

const SoftmaxKernels& softmax_kernels() {
  static constexpr SoftmaxKernels kTable{.f32 = kKernels<float>, .f64 = kKernels<double>};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
