#include "lockstep/distributed/bucket_reduction.h"

#include <utility>

#include "lockstep/distributed/bucket.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

class AllReduction final : public BucketReduction {
 public:
  bool needs_host_memory() const override { return false; }
  void launch(ProcessGroup& group, const Bucket& bucket) override {
    issue(group.all_reduce(bucket.gradient_buffer()));
  }
};

class CanonicalReduction final : public BucketReduction {
 public:
  CanonicalReduction(std::shared_ptr<const CanonicalPlan> plan, int rank, int parts)
      : plan_(std::move(plan)), share_(plan_->share(rank)), parts_(parts) {}

  bool needs_host_memory() const override { return false; }
  int slots() const override { return plan_->slots(); }
  int parts() const override { return parts_; }
  const std::vector<CanonicalPlan::Leaf>* schedule() const override { return &share_.leaves; }

  // The trailer takes part in the sum as a term of the rank's first piece, and as zero in the
  // others.
  void launch(ProcessGroup& group, const Bucket& bucket) override {
    const Buffer slots = bucket.slots_buffer();
    const size_t width = size_of(slots.dtype);
    const size_t begin = static_cast<size_t>(bucket.trailer_offset()) * width;
    const size_t stride = slots.bytes() / static_cast<size_t>(plan_->slots());
    const int64_t trailer_count = bucket.trailer_buffer().count;
    const autograd::NoGrad no_grad;
    for (const auto& piece : share_.pieces) {
      if (piece.slot == 0) continue;
      std::byte* const trailer =
          static_cast<std::byte*>(slots.data) + static_cast<size_t>(piece.slot) * stride + begin;
      from_memory(trailer, {trailer_count}, slots.dtype, nullptr, slots.device).zero_();
    }
    issue(group.canonical_sum(slots, plan_));
  }

 private:
  std::shared_ptr<const CanonicalPlan> plan_;
  const CanonicalPlan::Share& share_;
  const int parts_;
};

}  // namespace

Buffer buffer_part(Buffer whole, int index, int parts) {
  whole.count /= parts;
  whole.data = static_cast<std::byte*>(whole.data) + static_cast<size_t>(index) * whole.bytes();
  return whole;
}

void BucketReduction::wait() {
  while (waited_ < works_.size()) works_[waited_++].wait();
}

void BucketReduction::finish(const Bucket&) { wait(); }

Work::Times BucketReduction::take_times() {
  waited_ = 0;
  const std::vector<Work> works = std::exchange(works_, {});
  if (works.empty()) return {};
  Work::Times times = works.front().times();
  times.finished = works.back().times().finished;
  return times;
}

std::unique_ptr<BucketReduction> make_all_reduction() { return std::make_unique<AllReduction>(); }

std::unique_ptr<BucketReduction> make_canonical_reduction(std::shared_ptr<const CanonicalPlan> plan,
                                                          int rank, int parts) {
  return std::make_unique<CanonicalReduction>(std::move(plan), rank, parts);
}

}  // namespace lockstep::distributed
