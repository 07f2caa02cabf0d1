#pragma once

#include "lockstep/engine/ops/dropout.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pool.h"
#include "lockstep/nn/module.h"

// Layers without parameters.
namespace lockstep::nn {

struct ReLU : Layer {
  Tensor forward(const Tensor& x) override { return relu(x); }
};
struct Sigmoid : Layer {
  Tensor forward(const Tensor& x) override { return sigmoid(x); }
};
struct Tanh : Layer {
  Tensor forward(const Tensor& x) override { return tanh(x); }
};
struct Identity : Layer {
  Tensor forward(const Tensor& x) override { return x; }
};

struct Flatten : Layer {
  explicit Flatten(int64_t start_dim = 1, int64_t end_dim = -1) : start(start_dim), end(end_dim) {}
  Tensor forward(const Tensor& x) override { return x.flatten(start, end); }
  int64_t start, end;
};

// Zeroes elements with probability p while training (ops/dropout.h).
struct Dropout : Layer {
  explicit Dropout(double probability = 0.5) : p(probability) {}
  Tensor forward(const Tensor& x) override { return dropout(x, p, is_training()); }
  double p;
};

struct MaxPool2d : Layer {
  explicit MaxPool2d(int64_t kernel_size) : kernel(kernel_size) {}
  Tensor forward(const Tensor& x) override { return max_pool2d(x, kernel); }
  int64_t kernel;
};
struct AvgPool2d : Layer {
  explicit AvgPool2d(int64_t kernel_size) : kernel(kernel_size) {}
  Tensor forward(const Tensor& x) override { return avg_pool2d(x, kernel); }
  int64_t kernel;
};

}  // namespace lockstep::nn
