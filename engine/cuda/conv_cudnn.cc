#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

#include <fmt/format.h>

#include "lockstep/engine/cuda/conv_plan.h"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/cuda/reduction.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/tensor_impl.h"

// Convolutions by cuDNN: the plans found so far, and their execution.
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

// One device's cuDNN: a handle, and a plan for every problem seen, or that there is none.
class Convolutions {
 public:
  bool run(cudaStream_t stream, const ConvProblem& problem, const Tensor& x, const Tensor& w,
           const Tensor& y, const Tensor& bias) {
    const std::lock_guard lock(mutex_);
    use(stream);
    auto found = plans_.find(problem);
    if (found == plans_.end()) {
      found = plans_.emplace(problem, plan_convolution(problem, {.handle = handle_})).first;
    }
    const std::optional<CudnnPlan>& plan = found->second;
    if (!plan) return false;
    // Freed when it goes, and used again by what is issued later to the same stream.
    const Tensor workspace =
        empty_dense({static_cast<int64_t>(plan->workspace_bytes())}, DType::kUInt8, x.device());
    const std::array<int64_t, 4> ids = {kConvX, kConvW, kConvY, kConvBias};
    const std::array<void*, 4> data = {x.data_ptr(), w.data_ptr(), y.data_ptr(),
                                       bias.defined() ? bias.data_ptr() : nullptr};
    const size_t count = bias.defined() ? 4 : 3;
    plan->execute(handle_, std::span(ids).first(count), std::span(data).first(count),
                  workspace.data_ptr());
    return true;
  }

 private:
  void use(cudaStream_t stream) {
    if (!handle_) check_cudnn(cudnn().create(&handle_), "cudnnCreate");
    if (stream == stream_) return;
    check_cudnn(cudnn().set_stream(handle_, stream), "cudnnSetStream");
    stream_ = stream;
  }

  std::mutex mutex_;
  cudnnHandle_t handle_ = nullptr;  // kept as long as the process
  cudaStream_t stream_ = nullptr;   // the handle's
  std::map<ConvProblem, std::optional<CudnnPlan>> plans_;
};

bool run(ConvPass pass, cudaStream_t stream, const Tensor& x, const Tensor& w, const Tensor& y,
         const Tensor& bias, const Conv2dParams& params) {
  if (x.dtype() == DType::kFloat64 || x.numel() == 0 || w.numel() == 0 || y.numel() == 0) {
    return false;
  }
  if (!find_cudnn()) return false;
  static auto* devices = new std::map<int, Convolutions>;  // outlives every static tensor
  static std::mutex mutex;
  Convolutions* convolutions = nullptr;
  {
    const std::lock_guard lock(mutex);
    convolutions = &(*devices)[x.device().index];
  }
  return convolutions->run(stream, problem_of(pass, x, w, y, bias, params), x, w, y, bias);
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
