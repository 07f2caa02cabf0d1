#include "lockstep/nn/batch_norm.h"

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/batch_norm.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::nn {

BatchNorm::BatchNorm(int64_t features, Options options) : options_(options) {
  if (options.affine) {
    weight = register_parameter("weight", ones({features}));
    bias = register_parameter("bias", zeros({features}));
  }
  if (options.track_running_stats) {
    running_mean = register_buffer("running_mean", zeros({features}));
    running_var = register_buffer("running_var", ones({features}));
    num_batches_tracked = register_buffer("num_batches_tracked", tensor(0));
  }
}

Tensor BatchNorm::forward(const Tensor& x) {
  check_input(x);
  const bool batch = is_training() || !running_mean.defined();
  double momentum = options_.momentum.value_or(0.0);
  const bool updates = is_training() && running_mean.defined();
  if (updates) {
    const autograd::NoGrad no_grad;
    num_batches_tracked.add_(1);
    if (!options_.momentum) momentum = 1.0 / num_batches_tracked.item();
  }
  return batch_norm(x, !batch || updates ? running_mean : Tensor(),
                    !batch || updates ? running_var : Tensor(), weight, bias,
                    {.training = batch, .momentum = momentum, .eps = options_.eps});
}

void BatchNorm1d::check_input(const Tensor& x) const {
  check(x.dim() == 2 || x.dim() == 3, "expected 2D or 3D input (got {}D input)", x.dim());
}

void BatchNorm2d::check_input(const Tensor& x) const {
  check(x.dim() == 4, "expected 4D input (got {}D input)", x.dim());
}

}  // namespace lockstep::nn
