#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

class Bucket;

// One of `parts` equal parts of `whole`.
Buffer buffer_part(Buffer whole, int index, int parts);

// How the gradients of one bucket become the sum over all ranks: the place for communication hooks
// (docs/communication-hooks.md). A bucket owns one, which may keep memory and state of its own (a
// compressed copy, errors to feed back) from step to step. The gradients have been weighted before,
// so that their sum over the ranks is the mean.
//
// Every rank makes the same calls in the same order, and must issue the same collectives in them.
// All ranks must end with the same bits.
class BucketReduction {
 public:
  BucketReduction() = default;
  virtual ~BucketReduction() = default;
  BucketReduction(const BucketReduction&) = delete;
  BucketReduction& operator=(const BucketReduction&) = delete;

  // How many copies of its layout the bucket has in the group's memory; grad() is in slot 0.
  virtual int slots() const { return 1; }
  // Into how many equal parts of whole cache lines a bucket can be cut, one for each rank.
  virtual int parts() const { return 1; }
  // Whether all of slot 0 ends reduced, and not only this rank's part.
  virtual bool is_whole() const { return true; }
  // Null: the gradients of this rank's passes add up in slot 0. Otherwise each pass has an entry of
  // its own, which says where its gradients go and what is added up then.
  virtual const std::vector<CanonicalPlan::Leaf>* schedule() const { return nullptr; }

  // Whether it reads and writes gradients itself, which takes host memory. What only issues
  // collectives and ops on tensors works on every device.
  virtual bool needs_host_memory() const { return true; }

  // At the end of the bucket's construction, to allocate memory of the group.
  virtual void attach(ProcessGroup& /*group*/, const Bucket& /*bucket*/) {}

  // The bucket is complete: its gradients and trailer lie in slot 0, or, with a schedule, where
  // that has left them, the trailer in slot 0. Starts what has to be done and returns: backward
  // goes on meanwhile.
  virtual void launch(ProcessGroup& group, const Bucket& bucket) = 0;
  // After backward, for all buckets in order and before the first finish(): what needs the result
  // of launch() may wait for it and start a second exchange.
  virtual void proceed(ProcessGroup& /*group*/, const Bucket& /*bucket*/) {}
  // Waits for the end of it: slot 0 holds the reduced gradients and the trailer's exact sum. Throws
  // DistributedError if a collective failed.
  virtual void finish(const Bucket& bucket);
  // From the launch of the first collective to the end of the last one since the last call. On a
  // device they may still be under way when finish() returns; ask once their results have been
  // seen.
  Work::Times take_times();
  // Why the last result is of no use although every rank's gradients were finite, the same on every
  // rank; such a step is treated like one with NaN gradients. Empty: nothing is wrong.
  virtual std::string trouble() const { return {}; }
  // How much this rank gave to its collectives, for the timeline. 0: as much as the bucket holds.
  virtual size_t sent_bytes() const { return 0; }
  // The step has been given up: its gradients, on any rank, may have been anything. Comes without a
  // launch(), too.
  virtual void discard() {}

 protected:
  // A collective for the next wait().
  void issue(Work work) { works_.push_back(std::move(work)); }
  // Waits for what has been issued.
  void wait();

 private:
  std::vector<Work> works_;
  size_t waited_ = 0;  // for so many of them
};

// Makes one bucket's.
using MakeReduction = std::function<std::unique_ptr<BucketReduction>()>;

// One all-reduce, in place.
std::unique_ptr<BucketReduction> make_all_reduction();

// The canonical sum over virtual shards, one of them a pass.
std::unique_ptr<BucketReduction> make_canonical_reduction(std::shared_ptr<const CanonicalPlan> plan,
                                                          int rank, int parts = 1);

}  // namespace lockstep::distributed
