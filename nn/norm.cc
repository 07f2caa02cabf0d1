#include "lockstep/nn/norm.h"

#include <algorithm>

#include "lockstep/engine/ops/layer_norm.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::nn {
namespace {

void check_shape(const char* module, const Dims& shape) {
  const bool natural = std::all_of(shape.begin(), shape.end(), [](int64_t n) { return n >= 0; });
  check(!shape.empty() && natural,
        "[{}] normalized_shape = {} must have at least one size, none negative", module,
        shape.str());
}

}  // namespace

LayerNorm::LayerNorm(const Dims& normalized_shape, Options options)
    : shape_(normalized_shape), eps_(options.eps) {
  check_shape("LayerNorm", shape_);
  if (!options.elementwise_affine) return;
  weight = register_parameter("weight", ones(shape_));
  if (options.bias) bias = register_parameter("bias", zeros(shape_));
}

Tensor LayerNorm::forward(const Tensor& x) { return layer_norm(x, shape_, weight, bias, eps_); }

RMSNorm::RMSNorm(const Dims& normalized_shape, Options options)
    : shape_(normalized_shape), eps_(options.eps.value_or(-1)) {
  check_shape("RMSNorm", shape_);
  if (options.elementwise_affine) weight = register_parameter("weight", ones(shape_));
}

Tensor RMSNorm::forward(const Tensor& x) { return rms_norm(x, shape_, weight, eps_); }

GroupNorm::GroupNorm(int64_t num_groups, int64_t num_channels, Options options)
    : groups_(num_groups), eps_(options.eps) {
  check(num_groups > 0 && num_channels >= 0 && num_channels % num_groups == 0,
        "num_channels must be divisible by num_groups: got {} channels and {} groups", num_channels,
        num_groups);
  if (!options.affine) return;
  weight = register_parameter("weight", ones({num_channels}));
  bias = register_parameter("bias", zeros({num_channels}));
}

Tensor GroupNorm::forward(const Tensor& x) { return group_norm(x, groups_, weight, bias, eps_); }

}  // namespace lockstep::nn
