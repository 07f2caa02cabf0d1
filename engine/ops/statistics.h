#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Over `dims`, all of them if the list is empty. Floating tensors only. The divisor is the number
// of elements less `correction` (1: the unbiased estimate). After `using namespace lockstep` a
// plain std(x) is ambiguous with the standard library's namespace: write x.std() or
// lockstep::std(x).
Tensor var(const Tensor& x, const Dims& dims = {}, int64_t correction = 1, bool keepdim = false);
Tensor std(const Tensor& x, const Dims& dims = {}, int64_t correction = 1, bool keepdim = false);
// log(sum(exp(x))) without overflow.
Tensor logsumexp(const Tensor& x, const Dims& dims, bool keepdim = false);
// (sum |x|^p)^(1/p) over `dims`, all of them if the list is empty; p may be infinite, and 0 counts
// what is not zero. At the origin the subgradient 0, as in PyTorch.
Tensor norm(const Tensor& x, double p, const Dims& dims = {}, bool keepdim = false);

}  // namespace lockstep
