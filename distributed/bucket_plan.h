#pragma once

#include <cstddef>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::distributed {

struct BucketSizes {
  size_t first = 0;  // bytes at which the first bucket closes: small, so that it leaves early
  size_t rest = 0;   // and the others, if not before
};

struct PlannedBucket {
  std::vector<size_t> numbers;  // of its parameters
  bool idle = false;            // all of them are frozen
};

// Cuts parameters, given by their numbers in the order in which their gradients come, into buckets
// of one dtype each, frozen parameters apart. A bucket closes with the parameter that fills it. The
// last one can leave only when backward is over and is waited for in full, so a bucket also closes
// when it has half of what is left of its kind, unless that is less than the first one has.
std::vector<PlannedBucket> plan_buckets(const NamedTensors& parameters,
                                        const std::vector<size_t>& order,
                                        const std::vector<bool>& frozen, BucketSizes sizes);

}  // namespace lockstep::distributed
