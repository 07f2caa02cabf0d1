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

// (sources[0] op sources[1]) op ..., written to every output; there is at least one source. 16-bit
// floats are combined in float32 and rounded once. Outputs may be sources. Denormals are flushed to
// zero, on every calling thread alike.
void reduce(Reduction reduction, std::span<const std::byte* const> sources, int64_t count,
            std::span<std::byte* const> outputs);

}  // namespace lockstep::distributed
