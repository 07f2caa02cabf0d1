// The scopes in which DataParallel adds up gradients before it reduces them.
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/shard_buffers.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {

// -- accumulate

DataParallel::Accumulation DataParallel::accumulate(data::Step& step) {
  return Accumulation(*this, step);
}

DataParallel::Accumulation::Accumulation(DataParallel& replicas, data::Step& step)
    : replicas_(replicas), step_(step) {
  replicas.check_capture();
  replicas.drop_only_captured();
  check(!step.micros.empty() && step.global_samples > 0,
        "[data_parallel] step {} has {} micro-batches and {} samples", step.index,
        step.micros.size(), step.global_samples);
  replicas.check_not_joined("accumulate()");
  check<Error>(replicas.accumulation_ == nullptr,
               "[data_parallel] accumulate() inside accumulate(): one step at a time");
  check<Error>(!replicas.no_sync_,
               "[data_parallel] accumulate() inside no_sync(): it communicates in a step's last "
               "micro-batch only, without being told");
  replicas.check_reduced("accumulate()");
  if (replicas.plan_) replicas.check_shards(step);
  replicas.accumulation_ = this;
  replicas.step_ = &step;
  replicas.forget_losses();
  replicas.step_index_ = step.index;
  replicas.samples_ = 0;
}

DataParallel::Accumulation::~Accumulation() {
  leave_random_scope();
  autocast_.reset();
  replicas_.accumulation_ = nullptr;
  replicas_.step_ = nullptr;
  // Left before the reduction: what has been added up here must not reach the optimizer.
  const bool reduced = done() || (last() && backwards_ == 1);
  if (!reduced) {
    replicas_.reducer_->discard();
  }
  // Of a step that was reduced nothing is left to be given up.
  if (replicas_.shard_buffers_) replicas_.shard_buffers_->abandon();
}

DataParallel::Accumulation::Iterator DataParallel::Accumulation::begin() {
  check(!begun_, "[data_parallel] the micro-batches of a step can be iterated once");
  begun_ = true;
  if (replicas_.shard_buffers_) replicas_.shard_buffers_->begin_step();
  // One scope for all micro-batches: a weight is converted once a step.
  const DType precision = replicas_.options_.precision;
  if (precision != DType::kFloat32) autocast_.emplace(precision);
  enter();
  return Iterator(this);
}

void DataParallel::Accumulation::enter() {
  backwards_ = 0;
  entered_ = Clock::now();
  leave_random_scope();
  if (done()) autocast_.reset();
  if (done()) return;
  if (replicas_.shard_buffers_) replicas_.shard_buffers_->begin_shard(at_);
  random_.emplace(static_cast<uint64_t>(step_.index), static_cast<uint64_t>(current().index));
  DeviceGraph* const graph = graph_in_capture();
  if (graph == nullptr) return;
  // A replay draws the numbers of the step that it is.
  const auto key = [step = &step_, at = at_] {
    return make_random_key(current_seed(), RandomPurpose::kStep, static_cast<uint32_t>(step->index),
                           static_cast<uint32_t>(step->micros[at].index));
  };
  graph->enter_random_scope(key(), key);
  captures_random_ = true;
}

void DataParallel::Accumulation::leave_random_scope() {
  DeviceGraph* const graph = graph_in_capture();
  if (captures_random_ && graph != nullptr) graph->leave_random_scope(random_state().ordinal);
  captures_random_ = false;
  random_.reset();
}

void DataParallel::Accumulation::advance() {
  check<Error>(backwards_ == 1,
               "[data_parallel] micro-batch {} of step {} had no call of backward(); it needs one, "
               "DataParallel's own, so that its gradients are weighted and reduced",
               at_, step_.index);
  ++at_;
  enter();
}

// -- no_sync

DataParallel::NoSync DataParallel::no_sync() { return NoSync(*this); }

DataParallel::NoSync::NoSync(DataParallel& replicas)
    : replicas_(replicas), before_(replicas.no_sync_) {
  forbid_in_capture("DataParallel::no_sync()", "capture whole steps, with accumulate()");
  check<Error>(!replicas.plan_,
               "[data_parallel] reduction mode bitwise adds up virtual shards, not what a rank has "
               "accumulated; use accumulate() instead of no_sync(), or mode repeatable");
  replicas.check_not_joined("no_sync()");
  check<Error>(replicas.accumulation_ == nullptr,
               "[data_parallel] no_sync() inside accumulate(), which decides by itself when to "
               "communicate");
  replicas.no_sync_ = true;
}

void DataParallel::remember_unreduced() {
  ++unreduced_;
  versions_.clear();
  for (const auto& [name, p] : parameters_) versions_.push_back(p.version());
}

void DataParallel::check_unreduced() const {
  if (unreduced_ == 0) return;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    check<Error>(parameters_[i].second.version() == versions_[i],
                 "[data_parallel] parameter {} has been changed since a backward() in no_sync() "
                 "that has not been reduced yet; an optimizer's step with the gradients of one "
                 "rank makes the replicas differ. Let the scope of no_sync() end before the last "
                 "backward() of each step",
                 parameters_[i].first);
  }
}

// Before what does not take them along.
void DataParallel::check_reduced(const char* function) {
  check_unreduced();
  check<Error>(unreduced_ == 0 || !reducer_->has_unreduced(),
               "[data_parallel] {} while the gradients of {} backward() in no_sync() have not been "
               "reduced: let the scope of no_sync() end before the last one, or drop them with "
               "zero_grad()",
               function, unreduced_);
  unreduced_ = 0;
}

}  // namespace lockstep::distributed
