#include "lockstep/engine/tensor/scalar.h"

#include <array>
#include <cmath>
#include <limits>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

// The C++ types that PyTorch's text names.
constexpr std::array<std::string_view, kDTypeCount> kTypes = {
    "float", "double", "at::BFloat16", "at::Half", "int64_t", "int", "uint8_t", "bool"};

double largest_of(DType floating) {
  switch (floating) {
    case DType::kFloat32:
      return std::numeric_limits<float>::max();
    case DType::kBFloat16:
      return 0x1.fep127;
    case DType::kFloat16:
      return 65504;
    default:
      return std::numeric_limits<double>::max();
  }
}

template <typename T>
bool in_range(double x) {  // false for NaN; the upper end is exact for int64_t, too
  constexpr auto kHalf = static_cast<double>(T{1} << (std::numeric_limits<T>::digits - 1));
  return x >= static_cast<double>(std::numeric_limits<T>::min()) && x < 2 * kHalf &&
         x <= static_cast<double>(std::numeric_limits<T>::max());
}

bool fits(Scalar value, DType dtype) {
  if (dtype == DType::kBool) return true;
  const auto x = value.to<double>();
  if (is_floating(dtype)) return !std::isfinite(x) || std::fabs(x) <= largest_of(dtype);
  if (dtype == DType::kInt32) return in_range<int32_t>(x);
  if (!value.is_floating()) return dtype == DType::kInt64 || std::fabs(x) <= 255;
  return dtype == DType::kInt64 ? in_range<int64_t>(x) : in_range<uint8_t>(x);
}

}  // namespace

void check_fits(Scalar value, DType dtype) {
  check(fits(value, dtype), "value cannot be converted to type {} without overflow",
        kTypes[static_cast<size_t>(dtype)]);
}

}  // namespace lockstep
