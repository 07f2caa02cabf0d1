#pragma once

#include <cstdint>

#include "lockstep/engine/ops/pointwise_list.h"
#include "lockstep/engine/tensor/dims.h"
#include "lockstep/engine/tensor/dtype.h"

namespace lockstep {

// Every pointwise op, in the order of pointwise_list.h.
enum class PointwiseOp : uint8_t {
#define LOCKSTEP_OP(name, ...) k_##name,
  LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP
      kCount
};

// One pointwise kernel launch: broadcast geometry with neighbouring dimensions merged. All inputs
// have `dtype`; comparisons write bool, everything else writes `dtype`.
struct PointwiseCall {
  struct Operand {
    void* data;                 // null: the operand is the immediate below
    int64_t strides[kMaxDims];  // in elements, innermost last; 0 where broadcast
    union {                     // a scalar, already in `dtype`
      uint64_t bits;
      double f64;
      float f32;
      int64_t i64;
      int32_t i32;
      uint8_t u8;
      bool b;
    } immediate;
  };
  DType dtype;
  int inputs;
  int dims;  // at least 1
  int64_t sizes[kMaxDims];
  int64_t numel;
  Operand out;
  Operand in[3];
  double p, q;  // the op's parameters
};

}  // namespace lockstep
