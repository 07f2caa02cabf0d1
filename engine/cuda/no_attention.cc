// In place of attention_cudnn.cc where the plugin is built without cuDNN.
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

[[noreturn]] void refuse() { fail<Error>("[attention] this plugin was built without cuDNN"); }

}  // namespace

bool can_attend_by_library(const AttentionCall&, bool) { return false; }

void attention_by_library(cudaStream_t, const Tensor&, const Tensor&, const AttentionCall&) {
  refuse();
}

void attention_gradient_by_library(cudaStream_t, const Tensor&, const Tensor&, const Tensor&,
                                   const Tensor&, const Tensor&, const Tensor&,
                                   const AttentionCall&) {
  refuse();
}

void attention_mask_by_library(cudaStream_t, const Tensor&, const AttentionCall&) { refuse(); }

}  // namespace lockstep::cuda
