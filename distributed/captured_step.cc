// Steps of DataParallel in a CUDA graph: of one rank, which has nobody to wait for. What backward()
// does behind its wait comes behind the replay's.
#include <algorithm>
#include <utility>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {

namespace {

using State = autograd::GradientSlot::State;

// By a number on the device: the bits are those of one of the host's.
void unscale_captured(const Tensor& gradient, const Tensor& unscale) {
  if (gradient.dtype() != DType::kFloat32) {
    forbid_in_capture("loss scaling of a parameter that is not float32", "make it float32");
  }
  gradient.mul_(unscale);
}

}  // namespace

Reducer::Captured Reducer::capture(const StepTrailer::Share& share, const Tensor& unscale,
                                   const Tensor& losses) {
  reducing_ = in_pass_ = false;
  const autograd::NoGrad no_grad;
  std::vector<bool> wanted;
  for (const Place& place : places_) {
    wanted.push_back(is_wanted(place));
    if (&place != &places_.back() && wanted.back() == place.idle) {
      forbid_in_capture("the first step after parameters have been frozen or unfrozen",
                        "make one step before the capture");
    }
  }
  for (; next_ < places_.size(); ++next_) {
    look_for_non_finite(places_[next_]);
    if (!places_[next_].idle) places_[next_].bucket->launch(*group_, false);
  }
  Captured captured;
  for (const Place& place : places_) {
    if (place.idle) continue;
    for (const Bucket::Entry& entry : place.bucket->entries()) {
      if (entry.slot->state != State::kAccumulating) continue;
      if (unscale.defined()) unscale_captured(entry.slot->view, unscale);
      entry.slot->state = State::kReduced;
      captured.slots.push_back(entry.slot);
    }
  }
  for (const auto& [name, p] : parameters_) captured.required.push_back(p.requires_grad());
  captured.trailer = trailer_.write(share, false, wanted);
  captured.non_finite = finite_check_.answer();
  captured.finite_check = finite_check_;
  // As exact as what lies in a trailer.
  const DType dtype = places_.back().bucket->gradient_buffer().dtype;
  captured.found = StepTrailer::split_terms(losses).to(dtype).to(DType::kFloat64);
  if (captured.non_finite.defined()) {
    captured.found = cat({captured.found, captured.non_finite.to(DType::kFloat64)}, 0);
  }
  return captured;
}

void Reducer::check_captured(const Captured& captured) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, p] = parameters_[i];
    check<Error>(p.requires_grad() == captured.required[i],
                 "[cuda graph] parameter {} has been {} since the capture; capture the step again",
                 name, p.requires_grad() ? "unfrozen" : "frozen");
  }
  check_parameters();
}

Reducer::Outcome Reducer::finish_replay(Captured& captured) {
  Transfers& transfers = *transfers_of(captured.found.device());
  const auto count = static_cast<size_t>(captured.found.numel());
  const size_t bytes = count * sizeof(double);
  if (!captured.fetched) captured.fetched = std::make_unique<PinnedMemory>(transfers, bytes);
  const auto* const found = static_cast<const double*>(captured.fetched->data());
  transfers.copy_to_pinned(captured.fetched->data(), captured.found.data_ptr(), bytes,
                           Lane::kCompute);
  {
    const SyncAllowed allowed;
    transfers.record_event(Lane::kCompute)->wait_on_host();
  }
  for (const auto& slot : captured.slots) slot->state = State::kReduced;
  std::vector<double> trailer = captured.trailer;
  const size_t terms = count - (captured.non_finite.defined() ? 1 : 0);
  std::copy_n(found, terms, trailer.begin() + static_cast<int64_t>(StepTrailer::loss_at()));
  if (terms < count) trailer[StepTrailer::non_finite_at()] = found[terms];
  Outcome outcome;
  outcome.sums = trailer_.read(trailer);
  // Names what it has found, once.
  if (outcome.sums.non_finite) finite_check_ = captured.finite_check;
  return outcome;
}

struct DataParallel::Captured {
  struct Input {
    const void *x, *y;
    int64_t samples;
    bool operator==(const Input&) const = default;
  };
  static std::vector<Input> inputs_of(const data::Step& step) {
    std::vector<Input> inputs;
    const auto memory = [](const Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; };
    for (const auto& m : step.micros) inputs.push_back({memory(m.x), memory(m.y), m.samples});
    return inputs;
  }

