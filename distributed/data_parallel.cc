#include "lockstep/distributed/data_parallel.h"

#include <algorithm>
#include <exception>
#include <map>

#include "lockstep/distributed/agreement.h"
#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/exception_text.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

// A double as two floats whose sum carries about 48 bits: bucket trailers may be float32.
void split(double value, double* high, double* low) {
  *high = static_cast<float>(value);
  *low = value - *high;
}

}  // namespace

DataParallel::DataParallel(const nn::Module& model, std::shared_ptr<ProcessGroup> group,
                           DataParallelOptions options)
    : DataParallel(model.named_parameters(), model.named_buffers(), std::move(group), options) {}

DataParallel::DataParallel(NamedTensors parameters, NamedTensors buffers,
                           std::shared_ptr<ProcessGroup> group, DataParallelOptions options)
    : group_(std::move(group)), parameters_(std::move(parameters)), buffers_(std::move(buffers)) {
  check(options.reduction != ReductionMode::kBitwise,
        "[data_parallel] reduction mode bitwise is not available in this version; use repeatable");
  check(!parameters_.empty(), "[data_parallel] the model has no parameters");
  auto weights = std::make_shared<NamedTensors>(parameters_);
  weights->insert(weights->end(), buffers_.begin(), buffers_.end());
  weights_ = std::move(weights);
  verify_same_model(*group_, parameters_, buffers_);
  make_buckets(options);
  move_buffers();
  broadcast_from_root();
}

DataParallel::~DataParallel() { hooks_.clear(); }

// Buckets of one dtype each, filled in reverse registration order; each closes when it is full.
void DataParallel::make_buckets(const DataParallelOptions& options) {
  struct Open {
    NamedTensors parameters;
    size_t bytes = 0;
  };
  std::map<DType, Open> open;
  const auto close = [&](Open& bucket) {
    buckets_.push_back(std::make_unique<Bucket>(*group_, bucket.parameters));
    bucket = {};
  };
  for (size_t i = parameters_.size(); i-- > 0;) {
    const auto* entry = &parameters_[i];
    const Tensor& p = entry->second;
    if (!p.requires_grad()) continue;
    check(p.is_leaf(), "[data_parallel] parameter {} is not a leaf", entry->first);
    check(p.dtype() == DType::kFloat32 || p.dtype() == DType::kFloat64,
          "[data_parallel] parameter {} is {}; float32 and float64 are supported", entry->first,
          name_of(p.dtype()));
    Open& bucket = open[p.dtype()];
    bucket.parameters.push_back(*entry);
    bucket.bytes += static_cast<size_t>(p.numel()) * size_of(p.dtype());
    const size_t limit = buckets_.empty() ? options.first_bucket_bytes : options.bucket_bytes;
    if (bucket.bytes >= limit) close(bucket);
  }
  for (auto& [dtype, bucket] : open) {
    if (!bucket.parameters.empty()) close(bucket);
  }
  check(!buckets_.empty(), "[data_parallel] no parameter of the model requires a gradient");
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const auto& entries = buckets_[b]->entries();
    for (size_t e = 0; e < entries.size(); ++e) {
      hooks_.push_back(entries[e].parameter.register_post_accumulate_grad_hook(
          [this, b, e](const Tensor&) { on_gradient(b, e); }));
    }
  }
}

// Buffers move into flat memory too, one run per dtype: one broadcast each.
void DataParallel::move_buffers() {
  const autograd::NoGrad no_grad;
  for (int d = 0; d < kDTypeCount; ++d) {
    const auto dtype = static_cast<DType>(d);
    int64_t elements = 0;
    for (const auto& [name, t] : buffers_) elements += t.dtype() == dtype ? t.numel() : 0;
    if (elements == 0) continue;
    const auto memory = group_->allocate(static_cast<size_t>(elements) * size_of(dtype), Device{});
    char* at = static_cast<char*>(memory->data());
    for (const auto& [name, t] : buffers_) {
      if (t.dtype() != dtype) continue;
      const Tensor home = from_memory(at, t.sizes(), dtype, memory);
      home.copy_(t);
      t.set_data(home);
      at += static_cast<size_t>(t.numel()) * size_of(dtype);
    }
    flat_buffers_.push_back({memory, {memory->data(), elements, dtype, Device{}}});
  }
}

