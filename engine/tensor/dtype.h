#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "lockstep/engine/tensor/host_device.h"

namespace lockstep {

enum class DType : uint8_t {
  kFloat32,
  kFloat64,
  kBFloat16,
  kFloat16,
  kInt64,
  kInt32,
  kUInt8,
  kBool
};
inline constexpr int kDTypeCount = 8;

// Storage types for the 16-bit floats; arithmetic happens in float32.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  LOCKSTEP_HD explicit BFloat16(float value) {  // rounds to nearest even, keeps NaN a NaN
    const auto b = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = b + 0x7fffu + ((b >> 16) & 1u), nan = b | 0x400000u;
    bits = static_cast<uint16_t>(((b & 0x7fffffffu) > 0x7f800000u ? nan : rounded) >> 16);
  }
  LOCKSTEP_HD explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  LOCKSTEP_HD explicit Float16(float value);  // IEEE binary16, rounds to nearest even
  LOCKSTEP_HD explicit operator float() const;
};

LOCKSTEP_HD inline Float16::Float16(float value) {
  const auto all = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (all >> 16) & 0x8000u;
  const uint32_t magnitude = all & 0x7fffffffu;
  uint32_t shift = 13, mantissa = magnitude & 0x7fffffu, result = 0;
  if (magnitude >= 0x7f800000u) {  // infinity, or a NaN that keeps its top payload bits
    const uint32_t payload = magnitude > 0x7f800000u ? 0x200u | (mantissa >> 13) : 0u;
    bits = static_cast<uint16_t>(sign | 0x7c00u | payload);
    return;
  }
  if (magnitude >= 0x477ff000u) {  // rounds past 65504
    bits = static_cast<uint16_t>(sign | 0x7c00u);
    return;
  }
  if (magnitude < 0x33000000u) {
    bits = static_cast<uint16_t>(sign);
    return;
  }
  if (magnitude < 0x38800000u) {  // subnormal in half precision
    shift = 126u - (magnitude >> 23);
    mantissa |= 0x800000u;
  } else {
    result = ((magnitude >> 23) - 112u) << 10;
  }
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  result += mantissa >> shift;
  if (rest > half || (rest == half && (result & 1u))) ++result;  // may carry into the exponent
  bits = static_cast<uint16_t>(sign | result);
}

LOCKSTEP_HD inline Float16::operator float() const {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  }
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

constexpr size_t size_of(DType dtype) {
  constexpr size_t kSizes[kDTypeCount] = {4, 8, 2, 2, 8, 4, 1, 1};
  return kSizes[static_cast<int>(dtype)];
}
constexpr bool is_floating(DType dtype) { return dtype <= DType::kFloat16; }
constexpr bool is_integral(DType dtype) { return !is_floating(dtype) && dtype != DType::kBool; }

std::string_view name_of(DType dtype);    // "float32", "int64", ...
std::string_view type_name(DType dtype);  // "Float", "Long", ...: PyTorch's, in its error texts
DType dtype_from_name(std::string_view name);  // throws ValueError on an unknown name

// PyTorch's promotion among tensors of equal category: the wider wins, floats beat integers,
// integers beat bool; bfloat16 with float16 gives float32.
DType promote(DType a, DType b);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kFloat16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kUInt8;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};
template <typename T>
inline constexpr DType kDTypeOf = DTypeOf<T>::value;

}  // namespace lockstep
