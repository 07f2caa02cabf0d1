#pragma once

#include <array>
#include <compare>
#include <optional>

#include "lockstep/engine/cuda/cudnn_graph.h"
#include "lockstep/engine/tensor/dtype.h"

// Scaled dot-product attention as graphs of cuDNN, which its fused kernels recognise. Nothing here
// needs a device.
namespace lockstep::cuda {

enum class AttentionPass { kForward, kGradient };

// All that a plan depends on; the scale is given when it runs. The tensors' strides are those of
// (B, H, length, width), in elements; the width's is 1.
struct AttentionProblem {
  using Strides = std::array<int64_t, 4>;

  AttentionPass pass = AttentionPass::kForward;
  DType dtype = DType::kBFloat16;
  int64_t batch = 0, heads = 0;
  int64_t queries = 0, keys = 0;       // L and S
  int64_t width = 0, value_width = 0;  // of queries and keys, and of values and results
  Strides q{}, k{}, v{}, y{};
  Strides gy{}, gq{}, gk{}, gv{};  // of the gradients; kGradient only
  bool causal = false;
  double dropout = 0;
  bool dump_mask = false;  // writes out which weights are kept; kForward with dropout only

  // NOLINTNEXTLINE(modernize-use-nullptr): the check misreads a defaulted operator
  friend auto operator<=>(const AttentionProblem&, const AttentionProblem&) = default;
};

// What the tensors are called in the plans.
enum AttentionId : int64_t {
  kAttentionQ = 1,
  kAttentionK,
  kAttentionV,
  kAttentionY,
  kAttentionStats,  // (B, H, L, 1), float32: the logarithm of each row's sum of exp(score)
  kAttentionGy,
  kAttentionGq,
  kAttentionGk,
  kAttentionGv,
  kAttentionRowSums,  // (B, H, L, 1), float32: memory for the gradient
  kAttentionMask,     // (B, H, L, S), float32: 1 where a weight is kept, 0 where it is dropped
  kAttentionSeed,     // of the dropout, and the offset: one int64 on the device each
  kAttentionOffset,
  // Numbers of the host, float32:
  kAttentionScale,
  kAttentionHidden,    // the score of what causal hides
  kAttentionKeep,      // 1 - dropout; 1 without. kGradient
  kAttentionKeepScale  // 1 / (1 - dropout); with dropout
};

// A plan that gives the same bits on every run. None for other dtypes than bfloat16 and float16,
// and where cuDNN has no such plan.
std::optional<CudnnPlan> plan_attention(const AttentionProblem& problem, const CudnnTarget& target);

}  // namespace lockstep::cuda
