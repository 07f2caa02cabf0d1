#pragma once

#include <array>
#include <compare>
#include <optional>

#include "lockstep/engine/cuda/cudnn_graph.h"
#include "lockstep/engine/tensor/dtype.h"

// Convolutions as graphs of cuDNN. Nothing here needs a device.
namespace lockstep::cuda {

enum class ConvPass { kForward, kInputGradient, kWeightGradient };

// All that a plan depends on. x: (N, C, H, W), w: (O, C / groups, h, w), y: (N, O, H', W'); the two
// gradients have the sizes of x and w.
struct ConvProblem {
  ConvPass pass = ConvPass::kForward;
  DType dtype = DType::kFloat32;
  bool tf32 = false;  // operands of float32 may be rounded to TF32
  std::array<int64_t, 4> x{}, w{}, y{};
  std::array<int64_t, 2> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  bool bias = false;           // added to y; forward only
  bool channels_last = false;  // x and y are stored as (N, H, W, C); w is contiguous always
  int64_t alignment = 16;      // of all tensors' first elements, in bytes

  // NOLINTNEXTLINE(modernize-use-nullptr): the check misreads a defaulted operator
  friend auto operator<=>(const ConvProblem&, const ConvProblem&) = default;
};

// What the tensors are called in the plans.
inline constexpr int64_t kConvX = 1, kConvW = 2, kConvY = 3, kConvBias = 4;

// A plan that gives the same bits on every run, and computes float32 in float32 unless TF32 is
// allowed. None for float64, and where cuDNN has no such plan.
std::optional<CudnnPlan> plan_convolution(const ConvProblem& problem, const CudnnTarget& target);

}  // namespace lockstep::cuda
