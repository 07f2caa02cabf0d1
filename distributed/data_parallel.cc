#include "lockstep/distributed/data_parallel.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/layer_exchange.h"
#include "lockstep/distributed/lockstep_check.h"
#include "lockstep/distributed/shard_buffers.h"
#include "lockstep/distributed/shard_reduction.h"
#include "lockstep/distributed/sync_batch_norm.h"
#include "lockstep/engine/arithmetic.h"
#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/index_checks.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/exception_text.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/transfer.h"

namespace lockstep::distributed {
namespace {

// Gradients that are not finite at this loss scale are not finite at any: the ranges of float16 and
// of what it is to be saved from end around there.
constexpr double kLowestScale = 0x1p-14;

// When backward's last kernel has ended: on a device, later than the host has issued it.
class BackwardEnd {
 public:
  using Clock = std::chrono::steady_clock;

  BackwardEnd(Device device, bool asks_device)
      : transfers_(asks_device ? transfers_of(device) : nullptr),
        event_(transfers_ ? transfers_->record_timed_event() : nullptr) {}
  // Once what comes behind it on the device has been waited for.
  Clock::time_point time() const {
    if (!transfers_) return issued_;
    const auto ended = transfers_->time_of(event_).value_or(issued_);
    return std::clamp(ended, issued_, std::max(issued_, Clock::now()));
  }

