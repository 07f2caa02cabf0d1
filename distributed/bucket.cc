#include "lockstep/distributed/bucket.h"

#include <algorithm>
#include <utility>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

using State = autograd::GradientSlot::State;

constexpr int64_t kAlignment = 16;  // elements between starts: a cache line of float32

int64_t aligned(int64_t elements, int64_t unit = kAlignment) {
  return (elements + unit - 1) / unit * unit;
}

}  // namespace

Bucket::Bucket(ProcessGroup& group, const NamedTensors& parameters, size_t extras,
               std::unique_ptr<BucketReduction> reduction, int index)
    : dtype_(parameters.front().second.dtype()),
      device_(parameters.front().second.device()),
      extras_(extras),
      reduction_(reduction ? std::move(reduction) : make_all_reduction()) {
  check<Error>(device_.is_cpu() || !reduction_->needs_host_memory(),
               "[data_parallel] communication hooks that read gradients themselves need them on "
               "the cpu, and {} is on {}; leave them out, or use --device cpu",
               parameters.front().first, device_.str());
  std::vector<std::string> names;
  for (const auto& [name, p] : parameters) {
    names.push_back(name);
    Entry& entry = entries_.emplace_back();
    entry.name = name;
    entry.parameter = p;
    entry.offset = trailer_;
    trailer_ += aligned(p.numel());
  }
  trailer_ = aligned(trailer_, kAlignment * reduction_->parts());
  label_ = Label(index, names, group.next_tag());
  const ProcessGroup::LabelScope label(group, label_);
  elements_ = trailer_ + static_cast<int64_t>(entries_.size()) + 1 + static_cast<int64_t>(extras);
  stride_ = reduction_->slots() > 1 ? aligned(elements_) : elements_;
  gradient_memory_ = group.allocate(slots_buffer().bytes(), device_);
  parameter_memory_ = group.allocate(static_cast<size_t>(trailer_) * size_of(dtype_), device_);
  const autograd::NoGrad no_grad;
  for (Entry& entry : entries_) {
    const Tensor home = place(entry, parameter_memory_);
    const uint32_t version = entry.parameter.version();
    home.copy_(entry.parameter);
    // Graphs that are still to be walked have saved the parameter, and would miss a version.
    while (home.version() < version) autograd::bump_version(home);
    entry.parameter.set_data(home);
    entry.slot = std::make_shared<autograd::GradientSlot>();
    for (int s = 0; s < reduction_->slots(); ++s) {
      entry.places.push_back(place(entry, gradient_memory_, s));
    }
    entry.slot->view = entry.places[0];
    entry.slot->reopen = [this] { set_aside_reduced(); };
    autograd::set_gradient_slot(entry.parameter, entry.slot);
  }
  reduction_->attach(group, *this);
}

Bucket::~Bucket() {
  for (const Entry& entry : entries_) {
    // A later bucket may have taken the parameter over.
    if (autograd::gradient_slot(entry.parameter) == entry.slot) {
      autograd::clear_gradient_slot(entry.parameter);
    }
  }
}

Tensor Bucket::place(const Entry& entry, const std::shared_ptr<Memory>& memory,
                     int64_t slot) const {
  char* data = static_cast<char*>(memory->data()) +
               static_cast<size_t>(slot * stride_ + entry.offset) * size_of(dtype_);
  return from_memory(data, entry.parameter.sizes(), dtype_, memory, device_);
}

Buffer Bucket::parameter_buffer() const {
  return {parameter_memory_->data(), trailer_, dtype_, device_};
}

size_t Bucket::bytes() const { return static_cast<size_t>(elements_) * size_of(dtype_); }

Buffer Bucket::gradient_buffer() const {
  return {gradient_memory_->data(), elements_, dtype_, device_};
}

Tensor Bucket::gradients() const {
  return from_memory(gradient_memory_->data(), {trailer_}, dtype_, gradient_memory_, device_);
}

