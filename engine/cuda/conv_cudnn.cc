#include <array>
#include <initializer_list>
#include <span>

#include <fmt/format.h>

#include "lockstep/engine/cuda/conv_plan.h"
#include "lockstep/engine/cuda/cudnn_device.h"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/cuda/reduction.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/tensor/tensor_impl.h"

// Convolutions by cuDNN.
namespace lockstep::cuda {
namespace {

std::array<int64_t, 4> sizes_of(const Tensor& t) {
  return {t.size(0), t.size(1), t.size(2), t.size(3)};
}

int64_t common_alignment(std::initializer_list<const Tensor*> tensors) {
  constexpr uintptr_t kEnough = 16;
  uintptr_t bits = kEnough;
  for (const Tensor* t : tensors) {
    if (t->defined()) bits |= reinterpret_cast<uintptr_t>(t->data_ptr());
  }
  return int64_t{1} << __builtin_ctzll(bits);
}

ConvProblem problem_of(ConvPass pass, const Tensor& x, const Tensor& w, const Tensor& y,
                       const Tensor& bias, const Conv2dParams& params) {
  ConvProblem p;
  p.pass = pass;
  p.dtype = x.dtype();
  p.tf32 = x.dtype() == DType::kFloat32 && matmul_precision() != MatmulPrecision::kHighest;
  p.x = sizes_of(x);
  p.w = sizes_of(w);
  p.y = sizes_of(y);
  for (size_t d = 0; d < 2; ++d) {
    p.stride[d] = params.stride[d];
    p.padding[d] = params.padding[d];
    p.dilation[d] = params.dilation[d];
  }
  p.bias = bias.defined();
  p.channels_last = x.is_channels_last() && y.is_channels_last();
  p.alignment = common_alignment({&x, &w, &y, &bias});
  return p;
}

bool run(ConvPass pass, cudaStream_t stream, const Tensor& x, const Tensor& w, const Tensor& y,
         const Tensor& bias, const Conv2dParams& params) {
  if (x.dtype() == DType::kFloat64 || x.numel() == 0 || w.numel() == 0 || y.numel() == 0) {
    return false;
  }
  if (!find_cudnn()) return false;
  static auto* plans = new CudnnPlans<ConvProblem>(plan_convolution);  // outlives static tensors
  const CudnnPlan* const plan = plans->find(x.device(), problem_of(pass, x, w, y, bias, params));
  if (!plan) return false;
  const std::array<CudnnArgument, 4> arguments = {{
      {kConvX, x.data_ptr()},
      {kConvW, w.data_ptr()},
      {kConvY, y.data_ptr()},
      {kConvBias, bias.defined() ? bias.data_ptr() : nullptr},
  }};
  CudnnDevice::of(x.device())
      .execute(stream, *plan, std::span(arguments).first(bias.defined() ? 4 : 3));
  return true;
}

}  // namespace

bool conv2d_by_library(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& w,
                       const Tensor& bias, const Conv2dParams& params) {
  return run(ConvPass::kForward, stream, x, w, y, bias, params);
}

bool conv2d_input_gradient_by_library(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                                      const Tensor& w, const Conv2dParams& params) {
  return run(ConvPass::kInputGradient, stream, gx, w, gy, {}, params);
}

bool conv2d_weight_gradient_by_library(cudaStream_t stream, const Tensor& gw, const Tensor& gbias,
                                       const Tensor& gy, const Tensor& x,
                                       const Conv2dParams& params) {
  if (!run(ConvPass::kWeightGradient, stream, x, gw, gy, {}, params)) return false;
  if (gbias.defined()) {
    const Dims per_channel = {1, gbias.size(0), 1, 1};
    sum_dims(stream,
             alias_of(gbias, per_channel, contiguous_strides(per_channel), gbias.impl()->offset),
             gy);
  }
  return true;
}

std::string convolution_fact() {
  const CudnnLibrary* const library = find_cudnn();
  if (!library) {
    return fmt::format("libcudnn.so.{} not found: convolutions use slow kernels", CUDNN_MAJOR);
  }
  const size_t v = library->version();
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

}  // namespace lockstep::cuda
