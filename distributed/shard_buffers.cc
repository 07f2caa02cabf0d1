#include "lockstep/distributed/shard_buffers.h"

#include <utility>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr int64_t kAlignment = 16;  // elements: a cache line of float32

// What a run is added up in: 16-bit floats are rounded once.
DType sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

}  // namespace

ShardBuffers::ShardBuffers(std::shared_ptr<ProcessGroup> group, const std::vector<Tensor>& runs,
                           std::shared_ptr<const CanonicalPlan> plan)
    : group_(std::move(group)), plan_(std::move(plan)) {
  const autograd::NoGrad no_grad;
  for (const Tensor& values : runs) {
    Run& run = runs_.emplace_back();
    run.values = values;
    run.start = values.clone();
    if (!is_floating(values.dtype())) {
      if (group_->rank() == 0) run.first = values.clone();
      continue;
    }
    const DType dtype = sum_dtype(values.dtype());
    run.stride = (values.numel() + kAlignment - 1) / kAlignment * kAlignment;
    const size_t slot_bytes = static_cast<size_t>(run.stride) * size_of(dtype);
    run.memory =
        group_->allocate(slot_bytes * static_cast<size_t>(plan_->slots()), values.device());
    for (int s = 0; s < plan_->slots(); ++s) {
      char* const at = static_cast<char*>(run.memory->data()) + static_cast<size_t>(s) * slot_bytes;
      run.slots.push_back(from_memory(at, {values.numel()}, dtype, run.memory, values.device()));
    }
  }
}

void ShardBuffers::begin_step() {
  const autograd::NoGrad no_grad;
  for (const Run& run : runs_) run.start.copy_(run.values);
  started_ = true;
}

void ShardBuffers::begin_shard(size_t pass) {
  if (pass == 0) return;
  const autograd::NoGrad no_grad;
  for (const Run& run : runs_) run.values.copy_(run.start);
}

void ShardBuffers::end_shard(size_t pass) {
  const autograd::NoGrad no_grad;
  const auto& leaf = plan_->share(group_->rank()).leaves[pass];
  for (const Run& run : runs_) {
    if (run.first.defined() && pass == 0) run.first.copy_(run.values);
    if (run.slots.empty()) continue;
    // Weighted before it is added, so that no sum can overflow.
    const Tensor& slot = run.slots[static_cast<size_t>(leaf.slot)];
    const Tensor term = run.values.to(slot.dtype()).mul(1.0 / static_cast<double>(plan_->leaves()));
    if (leaf.adds) {
      slot.add_(term);
    } else {
      slot.copy_(term);
    }
    for (const auto& [to, from] : leaf.additions) {
      run.slots[static_cast<size_t>(to)].add_(run.slots[static_cast<size_t>(from)]);
    }
  }
}

void ShardBuffers::finish() {
  const autograd::NoGrad no_grad;
  std::vector<Work> works;
  for (const Run& run : runs_) {
    if (run.slots.empty()) {
      if (run.first.defined()) run.values.copy_(run.first);
      works.push_back(group_->broadcast(
          {run.values.data_ptr(), run.values.numel(), run.values.dtype(), run.values.device()}, 0));
    } else {
      works.push_back(group_->canonical_sum({run.memory->data(), run.stride * plan_->slots(),
                                             run.slots[0].dtype(), run.values.device()},
                                            plan_));
    }
  }
  for (Work& work : works) work.wait();
  for (const Run& run : runs_) {
    if (!run.slots.empty()) run.values.copy_(run.slots[0]);
  }
  started_ = false;
}

void ShardBuffers::abandon() {
  if (!started_) return;
  const autograd::NoGrad no_grad;
  for (const Run& run : runs_) run.values.copy_(run.start);
  started_ = false;
}

}  // namespace lockstep::distributed
