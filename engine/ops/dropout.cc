#include "lockstep/engine/ops/dropout.h"

#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {

Tensor dropout(const Tensor& x, double p, bool training) {
  check(p >= 0 && p <= 1, "dropout probability has to be between 0 and 1, but got {}", p);
  if (!training || p == 0) return x;
  check(is_floating(x.dtype()), "result type Float can't be cast to the desired output type {}",
        type_name(x.dtype()));
  // Element i of the mask depends on its position in (N, C, H, W) order only, whatever the layout.
  const DType dtype = is_half(x.dtype()) ? DType::kFloat32 : x.dtype();
  const Tensor mask = empty_dense(x.sizes(), dtype, x.device());
  const double keep = 1 - p;
  backend_of(x).random(mask, RandomKind::kBernoulli, keep, keep > 0 ? 1 / keep : 0,
                       next_random_key());
  const Tensor y = mul(x, mask);
  return dtype == x.dtype() ? y : narrowed(y, x.dtype(), "MulBackward0");
}

}  // namespace lockstep
