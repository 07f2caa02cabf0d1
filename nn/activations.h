#pragma once

#include <string>

#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/softmax.h"
#include "lockstep/nn/module.h"

// Activations; the formulas are those of the functions of the same names.
namespace lockstep::nn {

struct ReLU : Layer {
  Tensor forward(const Tensor& x) override { return relu(x); }
};

struct LeakyReLU : Layer {
  explicit LeakyReLU(double slope = 0.01) : negative_slope(slope) {}
  Tensor forward(const Tensor& x) override { return leaky_relu(x, negative_slope); }
  double negative_slope;
};

struct ELU : Layer {
  explicit ELU(double a = 1.0) : alpha(a) {}
  Tensor forward(const Tensor& x) override { return elu(x, alpha); }
  double alpha;
};

// approximate: "none" or "tanh".
struct GELU : Layer {
  explicit GELU(std::string how = "none");
  Tensor forward(const Tensor& x) override { return gelu(x, approximate); }
  std::string approximate;
};

struct SiLU : Layer {
  Tensor forward(const Tensor& x) override { return silu(x); }
};

struct Sigmoid : Layer {
  Tensor forward(const Tensor& x) override { return sigmoid(x); }
};

struct Tanh : Layer {
  Tensor forward(const Tensor& x) override { return tanh(x); }
};

// Linear where beta x exceeds the threshold.
struct Softplus : Layer {
  explicit Softplus(double b = 1.0, double limit = 20.0) : beta(b), threshold(limit) {}
  Tensor forward(const Tensor& x) override { return softplus(x, beta, threshold); }
  double beta, threshold;
};

// Throws ValueError unless min_val < max_val.
struct Hardtanh : Layer {
  explicit Hardtanh(double least = -1.0, double most = 1.0);
  Tensor forward(const Tensor& x) override { return hardtanh(x, min_val, max_val); }
  double min_val, max_val;
};

struct ReLU6 : Hardtanh {
  ReLU6() : Hardtanh(0.0, 6.0) {}
};

struct Softmax : Layer {
  explicit Softmax(int64_t along) : dim(along) {}
  Tensor forward(const Tensor& x) override { return softmax(x, dim); }
  int64_t dim;
};

struct LogSoftmax : Layer {
  explicit LogSoftmax(int64_t along) : dim(along) {}
  Tensor forward(const Tensor& x) override { return log_softmax(x, dim); }
  int64_t dim;
};

}  // namespace lockstep::nn
