#include "lockstep/engine/tensor/dtype.h"

#include <algorithm>
#include <array>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

constexpr std::array<std::string_view, kDTypeCount> kNames = {
    "float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"};
constexpr std::array<std::string_view, kDTypeCount> kTypeNames = {
    "Float", "Double", "BFloat16", "Half", "Long", "Int", "Byte", "Bool"};

uint16_t float_to_half_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) {  // infinity, or a NaN that keeps its top payload bits
    const uint32_t payload = magnitude > 0x7f800000u ? 0x200u | ((magnitude >> 13) & 0x3ffu) : 0u;
    return static_cast<uint16_t>(sign | 0x7c00u | payload);
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  uint32_t mantissa;
  uint32_t shift;
  uint32_t exponent = 0;
  if (magnitude < 0x38800000u) {  // subnormal in half precision
    if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);
    shift = 126u - (magnitude >> 23);
    mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  } else {
    shift = 13;
    mantissa = magnitude & 0x7fffffu;
    exponent = ((magnitude >> 23) - 112u) << 10;
  }
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  uint32_t result = exponent + (mantissa >> shift);
  if (rest > half || (rest == half && (result & 1u))) ++result;  // may carry into the exponent
  return static_cast<uint16_t>(sign | result);
}

}  // namespace

Float16::Float16(float value) : bits(float_to_half_bits(value)) {}

Float16::operator float() const {
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

std::string_view name_of(DType dtype) { return kNames[static_cast<size_t>(dtype)]; }
std::string_view type_name(DType dtype) { return kTypeNames[static_cast<size_t>(dtype)]; }

DType dtype_from_name(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  check(found != kNames.end(), "[dtype] \"{}\" is not a dtype", name);
  return static_cast<DType>(found - kNames.begin());
}

DType promote(DType a, DType b) {
  if (a == b) return a;
  if (is_floating(a) && is_floating(b)) {
    if (a == DType::kFloat64 || b == DType::kFloat64) return DType::kFloat64;
    return DType::kFloat32;  // any two different ones of float32, bfloat16, float16
  }
  if (is_floating(a) || is_floating(b)) return is_floating(a) ? a : b;
  if (a == DType::kBool) return b;
  if (b == DType::kBool) return a;
  return size_of(a) > size_of(b) ? a : b;  // uint8 with a signed type gives the signed type
}

}  // namespace lockstep
