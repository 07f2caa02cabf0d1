#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Internal: in-place ops whose operands share memory, judged as in PyTorch. Dense tensors are
// compared by the memory from their first element to their last; whether others meet is not known,
// and who writes over one of these has to read first.
namespace lockstep {

enum class Overlap : uint8_t { kNone, kSame, kPartial, kUnknown };

// kSame: element for element.
Overlap overlap_of(const Tensor& a, const Tensor& b);

// Throw PyTorch's error if `read` shares elements with `written`: the first allows kSame.
void check_no_partial_overlap(const Tensor& written, const Tensor& read);
void check_no_overlap(const Tensor& written, const Tensor& read);

// Whether two elements of `t` are known to share memory: some dimension is expanded.
bool overlaps_itself(const Tensor& t);

}  // namespace lockstep