void DataParallel::broadcast_from_root() {
  if (group_->size() == 1) return;
  for (const auto& bucket : buckets_) group_->broadcast(bucket->parameter_buffer(), 0).wait();
  for (const auto& [name, p] : parameters_) {
    if (p.requires_grad()) continue;  // frozen: in no bucket
    const Tensor dense = p.detach().contiguous();
    group_->broadcast({dense.data_ptr(), dense.numel(), dense.dtype(), dense.device()}, 0).wait();
    if (!p.is_contiguous()) p.data_tensor().copy_(dense);
  }
  synchronize_buffers();
}

void DataParallel::synchronize_buffers() {
  if (group_->size() == 1) return;
  std::vector<Work> works;
  for (const auto& flat : flat_buffers_) works.push_back(group_->broadcast(flat.buffer, 0));
  for (Work& work : works) work.wait();
}

DataParallel::Accumulation DataParallel::accumulate(data::Step& step) {
  return Accumulation(*this, step);
}

void DataParallel::on_gradient(size_t bucket, size_t entry) {
  if (!communicating_) return;
  if (buckets_[bucket]->mark_ready(entry)) launch_ready();
}

// Strictly in index order, the same on every rank. The last bucket waits for the end of backward:
// it is the one that tells the others if this rank failed.
void DataParallel::launch_ready() {
  while (next_bucket_ + 1 < buckets_.size() && buckets_[next_bucket_]->all_ready()) {
    buckets_[next_bucket_++]->launch(*group_, false, {});
  }
}

void DataParallel::launch_rest(bool poisoned) {
  for (; next_bucket_ < buckets_.size(); ++next_bucket_) {
    double extras[Bucket::kExtras] = {};
    if (next_bucket_ + 1 == buckets_.size()) {
      split(loss_sum_, &extras[0], &extras[1]);
      const NumberMark step = mark_of(step_index_, group_->size());
      extras[2] = step.value;
      extras[3] = step.square;
    }
    buckets_[next_bucket_]->launch(*group_, poisoned, extras);
  }
}

void DataParallel::backward(const Tensor& loss, int64_t samples) {
  Accumulation* const scope = accumulation_;
  check<Error>(scope == nullptr || scope->backwards_ == 0,
               "[data_parallel] a second backward() in micro-batch {} of step {}: it needs one, so "
               "add the losses up first",
               scope ? scope->at_ : 0, step_index_);
  const bool final = !scope || scope->last();
  if (!scope) {
    loss_sum_ = 0.0;
    step_index_ = kNoStep;
  }
  std::exception_ptr failure;
  if (final) {
    for (const auto& bucket : buckets_) bucket->begin();
    next_bucket_ = 0;
    communicating_ = true;
  }
  try {
    // In here, so that a rank with a wrong argument fails like one whose backward throws: the peers
    // learn of it instead of waiting.
    check(loss.defined() && loss.numel() == 1,
          "[data_parallel] backward() takes a loss of one element, got {}",
          loss.defined() ? loss.sizes().str() : "an undefined tensor");
    check(samples >= 0, "[data_parallel] a loss over {} samples", samples);
    for (const auto& bucket : buckets_) bucket->check_slots();
    if (scope && samples == 0) samples = scope->current().samples;
    const double weight =
        scope ? static_cast<double>(samples) / static_cast<double>(scope->step_.global_samples)
              : 1.0 / group_->size();
    const autograd::NoGrad no_grad;
    loss_sum_ += weight * loss.item();
    const Tensor seed = full(loss.sizes(), weight, {loss.dtype(), loss.device()});
    loss.backward(seed);
    if (scope) ++scope->backwards_;
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure && !final) {
    // The peers go on to the last micro-batch and wait there: tell them now.
    for (const auto& bucket : buckets_) bucket->begin();
    next_bucket_ = 0;
  }
  communicating_ = false;
  if (final || failure) finish(failure);
}