Buffer Bucket::trailer_buffer() const {
  char* const data = static_cast<char*>(gradient_memory_->data());
  return {data + static_cast<size_t>(trailer_) * size_of(dtype_), elements_ - trailer_, dtype_,
          device_};
}

Buffer Bucket::slots_buffer() const {
  return {gradient_memory_ ? gradient_memory_->data() : nullptr, reduction_->slots() * stride_,
          dtype_, device_};
}

void Bucket::check_slots() const {
  for (const Entry& entry : entries_) check_slot(entry.name, entry.parameter, entry.slot);
}

void Bucket::open(size_t pass, bool idle) {
  if (reduction_->schedule() == nullptr) return;
  pass_ = pass;
  for (Entry& entry : entries_) {
    entry.present = entry.collected = false;
    if (pass == 0) entry.contributed = false;
    // Whatever zero_grad() has made of it: the slot holds what this pass adds to.
    if (pass > 0 && touched_ && leaf().adds) entry.slot->state = State::kAccumulating;
  }
  if (pass > 0) return;
  touched_ = !idle;
  if (touched_) set_aside_reduced();
}

void Bucket::collect(size_t index) {
  if (reduction_->schedule() == nullptr) return;
  Entry& entry = entries_[index];
  check<Error>(!entry.collected,
               "[data_parallel] parameter {} got a second gradient in the same backward; in "
               "reduction mode bitwise the first one has already been added to those of other "
               "shards. Was backward() called inside of backward?",
               entry.name);
  const autograd::NoGrad no_grad;
  if (!touched_) touch();
  entry.present = true;
  add_up(entry);
}

void Bucket::put(size_t index, const Tensor& gradient) {
  const autograd::NoGrad no_grad;
  autograd::GradientSlot& slot = *entries_[index].slot;
  if (slot.state == State::kAccumulating) {
    slot.view.add_(gradient);
  } else {
    slot.view.copy_(gradient);
    slot.state = State::kAccumulating;
  }
  collect(index);
}

// An entry without a gradient counts as zero, which is a term like others: -0 + 0 is 0.
void Bucket::add_up(Entry& entry) {
  entry.collected = true;
  if (entry.present) {
    entry.contributed = true;
  } else if (leaf().adds) {
    entry.slot->view.add_(0.0);
  } else {
    entry.slot->view.zero_();
  }
  for (const auto& [to, from] : leaf().additions) {
    entry.places[static_cast<size_t>(to)].add_(entry.places[static_cast<size_t>(from)]);
  }
}

void Bucket::collect_rest() {
  const autograd::NoGrad no_grad;
  const auto has = [this](const Entry& entry) { return has_gradient(entry); };
  if (!touched_ && !std::any_of(entries_.begin(), entries_.end(), has)) return;
  if (!touched_) touch();
  for (Entry& entry : entries_) {
    if (entry.collected) continue;
    // Of a backward outside of any pass, the hook has said nothing.
    entry.present = entry.present || (!leaf().adds && entry.slot->state != State::kEmpty);
    add_up(entry);
  }
}

// An idle bucket is needed after all, in the present pass: as if zeros had been added up in those
// before. So far everything was left in slot 0.
void Bucket::touch() {
  touched_ = true;
  set_aside_reduced();
  const auto slot = static_cast<size_t>(leaf().slot);
  for (Entry& entry : entries_) {
    const Tensor& place = entry.places[slot];
    entry.present = entry.slot->state == State::kAccumulating;
    if (!entry.present) {
      place.zero_();
    } else if (slot != 0) {
      place.copy_(entry.slot->view);
    }
    if (leaf().adds) {
      place.add_(0.0);
      entry.slot->state = State::kAccumulating;
    }
    entry.slot->view = place;
    for (size_t s = 0; s < entry.places.size(); ++s) {
      if (s != slot) entry.places[s].zero_();
    }
  }
}

