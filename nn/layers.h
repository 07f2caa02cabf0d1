#pragma once

#include "lockstep/engine/ops/dropout.h"
#include "lockstep/nn/module.h"

// Layers without parameters that are neither activations nor pooling.
namespace lockstep::nn {

struct Identity : Layer {
  Tensor forward(const Tensor& x) override { return x; }
};

struct Flatten : Layer {
  explicit Flatten(int64_t start_dim = 1, int64_t end_dim = -1) : start(start_dim), end(end_dim) {}
  Tensor forward(const Tensor& x) override { return x.flatten(start, end); }
  int64_t start, end;
};

// Zeroes elements with probability p while training (ops/dropout.h). Throws ValueError unless
// 0 <= p <= 1.
struct Dropout : Layer {
  explicit Dropout(double probability = 0.5);
  Tensor forward(const Tensor& x) override { return dropout(x, p, is_training()); }
  double p;
};

}  // namespace lockstep::nn
