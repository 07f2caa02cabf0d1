#include "lockstep/engine/matmul_precision.h"

#include <array>
#include <atomic>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"highest", "high", "medium"};
std::atomic<MatmulPrecision> current = MatmulPrecision::kHighest;

}  // namespace

void set_float32_matmul_precision(std::string_view precision) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (precision != kNames[i]) continue;
    current = static_cast<MatmulPrecision>(i);
    return;
  }
  fail("{} is not one of 'highest', 'high', or 'medium'", precision);
}

std::string_view get_float32_matmul_precision() {
  return kNames[static_cast<size_t>(matmul_precision())];
}

MatmulPrecision matmul_precision() { return current; }

}  // namespace lockstep