void Bucket::close() {
  const auto* schedule = reduction_->schedule();
  if (schedule == nullptr) return;
  collect_rest();
  const CanonicalPlan::Leaf& next = (*schedule)[pass_ + 1];
  if (touched_) use_slot(next.slot, next.adds);
}

void Bucket::use_slot(int slot, bool adds) {
  for (Entry& entry : entries_) {
    entry.slot->view = entry.places[static_cast<size_t>(slot)];
    entry.slot->state = adds ? State::kAccumulating : State::kEmpty;
  }
}

bool Bucket::has_gradient(const Entry& entry) const {
  const bool accumulating = entry.slot->state == State::kAccumulating;
  if (reduction_->schedule() == nullptr) return accumulating;
  return entry.contributed || entry.present || (accumulating && !(touched_ && leaf().adds));
}

void Bucket::begin() {
  launched_ = false;
  pending_ = 0;
  for (Entry& entry : entries_) {
    entry.ready = !entry.parameter.requires_grad();
    if (!entry.ready) ++pending_;
  }
}

bool Bucket::mark_ready(size_t index) {
  Entry& entry = entries_[index];
  if (!entry.ready) {
    entry.ready = true;
    --pending_;
  }
  return pending_ == 0;
}

template <typename T>
void Bucket::write_trailer(bool poisoned, std::span<const double> extras) {
  std::vector<T> trailer;
  trailer.reserve(static_cast<size_t>(elements_ - trailer_));
  for (const Entry& entry : entries_) {
    const bool here =
        reduction_->schedule() != nullptr ? entry.contributed : entry.slot->state != State::kEmpty;
    trailer.push_back(here ? T(1) : T(0));
  }
  trailer.push_back(poisoned ? T(1) : T(0));
  for (double extra : extras) trailer.push_back(static_cast<T>(extra));
  const Buffer target = trailer_buffer();
  backend_of(device_).copy_from_host(target.data, trailer.data(), target.bytes());
}

template <typename T>
Bucket::Outcome Bucket::read_trailer() {
  const T* trailer =
      static_cast<const T*>(device_.is_cpu() ? trailer_buffer().data : fetched_trailer());
  Outcome outcome;
  for (Entry& entry : entries_) {
    const bool contributed = *trailer++ > T(0);
    entry.slot->state = contributed || entry.carried ? State::kReduced : State::kEmpty;
  }
  outcome.poisoned = *trailer++ > T(0);
  for (size_t i = 0; i < extras_; ++i) outcome.extras.push_back(static_cast<double>(*trailer++));
  return outcome;
}

// Where a step waits for the GPU: what comes next, the optimizer's step above all, depends on it.
const void* Bucket::fetched_trailer() {
  const SyncAllowed allowed;
  trailer_arrived_->wait_on_host();
  return fetched_->data();
}

void Bucket::launch(ProcessGroup& group, bool poisoned, std::span<const double> extras,
                    std::span<const DeviceExtras> on_device) {
  const autograd::NoGrad no_grad;
  reduction_->take_times();  // of a step that was given up
  if (reduction_->schedule() == nullptr) {
    for (const Entry& entry : entries_) {
      // A gradient that is still the last reduction's is not this rank's contribution to this one.
      if (entry.slot->state == State::kReduced) set_aside_reduced();
      if (entry.slot->state == State::kEmpty) entry.slot->view.zero_();
    }
  } else if (!poisoned) {
    if (!touched_) touch();
    collect_rest();
  }
  launched_ = true;
  if (graph_in_capture() != nullptr) return;
  check(extras.size() == extras_, "[bucket] {} extras instead of {}", extras.size(), extras_);
  if (dtype_ == DType::kFloat32) {
    write_trailer<float>(poisoned, extras);
  } else {
    write_trailer<double>(poisoned, extras);
  }
  for (const auto& [at, values] : on_device) {
    char* const extra =
        static_cast<char*>(trailer_buffer().data) + (entries_.size() + 1 + at) * size_of(dtype_);
    from_memory(extra, {values.numel()}, dtype_, nullptr, device_).copy_(values);
  }
  const ProcessGroup::LabelScope label(group, label_);
  reduction_->launch(group, *this);
}

