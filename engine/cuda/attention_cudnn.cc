#include <array>
#include <limits>
#include <vector>

#include "lockstep/engine/cuda/attention_plan.h"
#include "lockstep/engine/cuda/attention_rules.h"
#include "lockstep/engine/cuda/cudnn_device.h"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

// Attention by cuDNN.
namespace lockstep::cuda {
namespace {

using Strides = AttentionProblem::Strides;

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// Of a result, which is stored as (B, length, H, width).
Strides result_strides(const AttentionProblem& p, int64_t length, int64_t width) {
  return {length * p.heads * width, width, p.heads * width, 1};
}

AttentionProblem problem_of(AttentionPass pass, const AttentionCall& call) {
  AttentionProblem p;
  p.pass = pass;
  p.dtype = call.q.dtype();
  p.batch = call.q.size(0);
  p.heads = call.q.size(1);
  p.queries = call.q.size(2);
  p.keys = call.k.size(2);
  p.width = call.q.size(3);
  p.value_width = call.v.size(3);
  p.q = strides_of(call.q);
  p.k = strides_of(call.k);
  p.v = strides_of(call.v);
  p.y = result_strides(p, p.queries, p.value_width);
  if (pass == AttentionPass::kGradient) {
    p.gy = p.y;
    p.gq = result_strides(p, p.queries, p.width);
    p.gk = result_strides(p, p.keys, p.width);
    p.gv = result_strides(p, p.keys, p.value_width);
  }
  p.causal = call.causal;
  p.dropout = call.dropout;
  return p;
}

const CudnnPlan* find_plan(Device device, const AttentionProblem& problem) {
  static auto* plans = new CudnnPlans<AttentionProblem>(plan_attention);  // outlives static tensors
  return plans->find(device, problem);
}

// Older kernels make NaN of -inf.
float hidden_score() {
  return cudnn().version() < 91000 ? std::numeric_limits<float>::lowest()
                                   : -std::numeric_limits<float>::infinity();
}

// Keeps what the numbers and the random ones' seed lie in while the work is issued.
class Arguments {
 public:
  explicit Arguments(const AttentionCall& call)
      : call_(call),
        scale_(static_cast<float>(call.scale)),
        keep_(static_cast<float>(1 - call.dropout)),
        keep_scale_(static_cast<float>(1 / (1 - call.dropout))),
        hidden_(hidden_score()) {
    add(kAttentionQ, call.q);
    add(kAttentionK, call.k);
    add(kAttentionV, call.v);
    all_.push_back({kAttentionScale, &scale_});
    if (call.causal) all_.push_back({kAttentionHidden, &hidden_});
    if (call.dropout > 0) add_dropout();
  }
  void add(int64_t id, const Tensor& tensor) { all_.push_back({id, tensor.data_ptr()}); }
  void add_keep() { all_.push_back({kAttentionKeep, &keep_}); }

  void execute(cudaStream_t stream, const AttentionProblem& problem) {
    const Device device = call_.q.device();
    const CudnnPlan* const plan = find_plan(device, problem);
    check<Error>(plan, "[attention] cuDNN has no plan for queries {} and keys {} of {}",
                 call_.q.sizes().str(), call_.k.sizes().str(), name_of(problem.dtype));
    CudnnDevice::of(device).execute(stream, *plan, all_);
  }

 private:
  void add_dropout() {
    all_.push_back({kAttentionKeepScale, &keep_scale_});
    const std::array<uint32_t, 4> words = call_.key.words(0);
    const std::array<uint64_t, 2> seed_and_offset = {uint64_t{words[0]} << 32 | words[1], 0};
    seed_ = empty_dense({2}, DType::kInt64, call_.q.device());
    backend_of(seed_).copy_from_host(seed_.data_ptr(), seed_and_offset.data(),
                                     sizeof seed_and_offset);
    auto* const seed = static_cast<int64_t*>(seed_.data_ptr());
    all_.push_back({kAttentionSeed, seed});
    all_.push_back({kAttentionOffset, seed + 1});
  }

  const AttentionCall& call_;
  float scale_, keep_, keep_scale_, hidden_;
  Tensor seed_;
  std::vector<CudnnArgument> all_;
};

Tensor rows_of(const AttentionCall& call) {
  const Tensor& q = call.q;
  return empty_dense({q.size(0), q.size(1), q.size(2), 1}, DType::kFloat32, q.device());
}

}  // namespace

bool can_attend_by_library(const AttentionCall& call, bool gradient) {
  if (!may_attend(call, gradient) || !find_cudnn()) return false;
  const Device device = call.q.device();
  return find_plan(device, problem_of(AttentionPass::kForward, call)) &&
         (!gradient || find_plan(device, problem_of(AttentionPass::kGradient, call)));
}

void attention_by_library(cudaStream_t stream, const Tensor& y, const Tensor& stats,
                          const AttentionCall& call) {
  Arguments arguments(call);
  arguments.add(kAttentionY, y);
  arguments.add(kAttentionStats, stats);
  arguments.execute(stream, problem_of(AttentionPass::kForward, call));
}

void attention_gradient_by_library(cudaStream_t stream, const Tensor& gq, const Tensor& gk,
                                   const Tensor& gv, const Tensor& gy, const Tensor& y,
                                   const Tensor& stats, const AttentionCall& call) {
  const Tensor row_sums = rows_of(call);
  Arguments arguments(call);
  arguments.add_keep();
  arguments.add(kAttentionY, y);
  arguments.add(kAttentionStats, stats);
  arguments.add(kAttentionGy, gy);
  arguments.add(kAttentionGq, gq);
  arguments.add(kAttentionGk, gk);
  arguments.add(kAttentionGv, gv);
  arguments.add(kAttentionRowSums, row_sums);
  arguments.execute(stream, problem_of(AttentionPass::kGradient, call));
}

void attention_mask_by_library(cudaStream_t stream, const Tensor& mask, const AttentionCall& call) {
  const Tensor& q = call.q;
  const Tensor y =
      empty_dense({q.size(0), q.size(2), q.size(1), call.v.size(3)}, q.dtype(), q.device());
  const Tensor stats = rows_of(call);
  AttentionProblem problem = problem_of(AttentionPass::kForward, call);
  problem.dump_mask = true;
  Arguments arguments(call);
  arguments.add(kAttentionY, y);
  arguments.add(kAttentionStats, stats);
  arguments.add(kAttentionMask, mask);
  arguments.execute(stream, problem);
}

}  // namespace lockstep::cuda
