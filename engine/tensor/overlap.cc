#include "lockstep/engine/tensor/overlap.h"

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

constexpr const char* kShared =
    "unsupported operation: some elements of the input tensor and the written-to tensor refer to a "
    "single memory location. Please clone() the tensor before performing the operation.";

// Whether the elements, in some order, are all that lies between the first and the last.
bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  int64_t run = 1;
  while (run < t.numel()) {  // the dimension that goes on where a run of elements ends
    int next = -1;
    for (int d = 0; d < t.dim(); ++d) {
      if (t.sizes()[d] > 1 && t.strides()[d] == run) next = d;
    }
    if (next < 0) return false;
    run *= t.sizes()[next];
  }
  return true;
}

}  // namespace

Overlap overlap_of(const Tensor& a, const Tensor& b) {
  if (a.is_same(b)) return Overlap::kSame;
  if (!(a.impl()->storage == b.impl()->storage) || a.numel() == 0 || b.numel() == 0) {
    return Overlap::kNone;
  }
  if (a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() &&
      a.strides() == b.strides()) {
    return Overlap::kSame;
  }
  if (!is_dense(a) || !is_dense(b)) return Overlap::kUnknown;
  const int64_t a_begin = a.storage_offset(), a_end = a_begin + a.numel();
  const int64_t b_begin = b.storage_offset(), b_end = b_begin + b.numel();
  return a_begin < b_end && b_begin < a_end ? Overlap::kPartial : Overlap::kNone;
}

void check_no_partial_overlap(const Tensor& written, const Tensor& read) {
  check<Error>(overlap_of(written, read) != Overlap::kPartial, "{}", kShared);
}

void check_no_overlap(const Tensor& written, const Tensor& read) {
  const Overlap overlap = overlap_of(written, read);
  check<Error>(overlap != Overlap::kPartial && overlap != Overlap::kSame, "{}", kShared);
}

bool overlaps_itself(const Tensor& t) {
  for (int d = 0; d < t.dim(); ++d) {
    if (t.sizes()[d] > 1 && t.strides()[d] == 0) return t.numel() > 0;
  }
  return false;
}

}  // namespace lockstep
