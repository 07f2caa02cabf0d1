#pragma once

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// y = x W^T + b over the last dimension. weight (out, in) and bias (out) start as
// U(-1/sqrt(in), 1/sqrt(in)).
class Linear : public Layer {
 public:
  struct Options {
    bool bias = true;
  };
  Linear(int64_t in_features, int64_t out_features, Options options);
  Linear(int64_t in_features, int64_t out_features)
      : Linear(in_features, out_features, Options()) {}
  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;
};

}  // namespace lockstep::nn
