#include "lockstep/engine/cpu/optimizer_kernels.h"

#include "lockstep/engine/optimizer_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

template <typename T, bool kMomentum>
void sgd_as(const OptimizerSegment& s, int64_t begin, int64_t end, const SgdArgs& args) {
  T* __restrict p = static_cast<T*>(s.param);
  const T* __restrict g = static_cast<const T*>(s.grad);
  T* __restrict buffer = static_cast<T*>(s.state[0]);
  const SgdMath<T> math(args);
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (kMomentum) {
      math.step(p[i], g[i], buffer[i]);
    } else {
      math.step(p[i], g[i]);
    }
  }
}

template <typename T, bool kAmsgrad>
void adam_as(const OptimizerSegment& s, int64_t begin, int64_t end, const AdamArgs& args) {
  T* __restrict p = static_cast<T*>(s.param);
  const T* __restrict g = static_cast<const T*>(s.grad);
  T* __restrict m = static_cast<T*>(s.state[0]);
  T* __restrict v = static_cast<T*>(s.state[1]);
  T* __restrict largest = static_cast<T*>(s.state[2]);
  const AdamMath<T> math(args);
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (kAmsgrad) {
      math.step(p[i], g[i], m[i], v[i], largest[i]);
    } else {
      math.step(p[i], g[i], m[i], v[i]);
    }
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
