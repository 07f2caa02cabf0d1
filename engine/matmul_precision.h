#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep {

// How exactly products of float32 matrices are computed on a GPU, as
// torch.set_float32_matmul_precision; of the whole process. Convolutions are products, too (in
// PyTorch they have a switch of their own). Without effect on the CPU and on other dtypes.
//
//   "highest"  in float32, the default
//   "high"     operands rounded to TF32: float32's range, 10 bits behind the point
//   "medium"   operands rounded to bfloat16: 7 bits behind the point; of convolutions, to TF32
//
// Sums are float32 in all three. Throws ValueError on another name.
void set_float32_matmul_precision(std::string_view precision);
std::string_view get_float32_matmul_precision();

enum class MatmulPrecision : uint8_t { kHighest, kHigh, kMedium };
MatmulPrecision matmul_precision();

}  // namespace lockstep
