#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

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
  explicit BFloat16(float value) {  // rounds to nearest even, keeps NaN a NaN
    const auto b = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = b + 0x7fffu + ((b >> 16) & 1u), nan = b | 0x400000u;
    bits = static_cast<uint16_t>(((b & 0x7fffffffu) > 0x7f800000u ? nan : rounded) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  explicit Float16(float value);  // IEEE binary16, rounds to nearest even
  explicit operator float() const;
};

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
