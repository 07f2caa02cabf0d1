#pragma once

#include <initializer_list>
#include <span>
#include <type_traits>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

struct TensorOptions {
  DType dtype = DType::kFloat32;
  Device device{};
  bool requires_grad = false;
};

Tensor empty(const Dims& sizes, TensorOptions options = {});
Tensor zeros(const Dims& sizes, TensorOptions options = {});
Tensor ones(const Dims& sizes, TensorOptions options = {});
struct FullOptions {
  std::optional<DType> dtype{};  // else the value's: float32, int64 or bool
  Device device{};
  bool requires_grad = false;
};
// All elements `value`, which must lie within the dtype's range.
Tensor full(const Dims& sizes, Scalar value, FullOptions options = {});
Tensor eye(int64_t n, TensorOptions options = {});
// start, start + step, ... below end. Without options float32 if any of the numbers is floating,
// else int64. For an integer dtype the numbers are made integers first, and the values are exact.
Tensor arange(Scalar start, Scalar end, Scalar step, TensorOptions options);
Tensor arange(Scalar start, Scalar end, Scalar step = 1);
Tensor arange(Scalar end);
// Uniform in [0, 1) and standard normal, from the calling thread's generator (random.h).
Tensor rand(const Dims& sizes, TensorOptions options = {});
Tensor randn(const Dims& sizes, TensorOptions options = {});

Tensor empty_like(const Tensor& other);  // keeps the memory format of dense tensors
Tensor zeros_like(const Tensor& other);
Tensor ones_like(const Tensor& other);

// A copy of host values, row-major.
template <typename T>
Tensor from_span(std::span<const T> values, const Dims& sizes,
                 TensorOptions options = {kDTypeOf<T>});
// A tensor over somebody else's memory on `device`; `owner` keeps it alive.
Tensor from_memory(void* data, const Dims& sizes, DType dtype, std::shared_ptr<void> owner,
                   Device device = {});

struct LiteralOptions {
  bool requires_grad = false;
  Device device{};
  std::optional<DType> dtype{};  // else float32 for floats, int64 for integers, bool for bool
};

// Numbers in braces, nested to any depth: what tensor() below is given.
class Literal {
 public:
  Literal(Scalar value) : values_{value} {}
  template <typename T>
  requires std::is_arithmetic_v<T> Literal(T value) : values_{value} {}
  // Flat lists of one type. (Lists within lists cannot be told apart by their type: for some
  // compilers {{1.0}, {2.0}} is as good a list of doubles as a list of lists.)
  template <typename T>
  requires std::is_arithmetic_v<T> Literal(std::initializer_list<T> values)
      : values_(values.begin(), values.end()), sizes_{static_cast<int64_t>(values.size())} {}
  Literal(std::initializer_list<Literal> parts);  // throws ValueError unless all have one shape

  const std::vector<Scalar>& values() const { return values_; }
  const Dims& sizes() const { return sizes_; }

 private:
  std::vector<Scalar> values_;  // row-major
  Dims sizes_;
};

// tensor(2.0), tensor({1.0, 2.0}), tensor({{1.0, 2.0}, {3.0, 4.0}}).
Tensor tensor(const Literal& literal, LiteralOptions options = {});

}  // namespace lockstep
