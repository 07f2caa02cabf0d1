#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "lockstep/distributed/process_group.h"

// Element-wise reduction of several buffers in a fixed order. Which elements one call covers never
// changes a result, so ranks may share the work in any way.
namespace lockstep::distributed {

struct Reduction {
  DType dtype = DType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
};

// 16-bit floats accumulate in float32, everything else in itself.
DType accumulator_of(DType dtype);

// ((partial op sources[0]) op sources[1]) op ...; `partial` holds elements of the accumulator dtype
// and may be null if there is a source. The result is rounded to the dtype and written to every
// output; it goes unrounded to `result` (accumulator dtype) unless that is null. Outputs may be
// sources, and result may be partial. Denormals are flushed to zero, on every calling thread alike.
void reduce(Reduction reduction, const std::byte* partial,
            std::span<const std::byte* const> sources, int64_t count,
            std::span<std::byte* const> outputs, std::byte* result = nullptr);

}  // namespace lockstep::distributed
