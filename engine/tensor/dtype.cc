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

}  // namespace

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
