#include "lockstep/engine/cpu/optimizer_kernels.h"

#include <cmath>

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

template <typename T, bool kMomentum>
void sgd_as(const OptimizerSegment& s, int64_t begin, int64_t end, const SgdArgs& args) {
  T* __restrict p = static_cast<T*>(s.param);
  const T* __restrict g = static_cast<const T*>(s.grad);
  T* __restrict buffer = static_cast<T*>(s.state[0]);
  const T lr = static_cast<T>(args.lr), decay = static_cast<T>(args.weight_decay);
  const T mu = static_cast<T>(args.momentum), take = static_cast<T>(1 - args.dampening);
  const T sign = args.maximize ? T(-1) : T(1);
  const bool first = args.first_step, nesterov = args.nesterov;
  for (int64_t i = begin; i < end; ++i) {
    T d = sign * g[i] + decay * p[i];
    if constexpr (kMomentum) {
      const T b = first ? d : mu * buffer[i] + take * d;
      buffer[i] = b;
      d = nesterov ? d + mu * b : b;
    }
    p[i] -= lr * d;
  }
}

template <typename T, bool kAmsgrad>
void adam_as(const OptimizerSegment& s, int64_t begin, int64_t end, const AdamArgs& args) {
  T* __restrict p = static_cast<T*>(s.param);
  const T* __restrict g = static_cast<const T*>(s.grad);
  T* __restrict m = static_cast<T*>(s.state[0]);
  T* __restrict v = static_cast<T*>(s.state[1]);
  T* __restrict largest = static_cast<T*>(s.state[2]);
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  const T step_size = static_cast<T>(args.lr / correction1);
  const T root = static_cast<T>(std::sqrt(correction2));
  const T beta1 = static_cast<T>(args.beta1), rest1 = static_cast<T>(1 - args.beta1);
  const T beta2 = static_cast<T>(args.beta2), rest2 = static_cast<T>(1 - args.beta2);
  const T eps = static_cast<T>(args.eps);
  const T sign = args.maximize ? T(-1) : T(1);
  const T l2 = args.decoupled_weight_decay ? T(0) : static_cast<T>(args.weight_decay);
  const T shrink =
      args.decoupled_weight_decay ? static_cast<T>(1 - args.lr * args.weight_decay) : T(1);
  for (int64_t i = begin; i < end; ++i) {
    const T x = p[i] * shrink;
    const T d = sign * g[i] + l2 * x;
    const T mean = beta1 * m[i] + rest1 * d;
    const T square = beta2 * v[i] + rest2 * d * d;
    m[i] = mean;
    v[i] = square;
    T used = square;
    if constexpr (kAmsgrad) {
      used = largest[i] > square ? largest[i] : square;
      largest[i] = used;
    }
    p[i] = x - step_size * (mean / (std::sqrt(used) / root + eps));
  }
}

template <typename T>
void sgd_of(const OptimizerSegment& s, int64_t begin, int64_t end, const SgdArgs& args) {
  s.state[0] ? sgd_as<T, true>(s, begin, end, args) : sgd_as<T, false>(s, begin, end, args);
}

template <typename T>
void adam_of(const OptimizerSegment& s, int64_t begin, int64_t end, const AdamArgs& args) {
  s.state[2] ? adam_as<T, true>(s, begin, end, args) : adam_as<T, false>(s, begin, end, args);
}

void sgd(const OptimizerSegment& s, int64_t begin, int64_t end, const SgdArgs& args) {
  s.dtype == DType::kFloat32 ? sgd_of<float>(s, begin, end, args)
                             : sgd_of<double>(s, begin, end, args);
}

void adam(const OptimizerSegment& s, int64_t begin, int64_t end, const AdamArgs& args) {
  s.dtype == DType::kFloat32 ? adam_of<float>(s, begin, end, args)
                             : adam_of<double>(s, begin, end, args);
}

}  // namespace

const OptimizerKernels& optimizer_kernels() {
  static constexpr OptimizerKernels kTable{.sgd = sgd, .adam = adam};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
