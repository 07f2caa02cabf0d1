#include "lockstep/nn/linear.h"

#include <cmath>

#include "lockstep/engine/ops/linear.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {

Linear::Linear(int64_t in_features, int64_t out_features, Options options) {
  check(in_features >= 0 && out_features >= 0, "[Linear] {} inputs and {} outputs", in_features,
        out_features);
  weight = register_parameter("weight", empty({out_features, in_features}));
  init::kaiming_uniform_(weight, std::sqrt(5.0));  // = U(-1/sqrt(in), 1/sqrt(in))
  if (!options.bias) return;
  bias = register_parameter("bias", empty({out_features}));
  const double bound = in_features > 0 ? 1.0 / std::sqrt(static_cast<double>(in_features)) : 0.0;
  init::uniform_(bias, -bound, bound);
}

Tensor Linear::forward(const Tensor& x) { return linear(x, weight, bias); }

}  // namespace lockstep::nn
