#include "lockstep/engine/cuda/index_check.h"

#include "lockstep/engine/cuda/kernel.cuh"

namespace lockstep::cuda {
namespace {

// All bits set: NaN in every floating dtype, -1 in integers.
struct Poison {
  unsigned char* data;  // may be null
  int bytes;
  __device__ void spread() const {
    for (int i = 0; i < bytes; ++i) data[i] = 0xff;
  }
};

__global__ void __launch_bounds__(kThreads)
    check_kernel(WrongIndex* found, const int64_t* index, int64_t n, const IndexRule rule,
                 const Poison poison) {
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    const int64_t at = index[i];
    if (rule.admits(at)) continue;
    poison.spread();
    if (atomicCAS(&found->claimed, 0u, 1u) != 0u) continue;
    found->rule = rule;
    found->index = at;
    found->position = i;
    __threadfence_system();
    found->complete = 1;
  }
}

}  // namespace

void IndexCheck::check(cudaStream_t stream, const IndexRule& rule, const Tensor& index,
                       const Tensor& poisoned) const {
  const bool poisons = poisoned.defined() && poisoned.numel() > 0;
  const Poison poison{poisons ? data_of<unsigned char>(poisoned) : nullptr,
                      poisons ? static_cast<int>(size_of(poisoned.dtype())) : 0};
  launch(stream, blocks_for(index.numel()), kThreads, check_kernel, found_, data_of<int64_t>(index),
         index.numel(), rule, poison);
}

}  // namespace lockstep::cuda
