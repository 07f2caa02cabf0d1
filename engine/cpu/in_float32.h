#pragma once

#include <initializer_list>
#include <vector>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/cpu/elementwise.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::cpu {

inline bool is_half(const Tensor& t) {
  return t.defined() && (t.dtype() == DType::kBFloat16 || t.dtype() == DType::kFloat16);
}

// bfloat16 and float16 are for storage: calls run(outputs, inputs) with float32 copies of those
// that have 16 bits, and rounds the outputs once.
template <typename F>
void in_float32(std::initializer_list<Tensor> outputs, std::initializer_list<Tensor> inputs,
                F&& run) {
  const autograd::NoGrad no_grad;
  std::vector<Tensor> wide_outputs, wide_inputs;
  for (const Tensor& t : inputs) wide_inputs.push_back(is_half(t) ? t.to(DType::kFloat32) : t);
  for (const Tensor& t : outputs) {
    if (!is_half(t)) {
      wide_outputs.push_back(t);
    } else if (t.is_channels_last() && !t.is_contiguous()) {
      wide_outputs.push_back(empty_channels_last(t.sizes(), DType::kFloat32, t.device()));
    } else {
      wide_outputs.push_back(empty_dense(t.sizes(), DType::kFloat32, t.device()));
    }
  }
  run(wide_outputs, wide_inputs);
  size_t i = 0;
  for (const Tensor& t : outputs) {
    if (is_half(t)) copy_strided(t, wide_outputs[i]);
    ++i;
  }
}

}  // namespace lockstep::cpu
