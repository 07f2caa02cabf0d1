#include "lockstep/nn/init.h"

#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn::init {

void uniform_(const Tensor& t, double from, double to) {
  const autograd::NoGrad no_grad;
  t.uniform_(from, to);
}

void normal_(const Tensor& t, double mean, double std) {
  const autograd::NoGrad no_grad;
  t.normal_(mean, std);
}

void constant_(const Tensor& t, double value) {
  const autograd::NoGrad no_grad;
  t.fill_(value);
}

int64_t fan_in(const Tensor& weight) {
  check(weight.dim() >= 2, "[init] a weight has at least 2 dimensions, got {}",
        weight.sizes().str());
  int64_t fan = 1;
  for (int d = 1; d < weight.dim(); ++d) fan *= weight.sizes()[d];
  return fan;
}

void kaiming_uniform_(const Tensor& weight, double a) {
  if (weight.numel() == 0) return;
  const double bound = std::sqrt(6.0 / ((1 + a * a) * static_cast<double>(fan_in(weight))));
  uniform_(weight, -bound, bound);
}

void kaiming_normal_(const Tensor& weight, double a) {
  if (weight.numel() == 0) return;
  normal_(weight, 0.0, std::sqrt(2.0 / ((1 + a * a) * static_cast<double>(fan_in(weight)))));
}

void xavier_uniform_(const Tensor& weight, double gain) {
  if (weight.numel() == 0) return;
  const int64_t in = fan_in(weight);
  const int64_t out = weight.numel() / weight.size(1);
  const double bound = gain * std::sqrt(6.0 / static_cast<double>(in + out));
  uniform_(weight, -bound, bound);
}

}  // namespace lockstep::nn::init