void DataParallel::finish(const std::exception_ptr& failure) {
  launch_rest(static_cast<bool>(failure));
  const auto backward_done = Clock::now();
  Bucket::Outcome last;  // the last bucket knows how the step went
  double communication = 0.0;
  Clock::time_point busy_until{};
  for (const auto& bucket : buckets_) {
    last = bucket->finish();
    const auto begin = std::max(last.times.launched, busy_until);
    if (last.times.finished > begin) {
      communication += std::chrono::duration<double>(last.times.finished - begin).count();
      busy_until = last.times.finished;
    }
  }
  if (!marks_agree({last.extras[2], last.extras[3]}, group_->size())) {
    throw_different_steps(failure);
  }
  if (last.poisoned) throw_poisoned(failure);
  if (group_->size() > 1) synchronize_buffers();
  const std::chrono::duration<double> exposed = Clock::now() - backward_done;
  last_.loss = last.extras[0] + last.extras[1];
  last_.has_loss = true;
  last_.communication_seconds = group_->size() > 1 ? communication : 0.0;
  last_.exposed_communication_seconds =
      group_->size() > 1 ? std::min(exposed.count(), communication) : 0.0;
  last_.weights = weights_;
}

void DataParallel::throw_poisoned(const std::exception_ptr& failure) {
  for (const auto& bucket : buckets_) bucket->discard();
  const auto texts = exchange_texts(*group_, failure ? exception_text(failure) : "");
  if (failure) std::rethrow_exception(failure);
  std::string message;
  for (size_t r = 0; r < texts.size(); ++r) {
    if (texts[r].empty()) continue;
    message += fmt::format("{}rank {} failed: {}", message.empty() ? "" : "; ", r, texts[r]);
  }
  fail<DistributedError>(
      "[data_parallel] the backward of {} was given up because {}. All gradients of the step are "
      "discarded",
      step_name(), message);
}

// This rank's gradients were added to those of another step.
void DataParallel::throw_different_steps(const std::exception_ptr& failure) {
  for (const auto& bucket : buckets_) bucket->discard();
  std::string mine = step_name();
  if (failure) mine += fmt::format(" (which fails with: {})", exception_text(failure));
  const auto texts = exchange_texts(*group_, mine);
  std::map<std::string, std::vector<size_t>> ranks;
  for (size_t r = 0; r < texts.size(); ++r) ranks[texts[r]].push_back(r);
  std::string message;
  for (const auto& [step, members] : ranks) {
    message += fmt::format("{}{} {} in {}", message.empty() ? "" : ", ",
                           members.size() == 1 ? "rank" : "ranks", fmt::join(members, ", "), step);
  }
  fail<DistributedError>(
      "[data_parallel] the ranks are in different steps: {}; this is rank {}. A rank that leaves a "
      "step early (break, or a caught exception) must not go on alone: let all ranks leave it, or "
      "let the exception end the job. All gradients are discarded",
      message, group_->rank());
}

std::string DataParallel::step_name() const {
  return step_index_ == kNoStep ? "a backward() outside accumulate()"
                                : fmt::format("step {}", step_index_);
}

// -- Accumulation

DataParallel::Accumulation::Accumulation(DataParallel& replicas, data::Step& step)
    : replicas_(replicas), step_(step) {
  check(!step.micros.empty() && step.global_samples > 0,
        "[data_parallel] step {} has {} micro-batches and {} samples", step.index,
        step.micros.size(), step.global_samples);
  check<Error>(replicas.accumulation_ == nullptr,
               "[data_parallel] accumulate() inside accumulate(): one step at a time");
  replicas.accumulation_ = this;
  replicas.loss_sum_ = 0.0;
  replicas.step_index_ = step.index;
}

DataParallel::Accumulation::~Accumulation() {
  random_.reset();
  replicas_.accumulation_ = nullptr;
  // Left before the reduction: what has been added up here must not reach the optimizer.
  const bool reduced = done() || (last() && backwards_ == 1);
  if (!reduced) {
    for (const auto& bucket : replicas_.buckets_) bucket->discard();
  }
}

DataParallel::Accumulation::Iterator DataParallel::Accumulation::begin() {
  check(!begun_, "[data_parallel] the micro-batches of a step can be iterated once");
  begun_ = true;
  enter();
  return Iterator(this);
}

void DataParallel::Accumulation::enter() {
  backwards_ = 0;
  random_.reset();
  if (!done()) {
    random_.emplace(static_cast<uint64_t>(step_.index), static_cast<uint64_t>(current().index));
  }
}

void DataParallel::Accumulation::advance() {
  check<Error>(backwards_ == 1,
               "[data_parallel] micro-batch {} of step {} had no call of backward(); it needs one, "
               "DataParallel's own, so that its gradients are weighted and reduced",
               at_, step_.index);
  ++at_;
  enter();
  if (done()) step_.report = replicas_.last_;
}

}  // namespace lockstep::distributed