 private:
  const Clock::time_point issued_ = Clock::now();
  Transfers* const transfers_;
  const std::shared_ptr<CommEvent> event_;
};

}  // namespace

DataParallel::DataParallel(const nn::Module& model, std::shared_ptr<ProcessGroup> group,
                           DataParallelOptions options)
    : DataParallel(model.named_parameters(), model.named_buffers(), std::move(group),
                   std::move(options)) {
  for (const auto& [name, module] : model.named_modules()) {
    auto* const layer = dynamic_cast<SyncBatchNorm*>(module);
    if (layer == nullptr) continue;
    check(!plan_,
          "[data_parallel] {} is a SyncBatchNorm, whose statistics are those of all ranks' "
          "micro-batches together; in reduction mode bitwise they are those of each virtual shard: "
          "use nn::BatchNorm, or mode repeatable",
          name);
    check(&layer->group() == group_.get(),
          "[data_parallel] the SyncBatchNorm {} was made with another process group", name);
    layer->set_name(name);
  }
}

DataParallel::DataParallel(NamedTensors parameters, NamedTensors buffers,
                           std::shared_ptr<ProcessGroup> group, DataParallelOptions options)
    : group_(std::move(group)),
      options_(std::move(options)),
      parameters_(std::move(parameters)),
      buffers_(std::move(buffers)) {
  if (options_.reduction == ReductionMode::kBitwise) {
    check(!options_.compression,
          "[data_parallel] reduction mode bitwise adds the virtual shards' gradients exactly along "
          "one tree; with compression each rank would round its own part, so that the bits depend "
          "on the number of ranks. Use mode repeatable, or no compression");
    const int64_t shards =
        options_.virtual_shards != 0 ? options_.virtual_shards : options_.reduction.virtual_shards;
    plan_ = std::make_shared<const CanonicalPlan>(shards, group_->size());
  }
  const DType precision = options_.precision;
  check(
      precision == DType::kFloat32 || precision == DType::kBFloat16 || precision == DType::kFloat16,
      "[data_parallel] precision {}; float32, bfloat16 and float16 are supported",
      name_of(precision));
  if (precision == DType::kFloat16) loss_scale_.emplace(options_.loss_scale);
  check(!parameters_.empty(), "[data_parallel] the model has no parameters");
  for (const NamedTensors* list : {&parameters_, &buffers_}) {
    for (const auto& [name, t] : *list) {
      check<Error>(t.device() == parameters_.front().second.device(),
                   "[data_parallel] {} is on {} and {} on {}; move the whole model to one device",
                   parameters_.front().first, parameters_.front().second.device().str(), name,
                   t.device().str());
    }
  }
  auto weights = std::make_shared<NamedTensors>(parameters_);
  weights->insert(weights->end(), buffers_.begin(), buffers_.end());
  weights_ = std::move(weights);
  const ProcessGroup::LabelScope label(*group_, Label("a new DataParallel"));
  verify_same_model(*group_, parameters_, buffers_);
  Reducer::Options reducer{options_.first_bucket_bytes, options_.bucket_bytes};
  reducer.find_non_finite = options_.non_finite != NonFinite::kIgnore || loss_scale_;
  reducer.learn_order = options_.learn_order;
  check(!options_.compression || !options_.shard_gradients,
        "[data_parallel] shard_gradients sends each rank its part of the sum as it is; leave out "
        "compression, or shard_gradients");
  if (options_.compression) reducer.make_reduction = options_.compression;
  if (plan_) {
    verify_same_text(*group_,
                     "[data_parallel] the ranks would not compute the same bits, which reduction "
                     "mode bitwise promises; use machines of one kind (LOCKSTEP_ISA and "
                     "ONEDNN_MAX_CPU_ISA lower the instruction set), or mode repeatable",
                     describe_arithmetic(parameters_.front().second.device()));
    const int parts = options_.shard_gradients ? group_->size() : 1;
    reducer.make_reduction = [plan = plan_, rank = group_->rank(), parts] {
      return make_canonical_reduction(plan, rank, parts);
    };
    reducer.loss_terms = static_cast<size_t>(plan_->leaves());
  } else if (options_.shard_gradients && group_->size() > 1) {
    reducer.make_reduction = [rank = group_->rank(), parts = group_->size()] {
      return make_shard_reduction(rank, parts);
    };
  }
  losses_.resize(reducer.loss_terms);
  reducer_ = std::make_unique<Reducer>(group_, parameters_, std::move(reducer));
  move_buffers();
  broadcast_from_root();
  if (plan_ && !flat_buffers_.empty()) {
    std::vector<Tensor> runs;
    for (const auto& flat : flat_buffers_) {
      runs.push_back(from_memory(flat.buffer.data, {flat.buffer.count}, flat.buffer.dtype,
                                 flat.memory, flat.buffer.device));
    }
    shard_buffers_ = std::make_unique<ShardBuffers>(group_, runs, plan_);
  }
}

DataParallel::~DataParallel() = default;

// Buffers move into flat memory too, one run per dtype: one broadcast each.
void DataParallel::move_buffers() {
  const autograd::NoGrad no_grad;
  for (int d = 0; d < kDTypeCount; ++d) {
    const auto dtype = static_cast<DType>(d);
    int64_t elements = 0;
    for (const auto& [name, t] : buffers_) elements += t.dtype() == dtype ? t.numel() : 0;
    if (elements == 0) continue;
    const Device device = buffers_.front().second.device();
    const auto memory = group_->allocate(static_cast<size_t>(elements) * size_of(dtype), device);
    char* at = static_cast<char*>(memory->data());
    for (const auto& [name, t] : buffers_) {
      if (t.dtype() != dtype) continue;
      const Tensor home = from_memory(at, t.sizes(), dtype, memory, device);
      home.copy_(t);
      t.set_data(home);
      at += static_cast<size_t>(t.numel()) * size_of(dtype);
    }
    flat_buffers_.push_back({memory, {memory->data(), elements, dtype, device}});
  }
}

void DataParallel::broadcast_from_root() {
  if (group_->size() == 1) return;
  for (const Bucket* bucket : reducer_->buckets()) {
    const ProcessGroup::LabelScope label(*group_, bucket->label());
    group_->broadcast(bucket->parameter_buffer(), 0).wait();
  }
  for (const auto& [name, p] : parameters_) {
    if (p.requires_grad()) continue;  // those that are frozen lie in no bucket yet
    const Tensor dense = p.detach().contiguous();
    const ProcessGroup::LabelScope label(*group_, Label(name));
    group_->broadcast({dense.data_ptr(), dense.numel(), dense.dtype(), dense.device()}, 0).wait();
    if (!p.is_contiguous()) p.data_tensor().copy_(dense);
  }
  synchronize_buffers();
}

void DataParallel::synchronize_buffers(int root) {
  if (group_->size() == 1) return;
  const ProcessGroup::LabelScope label(*group_, Label("buffers"));
  std::vector<Work> works;
  for (const auto& flat : flat_buffers_) works.push_back(group_->broadcast(flat.buffer, root));
  for (Work& work : works) work.wait();
}

void DataParallel::backward(const Tensor& loss, int64_t samples) {
  check_capture();
  drop_only_captured();
  Accumulation* const scope = accumulation_;
  check<Error>(scope != nullptr || !plan_,
               "[data_parallel] backward() outside accumulate() has no virtual shards, which "
               "reduction mode bitwise adds up; put it into accumulate(), or use mode repeatable");
  check<Error>(scope == nullptr || scope->backwards_ == 0,
               "[data_parallel] a second backward() in micro-batch {} of step {}: it needs one, so "
               "add the losses up first",
               scope ? scope->at_ : 0, step_index_);
  check_not_joined("backward()");
  const bool final = scope ? scope->last() : !no_sync_;
  if (!scope) {
    forget_losses();
    step_index_ = kNoStep;
  }
  std::exception_ptr failure;
  set_activity(Phase::kBackward);
  const auto begin = Clock::now();
  reducer_->begin_pass(scope ? scope->at_ : 0);
  if (final) reducer_->begin();
  try {
    // In here, so that a rank with a wrong argument fails like one whose backward throws: the peers
    // learn of it instead of waiting.
    check(loss.defined() && loss.numel() == 1,
          "[data_parallel] backward() takes a loss of one element, got {}",
          loss.defined() ? loss.sizes().str() : "an undefined tensor");
    check(samples >= 0, "[data_parallel] a loss over {} samples", samples);
    reducer_->check_parameters();
    check_unreduced();
    if (scope && samples == 0) samples = scope->current().samples;
    const double weight =
        scope ? static_cast<double>(samples) / static_cast<double>(scope->step_.global_samples)
              : 1.0 / group_->size();
    samples_ += samples;
    const autograd::NoGrad no_grad;
    add_loss(plan_ ? static_cast<size_t>(scope->current().index) : 0, weight, loss);
    loss.backward(seed_of(loss, weight));
    if (LayerExchange* layers = LayerExchange::find(*group_)) layers->end_backward();
    if (!final) reducer_->end_pass();
    if (shard_buffers_) shard_buffers_->end_shard(scope->at_);
    if (!scope && !final) remember_unreduced();
    if (scope) {
      ++scope->backwards_;
      scope->step_.report.timeline.passes.push_back(
          {scope->current().index, scope->entered_, begin, Clock::now()});
    }
  } catch (...) {
    failure = std::current_exception();
    if (LayerExchange* layers = LayerExchange::find(*group_)) layers->fail_backward(failure);
  }
  // The peers go on to the last micro-batch and wait there: tell them now.
  if (failure && !final) reducer_->begin();
  if (final || failure) {
    finish(failure);
  } else {
    set_activity(Phase::kStep);
  }
}

void DataParallel::forget_losses() {
  losses_.assign(losses_.size(), 0.0);
  device_losses_ = Tensor();
}

// The same arithmetic on every device.
void DataParallel::add_loss(size_t term, double weight, const Tensor& loss) {
  const Device device = parameters_.front().second.device();
  if (device.is_cpu()) {
    losses_[term] += weight * loss.item();
    return;
  }
  if (!device_losses_.defined()) {
    device_losses_ = zeros({std::ssize(losses_)}, {DType::kFloat64, device});
  }
  const Tensor value = loss.detach().to(DType::kFloat64).to(device).reshape({1});
  device_losses_.narrow(0, static_cast<int64_t>(term), 1).add_(value * weight);
}

void DataParallel::set_activity(Phase phase) const {
  if (accumulation_ != nullptr) {
    group_->set_activity(phase, step_index_);
  } else {
    group_->set_activity(phase);
  }
}

// The gradient of the loss that is reported.
Tensor DataParallel::seed_of(const Tensor& loss, double weight) {
  DeviceGraph* const graph = graph_in_capture();
  if (graph == nullptr || !loss_scale_) {
    return full(loss.sizes(), weight * loss_scale(), {loss.dtype(), loss.device()});
  }
  if (loss.dtype() != DType::kFloat32) {
    forbid_in_capture("backward() of a scaled loss that is not float32", "make it float32");
  }
  return graph->value([this, weight] { return static_cast<float>(weight * loss_scale()); })
      .view(loss.sizes());
}

StepTrailer::Share DataParallel::share() const {
  StepTrailer::Share share{.joined = joined_, .step = step_index_, .loss_terms = losses_};
  if (accumulation_ != nullptr) {
    share.samples = samples_;
    share.of_samples = accumulation_->step_.global_samples;
  } else {
    share.backwards = unreduced_ + 1;  // one that fails may not have come as far as the others
    if (!options_.count_joined_ranks) {
      share.samples = 1;
      share.of_samples = group_->size();
    }
  }
  return share;
}

bool DataParallel::finish(const std::exception_ptr& failure) {
  set_activity(Phase::kGradients);
  if (DeviceGraph* const graph = graph_in_capture()) {
    capture(*graph, failure);
    return false;
  }
  const BackwardEnd backward_end(parameters_.front().second.device(), !failure);
  Reducer::Outcome outcome =
      reducer_->finish(static_cast<bool>(failure), share(), 1.0 / loss_scale(), device_losses_);
  return conclude(std::move(outcome), failure, backward_end.time());
}

bool DataParallel::conclude(Reducer::Outcome outcome, const std::exception_ptr& failure,
                            Clock::time_point backward_done) {
  const int active = outcome.sums.active();
  if (!outcome.sums.same_step) {
    throw_different_steps(
        failure,
        "A rank that leaves a step early (break, or a caught exception) must not go on alone: let "
        "all ranks leave it, or let the exception end the job");
  }
  if (!outcome.poisoned && !outcome.sums.same_backwards) {
    throw_different_steps(
        failure,
        "With no_sync() every rank must reduce after the same number of backward()s; accumulate() "
        "knows how to weigh unequal ones");
  }
  unreduced_ = 0;
  if (outcome.poisoned) throw_poisoned(failure);
  const bool heeds_trouble = options_.non_finite != NonFinite::kIgnore || loss_scale_;
  const bool skipped = outcome.sums.non_finite || (heeds_trouble && !outcome.trouble.empty());
  if (skipped) discard_non_finite(outcome);
  if (loss_scale_ && active > 0) loss_scale_->update(skipped);
  if (shard_buffers_) {
    shard_buffers_->finish();
  } else if (!plan_ && active > 0) {
    synchronize_buffers(outcome.sums.first_active());
  }
  check_lockstep_now_and_then(active == group_->size());
  throw_wrong_index();
  set_activity(Phase::kStep);
  report(std::move(outcome), {backward_done, Clock::now()}, skipped);
  return active == 0;
}

// What a device has found by itself, before the optimizer takes the step. With NonFinite::kThrow
// all ranks have thrown for the NaN that comes of it.
void DataParallel::throw_wrong_index() const {
  auto* const device = index_checks_of(reducer_->buckets().front()->gradient_buffer().device);
  if (device == nullptr) return;
  if (const std::string text = device->wrong_index(); !text.empty()) throw IndexError(text);
}

void DataParallel::report(Reducer::Outcome outcome, const data::StepTimeline::Wait& wait,
                          bool skipped) const {
  if (step_ == nullptr) return;
  data::StepReport& report = step_->report;
  report.loss += outcome.sums.loss;
  report.has_loss = true;
  report.skipped = report.skipped || skipped;
  if (loss_scale_) report.loss_scale = loss_scale_->value();
  auto& passes = report.timeline.passes;
  if (!passes.empty()) passes.back().end = std::max(passes.back().end, wait.begin);
  if (group_->size() > 1) {
    const std::chrono::duration<double> waited = wait.end - wait.begin;
    report.communication_seconds += outcome.communication_seconds;
    report.exposed_communication_seconds += std::min(waited.count(), outcome.communication_seconds);
    auto& all_reduces = report.timeline.all_reduces;
    all_reduces.insert(all_reduces.end(), outcome.all_reduces.begin(), outcome.all_reduces.end());
    report.timeline.waits.push_back(wait);
  }
  auto& models = report.models;
  if (std::find(models.begin(), models.end(), weights_) == models.end()) {
    models.push_back(weights_);
  }
}

void DataParallel::throw_poisoned(const std::exception_ptr& failure) {
  reducer_->discard();
  const bool own = failure && !is_peers(failure);
  const auto texts = exchange_texts(*group_, own ? exception_text(failure) : "");
  if (own) std::rethrow_exception(failure);
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

void DataParallel::check_shards(const data::Step& step) const {
  const data::Range range = plan_->share(group_->rank()).range;
  const int64_t shards = plan_->leaves();
  const auto& micros = step.micros;
  bool right = step.global_samples % shards == 0 && std::ssize(micros) == range.size();
  for (size_t k = 0; right && k < micros.size(); ++k) {
    right = micros[k].index == range.begin + static_cast<int64_t>(k) &&
            micros[k].samples == step.global_samples / shards;
  }
  std::vector<std::string> actual;
  for (const auto& micro : micros) {
    actual.push_back(fmt::format("{} ({} samples)", micro.index, micro.samples));
  }
  check(
      right,
      "[data_parallel] step {} has the micro-batches {} of {} samples in all on rank {} of {}. In "
      "reduction mode bitwise with {} virtual shards they must be the shards {} to {}, each of "
      "the same number of samples: let job.steps() make the steps (--reduction bitwise "
      "--virtual-shards {}), or a data::Sampler with virtual_shards, and give DataParallel the "
      "same number",
      step.index, fmt::join(actual, ", "), step.global_samples, group_->rank(), group_->size(),
      shards, range.begin, range.end - 1, shards);
}

// The same on every rank.
void DataParallel::discard_non_finite(const Reducer::Outcome& outcome) {
  reducer_->discard();
  const bool scale_may_be_why = loss_scale_ && loss_scale_->value() >= kLowestScale;
  if (!scale_may_be_why && options_.non_finite != NonFinite::kSkip) {
    if (outcome.sums.non_finite) reducer_->finite_check().fail(*group_, step_name());
    fail<DistributedError>("[data_parallel] in {} {}. All gradients of the step are discarded",
                           step_name(), outcome.trouble);
  }
  ++skipped_steps_;
}

void DataParallel::check_lockstep() const {
  NamedTensors all;
  for (const auto& [name, p] : parameters_) all.emplace_back("parameter " + name, p);
  for (const auto& [name, t] : buffers_) all.emplace_back("buffer " + name, t);
  for (const optim::Optimizer* optimizer : optimizers_) {
    for (auto& named : optimizer_tensors(*optimizer, parameters_)) all.push_back(std::move(named));
  }
  distributed::check_lockstep(*group_, all, fmt::format("in {}", step_name()));
}

// A rank that has joined may be behind.
void DataParallel::check_lockstep_now_and_then(bool complete) {
  const int64_t every = options_.check_lockstep_every;
  if (every > 0 && ++reductions_ % every == 0 && complete) check_lockstep();
}

// This rank's gradients were added to those of another step.
void DataParallel::throw_different_steps(const std::exception_ptr& failure, const char* advice) {
  reducer_->discard();
  std::string mine = step_name();
  unreduced_ = 0;
  if (failure) mine += fmt::format(" (which fails with: {})", exception_text(failure));
  const auto texts = exchange_texts(*group_, mine);
  std::string message;
  for (const auto& [step, ranks] : ranks_by_text(texts)) {
    message += fmt::format("{}{} in {}", message.empty() ? "" : ", ", name_ranks(ranks), step);
  }
  fail<DistributedError>(
      "[data_parallel] the ranks are in different steps: {}; this is rank {}. {}. All gradients "
      "are "
      "discarded",
      message, group_->rank(), advice);
}

std::string DataParallel::step_name() const {
  if (joined_) return "a step after join()";
  if (step_index_ != kNoStep) return fmt::format("step {}", step_index_);
  if (unreduced_ == 0) return "a backward() outside accumulate()";
  return fmt::format("a backward() outside accumulate(), after {} in no_sync()", unreduced_);
}

}  // namespace lockstep::distributed