  Reducer::Captured reduction;
  data::Step* step = nullptr;  // null outside accumulate()
  int64_t global_samples = 0;
  std::vector<Input> inputs;
  std::shared_ptr<DeviceGraph::Skip> skip, earlier;
};

void DataParallel::check_capture() const {
  if (graph_in_capture() == nullptr) return;
  if (group_->size() > 1) {
    forbid_in_capture("a step of DataParallel over several ranks",
                      "the host issues and awaits what they send each other. Capture the steps of "
                      "one rank");
  }
  if (plan_) {
    forbid_in_capture("a step of DataParallel in reduction mode bitwise", "use mode repeatable");
  }
  if (options_.compression) {
    forbid_in_capture("a step of DataParallel with compression",
                      "one rank sends nothing: leave the compression out");
  }
  if (parameters_.front().second.device().is_cpu()) {
    forbid_in_capture("a step of DataParallel on the cpu", "move the model to the device");
  }
}

// Gradients that were to be computed by a replay that has not come.
void DataParallel::drop_only_captured() {
  if (!only_captured_ || graph_in_capture() != nullptr) return;
  only_captured_ = false;
  reducer_->discard();
}

void DataParallel::capture(DeviceGraph& graph, const std::exception_ptr& failure) {
  if (failure) {
    reducer_->discard();
    std::rethrow_exception(failure);
  }
  Tensor unscale;
  if (loss_scale_) {
    unscale = graph.value([this] { return static_cast<float>(1.0 / loss_scale()); });
  }
  const auto captured = std::make_shared<Captured>();
  captured->reduction = reducer_->capture(share(), unscale, device_losses_);
  only_captured_ = true;
  if ((captured->step = step_) != nullptr) {
    captured->global_samples = step_->global_samples;
    captured->inputs = Captured::inputs_of(*step_);
  }
  if (const Tensor& own = captured->reduction.non_finite; own.defined()) {
    // Of several, the first that throws keeps all later updates from being made.
    const bool throws = !loss_scale_ && options_.non_finite == NonFinite::kThrow;
    captured->earlier = graph.skip();
    if (captured->earlier && !(throws && captured->earlier->throws)) {
      forbid_in_capture("a second step of DataParallel, of which one may be skipped,",
                        "capture each in a graph of its own");
    }
    captured->skip = std::make_shared<DeviceGraph::Skip>();
    captured->skip->flag = captured->earlier ? captured->earlier->flag + own : own;
    captured->skip->throws = throws;
    graph.skip_updates_if(captured->skip);
  }
  graph.before_replay(
      [this, alive = std::weak_ptr<const int>(alive_), captured] {
        check<Error>(!alive.expired(), "[cuda graph] the captured step's DataParallel is gone");
        check_replay(*captured);
      },
      [step = step_] {
        if (step != nullptr) step->report = {};
      });
  graph.after_replay([this, captured] { finish_replay(*captured); });
}

void DataParallel::check_replay(const Captured& captured) {
  check<Error>(accumulation_ == nullptr && !no_sync_,
               "[cuda graph] a captured step of DataParallel is replayed inside {}",
               no_sync_ ? "no_sync()" : "accumulate()");
  check_reduced("a captured step");
  reducer_->check_captured(captured.reduction);
  if (captured.step == nullptr) return;
  const data::Step& step = *captured.step;
  check<Error>(step.global_samples == captured.global_samples &&
                   Captured::inputs_of(step) == captured.inputs,
               "[cuda graph] the captured data::Step has other tensors or numbers of samples now; "
               "write the data of a step into the tensors that it had in the capture (copy_)");
}

void DataParallel::finish_replay(Captured& captured) {
  struct Scope {
    explicit Scope(data::Step*& here) : step(here) {}
    ~Scope() { step = nullptr; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    data::Step*& step;
  };
  const Scope scope(step_);
  step_ = captured.step;
  step_index_ = step_ != nullptr ? step_->index : kNoStep;
  only_captured_ = false;
  const auto begin = Clock::now();
  Reducer::Outcome outcome = reducer_->finish_replay(captured.reduction);
  if (captured.skip) {
    captured.skip->skipped =
        outcome.sums.non_finite || (captured.earlier && captured.earlier->skipped);
  }
  conclude(std::move(outcome), nullptr, begin);
}

}  // namespace lockstep::distributed
