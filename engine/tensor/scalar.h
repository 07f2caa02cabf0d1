#pragma once

#include <concepts>
#include <cstdint>

#include "lockstep/engine/tensor/dtype.h"

namespace lockstep {

// A number in an expression with tensors. It takes part in type promotion by category only: an
// integer never widens a tensor, a float turns integer tensors into float32.
class Scalar {
 public:
  Scalar(std::floating_point auto value)
      : floating_(static_cast<double>(value)), kind_(Kind::kFloat) {}
  Scalar(bool value) : integer_(value), kind_(Kind::kBool) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Scalar(T value)
      : integer_(static_cast<int64_t>(value)), kind_(Kind::kInteger) {}

  bool is_floating() const { return kind_ == Kind::kFloat; }
  bool is_bool() const { return kind_ == Kind::kBool; }
  template <typename T>
  T to() const {
    return is_floating() ? static_cast<T>(floating_) : static_cast<T>(integer_);
  }
  // The dtype of a tensor made of the number alone.
  DType dtype() const {
    return is_floating() ? DType::kFloat32 : (is_bool() ? DType::kBool : DType::kInt64);
  }
  // The dtype of `tensor op scalar`.
  DType promote_with(DType tensor) const {
    if (is_floating()) return lockstep::is_floating(tensor) ? tensor : DType::kFloat32;
    if (tensor == DType::kBool) return is_bool() ? DType::kBool : DType::kInt64;
    return tensor;
  }

 private:
  union {
    double floating_;
    int64_t integer_;
  };
  enum class Kind : uint8_t { kFloat, kInteger, kBool } kind_;
};

// Throws PyTorch's error if the number lies beyond the dtype's range. As there, an integer down to
// -255 counts as a uint8, modulo 256; infinity and NaN are numbers of every floating dtype, and
// everything is a bool. Fractions are not looked at.
void check_fits(Scalar value, DType dtype);

}  // namespace lockstep
