#include "lockstep/distributed/periodic_averager.h"

#include <utility>

#include "lockstep/distributed/agreement.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr size_t kRunBytes = size_t{25} << 20;  // one travels while the next is copied

NamedTensors numbered(const std::vector<Tensor>& parameters) {
  NamedTensors named;
  for (size_t i = 0; i < parameters.size(); ++i) {
    named.emplace_back(fmt::format("parameter {}", i), parameters[i]);
  }
  return named;
}

// What a mean is computed in.
DType sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

}  // namespace

PeriodicAverager::PeriodicAverager(const std::vector<Tensor>& parameters,
                                   std::shared_ptr<ProcessGroup> group,
                                   PeriodicAveragerOptions options)
    : PeriodicAverager(numbered(parameters), std::move(group), options) {}

PeriodicAverager::PeriodicAverager(const NamedTensors& parameters,
                                   std::shared_ptr<ProcessGroup> group,
                                   PeriodicAveragerOptions options)
    : group_(std::move(group)), options_(options) {
  check(options.period >= 1, "[periodic averager] a period of {} steps: must be at least 1",
        options.period);
  check(options.warmup_steps >= 0, "[periodic averager] {} steps of warm-up", options.warmup_steps);
  for (const auto& [name, p] : parameters) {
    check(is_floating(p.dtype()), "[periodic averager] {} is {}, which has no mean", name,
          name_of(p.dtype()));
  }
  const ProcessGroup::LabelScope label(*group_, Label("a new PeriodicAverager"));
  verify_same_model(*group_, parameters, {});
  if (group_->size() == 1) return;
  for (size_t begin = 0; begin < parameters.size();) {
    const DType dtype = sum_dtype(parameters[begin].second.dtype());
    int64_t count = 0;
    size_t end = begin;
    while (end < parameters.size() && sum_dtype(parameters[end].second.dtype()) == dtype &&
           static_cast<size_t>(count) * size_of(dtype) < kRunBytes) {
      count += parameters[end++].second.numel();
    }
    const auto memory = group_->allocate(static_cast<size_t>(count) * size_of(dtype), Device{});
    Run& run = runs_.emplace_back();
    run.buffer = {memory->data(), count, dtype, Device{}};
    auto* at = static_cast<std::byte*>(memory->data());
    for (; begin < end; ++begin) {
      const Tensor& p = parameters[begin].second;
      run.parameters.push_back(p);
      run.places.push_back(from_memory(at, p.sizes(), dtype, memory));
      at += static_cast<size_t>(p.numel()) * size_of(dtype);
    }
  }
  exchange(true);
}

bool PeriodicAverager::step() {
  const int64_t step = ++steps_;
  const int64_t after_warmup = step - options_.warmup_steps;
  if (after_warmup > 0 && after_warmup % options_.period != 0) return false;
  average();
  return true;
}

void PeriodicAverager::average() {
  const ProcessGroup::LabelScope label(*group_, Label("the parameters' average"));
  exchange(false);
}

Work PeriodicAverager::send(const Run& run, bool from_root) {
  for (size_t i = 0; i < run.places.size(); ++i) run.places[i].copy_(run.parameters[i]);
  return from_root ? group_->broadcast(run.buffer, 0) : group_->all_reduce(run.buffer);
}

void PeriodicAverager::exchange(bool from_root) {
  const autograd::NoGrad no_grad;
  std::vector<Work> works;
  for (const Run& run : runs_) works.push_back(send(run, from_root));
  for (size_t r = 0; r < runs_.size(); ++r) {
    works[r].wait();
    for (size_t i = 0; i < runs_[r].places.size(); ++i) {
      const Tensor& place = runs_[r].places[i];
      if (!from_root) place.div_(static_cast<double>(group_->size()));
      runs_[r].parameters[i].copy_(place);
    }
  }
}

}  // namespace lockstep::distributed