void Bucket::proceed(ProcessGroup& group) {
  const ProcessGroup::LabelScope label(group, label_);
  reduction_->proceed(group, *this);
}

void Bucket::end_reduction() {
  reduction_->finish(*this);
  if (reduction_->schedule() != nullptr) use_slot(0, false);
  Transfers* const transfers = transfers_of(device_);
  if (transfers == nullptr) return;
  const Buffer trailer = trailer_buffer();
  if (!fetched_) fetched_ = std::make_unique<PinnedMemory>(*transfers, trailer.bytes());
  transfers->copy_to_pinned(fetched_->data(), trailer.data, trailer.bytes(), Lane::kCompute);
  trailer_arrived_ = transfers->record_event(Lane::kCompute);
}

Bucket::Outcome Bucket::finish() {
  Outcome outcome = dtype_ == DType::kFloat32 ? read_trailer<float>() : read_trailer<double>();
  outcome.times = reduction_->take_times();
  outcome.trouble = reduction_->trouble();
  outcome.sent_bytes = reduction_->sent_bytes() > 0 ? reduction_->sent_bytes() : bytes();
  return outcome;
}

void Bucket::settle(double scale) {
  const autograd::NoGrad no_grad;
  if (scale != 1.0) {
    for (const Entry& entry : entries_) entry.slot->view.mul_(scale);
  }
  for (Entry& entry : entries_) {
    if (!entry.carried) continue;
    entry.slot->view.add_(
        carry_.narrow(0, entry.offset, entry.parameter.numel()).view(entry.parameter.sizes()));
    entry.carried = false;
  }
  carry_ = Tensor();
}

void Bucket::gather_parts(ProcessGroup& group) {
  if (is_whole()) return;
  Buffer whole = gradient_buffer();
  whole.count = trailer_;
  const ProcessGroup::LabelScope label(group, label_);
  group.all_gather(whole, buffer_part(whole, group.rank(), parts())).wait();
}

void Bucket::discard() {
  if (reduction_->schedule() != nullptr) use_slot(0, false);
  for (Entry& entry : entries_) {
    entry.slot->state = State::kEmpty;
    entry.carried = false;
    entry.contributed = false;
  }
  carry_ = Tensor();
  reduction_->discard();
}

// A gradient arrives for memory that holds an earlier reduction's result. All of the bucket's
// results go aside and come back on top of the next reduction, so only the new part travels.
void Bucket::set_aside_reduced() {
  const autograd::NoGrad no_grad;
  for (Entry& entry : entries_) {
    if (entry.slot->state != State::kReduced) continue;
    forbid_in_capture("a gradient that is added to an earlier step's",
                      "call the optimizer's zero_grad() in the captured step, before backward");
    if (!carry_.defined()) carry_ = zeros({trailer_}, {dtype_, device_});
    carry_.narrow(0, entry.offset, entry.parameter.numel()).copy_(entry.slot->view.view({-1}));
    entry.slot->state = State::kEmpty;
    entry.carried = true;
  }
}

void check_slot(const std::string& name, const Tensor& parameter,
                const std::shared_ptr<autograd::GradientSlot>& slot) {
  const auto actual = autograd::gradient_slot(parameter);
  check<Error>(actual == slot,
               "[data_parallel] the gradient of parameter {} no longer arrives in this "
               "DataParallel: {}",
               name,
               actual ? "another one has been made over the same parameter since; use the newest, "
                        "and destroy this one"
                      : "another one was made over the same parameter and destroyed, or the "
                        "parameter was detached; make a new DataParallel");
}

}  // namespace lockstep::distributed
