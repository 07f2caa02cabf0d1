#include "lockstep/distributed/bucket.h"

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr int64_t kAlignment = 16;  // elements between starts: a cache line of float32

int64_t aligned(int64_t elements) { return (elements + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Bucket::Bucket(ProcessGroup& group, const NamedTensors& parameters, size_t extras)
    : dtype_(parameters.front().second.dtype()),
      device_(parameters.front().second.device()),
      extras_(extras) {
  for (const auto& [name, p] : parameters) {
    entries_.push_back({name, p, trailer_, false, false, nullptr});
    trailer_ += aligned(p.numel());
  }
  elements_ = trailer_ + static_cast<int64_t>(entries_.size()) + 1 + static_cast<int64_t>(extras);
  gradient_memory_ = group.allocate(bytes(), device_);
  parameter_memory_ = group.allocate(static_cast<size_t>(trailer_) * size_of(dtype_), device_);
  const autograd::NoGrad no_grad;
  for (Entry& entry : entries_) {
    const Tensor home = place(entry, parameter_memory_);
    home.copy_(entry.parameter);
    entry.parameter.set_data(home);
    entry.slot = std::make_shared<autograd::GradientSlot>();
    entry.slot->view = place(entry, gradient_memory_);
    entry.slot->reopen = [this] { set_aside_reduced(); };
    autograd::set_gradient_slot(entry.parameter, entry.slot);
  }
}

Bucket::~Bucket() {
  for (const Entry& entry : entries_) {
    // A later bucket may have taken the parameter over.
    if (autograd::gradient_slot(entry.parameter) == entry.slot) {
      autograd::clear_gradient_slot(entry.parameter);
    }
  }
}

Tensor Bucket::place(const Entry& entry, const std::shared_ptr<Memory>& memory) const {
  char* data =
      static_cast<char*>(memory->data()) + static_cast<size_t>(entry.offset) * size_of(dtype_);
  return from_memory(data, entry.parameter.sizes(), dtype_, memory);
}

Buffer Bucket::parameter_buffer() const {
  return {parameter_memory_->data(), trailer_, dtype_, device_};
}

size_t Bucket::bytes() const { return static_cast<size_t>(elements_) * size_of(dtype_); }

void Bucket::check_slots() const {
  for (const Entry& entry : entries_) check_slot(entry.name, entry.parameter, entry.slot);
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
  T* trailer = gradients<T>() + trailer_;
  for (const Entry& entry : entries_) {
    *trailer++ = entry.slot->state == autograd::GradientSlot::State::kEmpty ? T(0) : T(1);
  }
  *trailer++ = poisoned ? T(1) : T(0);
  for (double extra : extras) *trailer++ = static_cast<T>(extra);
}

template <typename T>
Bucket::Outcome Bucket::read_trailer() {
  using State = autograd::GradientSlot::State;
  const T* trailer = gradients<T>() + trailer_;
  Outcome outcome;
  for (Entry& entry : entries_) {
    const bool contributed = *trailer++ > T(0);
    entry.slot->state = contributed || entry.carried ? State::kReduced : State::kEmpty;
  }
  outcome.poisoned = *trailer++ > T(0);
  for (size_t i = 0; i < extras_; ++i) outcome.extras.push_back(static_cast<double>(*trailer++));
  return outcome;
}

void Bucket::launch(ProcessGroup& group, bool poisoned, std::span<const double> extras) {
  check(extras.size() == extras_, "[bucket] {} extras instead of {}", extras.size(), extras_);
  const autograd::NoGrad no_grad;
  for (const Entry& entry : entries_) {
    // A gradient that is still the last reduction's is not this rank's contribution to this one.
    if (entry.slot->state == autograd::GradientSlot::State::kReduced) set_aside_reduced();
    if (entry.slot->state == autograd::GradientSlot::State::kEmpty) entry.slot->view.zero_();
  }
  if (dtype_ == DType::kFloat32) {
    write_trailer<float>(poisoned, extras);
  } else {
    write_trailer<double>(poisoned, extras);
  }
  launched_ = true;
  work_ = group.all_reduce({gradient_memory_->data(), elements_, dtype_, device_});
}

Bucket::Outcome Bucket::finish() {
  work_.wait();
  Outcome outcome = dtype_ == DType::kFloat32 ? read_trailer<float>() : read_trailer<double>();
  outcome.times = work_.times();
  work_ = {};
  const autograd::NoGrad no_grad;
  for (Entry& entry : entries_) {
    if (!entry.carried) continue;
    entry.slot->view.add_(
        carry_.narrow(0, entry.offset, entry.parameter.numel()).view(entry.parameter.sizes()));
    entry.carried = false;
  }
  carry_ = Tensor();
  return outcome;
}

void Bucket::discard() {
  for (Entry& entry : entries_) {
    entry.slot->state = autograd::GradientSlot::State::kEmpty;
    entry.carried = false;
  }
  carry_ = Tensor();
}

// A gradient arrives for memory that holds an earlier reduction's result. All of the bucket's
// results go aside and come back on top of the next reduction, so only the new part travels.
void Bucket::set_aside_reduced() {
  const autograd::NoGrad no_grad;
  if (!carry_.defined()) carry_ = zeros({trailer_}, {dtype_, device_});
  for (Entry& entry : entries_) {
    if (entry.slot->state != autograd::GradientSlot::State::kReduced) continue;
    carry_.narrow(0, entry.offset, entry.parameter.numel()).copy_(entry.slot->view.view({-1}));
    entry.slot->state = autograd::GradientSlot::State::kEmpty;
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
