#pragma once

#include <memory>

#include "lockstep/distributed/bucket_reduction.h"

namespace lockstep::distributed {

// A reduce-scatter: each of `parts` ranks gets its own part of the sum, in place, with the bits of
// an all-reduce; the trailer is all-reduced. So that nobody takes a parameter's grad() for the
// whole sum, one element of those that lie in other ranks' parts becomes NaN.
std::unique_ptr<BucketReduction> make_shard_reduction(int rank, int parts);

}  // namespace lockstep::distributed
