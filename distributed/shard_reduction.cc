#include "lockstep/distributed/shard_reduction.h"

#include <algorithm>
#include <limits>

#include "lockstep/distributed/bucket.h"
#include "lockstep/engine/autograd/grad_mode.h"

namespace lockstep::distributed {
namespace {

class ShardReduction final : public BucketReduction {
 public:
  ShardReduction(int rank, int parts) : rank_(rank), parts_(parts) {}

  bool needs_host_memory() const override { return false; }
  int parts() const override { return parts_; }
  bool is_whole() const override { return parts_ == 1; }

  void launch(ProcessGroup& group, const Bucket& bucket) override {
    Buffer gradients = bucket.gradient_buffer();
    gradients.count = bucket.trailer_offset();
    issue(group.reduce_scatter(buffer_part(gradients, rank_, parts_), gradients));
    issue(group.all_reduce(bucket.trailer_buffer()));
  }

  void finish(const Bucket& bucket) override {
    wait();
    mark_others_parts(bucket);
  }

 private:
  // What holds only a part of a sum must not pass for all of it.
  void mark_others_parts(const Bucket& bucket) const {
    const autograd::NoGrad no_grad;
    const Tensor gradients = bucket.gradients();
    const int64_t part = bucket.trailer_offset() / parts_;
    const int64_t begin = rank_ * part;
    const int64_t end = begin + part;
    for (const Bucket::Entry& entry : bucket.entries()) {
      const int64_t first = entry.offset;
      const int64_t last = first + entry.parameter.numel();
      const int64_t others = first < begin ? first : std::max(first, end);
      if (others < last) {
        gradients.narrow(0, others, 1).fill_(std::numeric_limits<double>::quiet_NaN());
      }
    }
  }

  const int rank_;
  const int parts_;
};

}  // namespace

std::unique_ptr<BucketReduction> make_shard_reduction(int rank, int parts) {
  return std::make_unique<ShardReduction>(rank, parts);
}

}  // namespace lockstep::distributed
