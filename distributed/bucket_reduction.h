#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

class Bucket;

// How the gradients of one bucket become the sum over all ranks. A bucket owns one, which may keep
// memory and state of its own (a compressed copy, errors to feed back) from step to step.
class BucketReduction {
 public:
  BucketReduction() = default;
  virtual ~BucketReduction() = default;
  BucketReduction(const BucketReduction&) = delete;
  BucketReduction& operator=(const BucketReduction&) = delete;

  // How many copies of its layout the bucket has in the group's memory; grad() is in slot 0.
  virtual int slots() const { return 1; }
  // Null: the gradients of this rank's passes add up in slot 0. Otherwise each pass has an entry of
  // its own, which says where its gradients go and what is added up then.
  virtual const std::vector<CanonicalPlan::Leaf>* schedule() const { return nullptr; }

  // The bucket is complete: its gradients and trailer lie in slot 0, or, with a schedule, where
  // that has left them, the trailer in slot 0. Starts what has to be done and returns; every rank
  // issues the same collectives.
  virtual void launch(ProcessGroup& group, const Bucket& bucket) = 0;
  // Waits for the end of it: slot 0 holds the reduced gradients and the trailer's exact sum. Throws
  // DistributedError if a collective failed.
  virtual Work::Times finish() = 0;
};

using MakeReduction = std::function<std::unique_ptr<BucketReduction>()>;

// One all-reduce, in place.
std::unique_ptr<BucketReduction> make_all_reduction();

// The canonical sum over virtual shards, one of them a pass.
std::unique_ptr<BucketReduction> make_canonical_reduction(std::shared_ptr<const CanonicalPlan> plan,
                                                          int rank);

}  // namespace lockstep::distributed
