#pragma once

#include <optional>

#include "lockstep/engine/ops/pool.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/pair.h"

// Pooling over (N, C, L) and (N, C, H, W), both also without N, with floor rounding. The stride
// defaults to the kernel.
namespace lockstep::nn {

class MaxPool1d : public Layer {
 public:
  struct Options {
    std::optional<int64_t> stride{};
    int64_t padding = 0;
    int64_t dilation = 1;
  };

  MaxPool1d(int64_t kernel_size, Options options);
  explicit MaxPool1d(int64_t kernel_size) : MaxPool1d(kernel_size, Options()) {}
  Tensor forward(const Tensor& x) override;

 private:
  Pool2dParams params_;
};

class MaxPool2d : public Layer {
 public:
  struct Options {
    std::optional<Pair> stride{};
    Pair padding = 0;
    Pair dilation = 1;
  };

  MaxPool2d(Pair kernel_size, Options options);
  explicit MaxPool2d(Pair kernel_size) : MaxPool2d(kernel_size, Options()) {}
  Tensor forward(const Tensor& x) override;

 private:
  Pool2dParams params_;
};

class AvgPool1d : public Layer {
 public:
  struct Options {
    std::optional<int64_t> stride{};
    int64_t padding = 0;
    bool count_include_pad = true;  // the padding's zeros count in the divisor
  };

  AvgPool1d(int64_t kernel_size, Options options);
  explicit AvgPool1d(int64_t kernel_size) : AvgPool1d(kernel_size, Options()) {}
  Tensor forward(const Tensor& x) override;

 private:
  Pool2dParams params_;
};

class AvgPool2d : public Layer {
 public:
  struct Options {
    std::optional<Pair> stride{};
    Pair padding = 0;
    bool count_include_pad = true;
  };

  AvgPool2d(Pair kernel_size, Options options);
  explicit AvgPool2d(Pair kernel_size) : AvgPool2d(kernel_size, Options()) {}
  Tensor forward(const Tensor& x) override;

 private:
  Pool2dParams params_;
};

// To the given size, by windows as even as they come (ops/pool.h).
class AdaptiveAvgPool1d : public Layer {
 public:
  explicit AdaptiveAvgPool1d(int64_t output_size) : size_(output_size) {}
  Tensor forward(const Tensor& x) override;

 private:
  int64_t size_;
};

class AdaptiveAvgPool2d : public Layer {
 public:
  explicit AdaptiveAvgPool2d(Pair output_size) : size_(output_size) {}
  Tensor forward(const Tensor& x) override;

 private:
  Pair size_;
};

class AdaptiveMaxPool2d : public Layer {
 public:
  explicit AdaptiveMaxPool2d(Pair output_size) : size_(output_size) {}
  Tensor forward(const Tensor& x) override;

 private:
  Pair size_;
};

}  // namespace lockstep::nn
