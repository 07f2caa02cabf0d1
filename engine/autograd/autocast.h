#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// Whether the calling thread computes in mixed precision, and its low dtype then.
bool autocast_enabled();
DType autocast_dtype();

// Mixed precision for a scope of the calling thread, as torch.autocast:
//
//   {
//     const autograd::Autocast scope(DType::kBFloat16);
//     loss = nn::cross_entropy(net.forward(x), y);
//   }
//   loss.backward();  // no scope needed: gradients have the dtypes of forward
//
// Products (linear, matmul, convolutions, attention, recurrent cells) are computed in `dtype`, ops
// that lose too much there (exponentials, norms, losses, sums) in float32, a few in the widest
// dtype of their arguments, all others in the dtype that they are given. Which ones is PyTorch 2's
// list for CUDA, on every device; it stands in engine/ops/autocast.h. Only arguments of float32,
// bfloat16 and float16 are converted; forms that write over their argument are never affected.
//
// Conversions are recorded: gradients of float32 parameters arrive in float32, and the parameters
// themselves are the master weights. Those of leaves that require grad are kept until the outermost
// scope ends, so that a weight is converted once however often it is used; a weight that has been
// written to in between is converted anew.
//
// Scopes nest, the innermost counts; kFloat32 as the dtype, or `enabled` false, turns autocast off.
// backward() runs without, a checkpointed function with what was on when it ran first. Throws
// ValueError on another dtype.
class Autocast {
 public:
  explicit Autocast(DType dtype, bool enabled = true);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool enabled_before_;
  DType dtype_before_;
};

struct NoAutocast : Autocast {
  NoAutocast() : Autocast(DType::kFloat32) {}
};

// `x` in the scope's low dtype, as the products see it: for what is built of several ops. As it is
// outside of a scope, and where it is undefined or neither float32, bfloat16 nor float16.
Tensor in_autocast_dtype(const Tensor& x);

// The same for any target dtype, autocast on or off. Conversions of weights to 16 bits are kept if
// there is a scope.
Tensor autocast_to(DType dtype, const Tensor& x);

}  // namespace lockstep::autograd
