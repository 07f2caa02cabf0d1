#include "lockstep/distributed/reducer.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// What the last bucket's trailer carries; behind it, for each place, on how many ranks it is
// wanted.
enum Extra : size_t { kLossHigh, kLossLow, kStep, kStepSquare, kWanted };

// A double as two floats whose sum carries about 48 bits: trailers may be float32.
void split(double value, double* high, double* low) {
  *high = static_cast<float>(value);
  *low = value - *high;
}

// Wall time in which at least one collective was under way.
class BusyTime {
 public:
  void add(const Work::Times& times) {
    const auto begin = std::max(times.launched, until_);
    if (times.finished <= begin) return;
    seconds_ += std::chrono::duration<double>(times.finished - begin).count();
    until_ = times.finished;
  }
  double seconds() const { return seconds_; }

 private:
  std::chrono::steady_clock::time_point until_{};
  double seconds_ = 0.0;
};

}  // namespace

Reducer::Reducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
                 size_t first_bucket_bytes, size_t bucket_bytes)
    : group_(std::move(group)) {
  plan(parameters, first_bucket_bytes, bucket_bytes);
  for (Place& place : places_) {
    if (!place.idle) make_bucket(place);
  }
}

// Places of one dtype each, filled in reverse registration order, frozen parameters apart; each
// closes when it is full. The last place is one with parameters that require grad.
void Reducer::plan(const NamedTensors& parameters, size_t first_bucket_bytes, size_t bucket_bytes) {
  struct Open {
    NamedTensors parameters;
    size_t bytes = 0;
  };
  std::map<std::pair<DType, bool>, Open> all_open;
  bool first = true;
  const auto close = [&](Open& open, bool frozen) {
    places_.push_back({std::move(open.parameters), frozen, nullptr});
    open = {};
    if (!frozen) first = false;
  };
  for (size_t i = parameters.size(); i-- > 0;) {
    const auto& [name, p] = parameters[i];
    const bool frozen = !p.requires_grad();
    const bool supported = p.dtype() == DType::kFloat32 || p.dtype() == DType::kFloat64;
    if (frozen && !supported) {
      unsupported_.push_back(parameters[i]);
      continue;
    }
    check(p.is_leaf(), "[data_parallel] parameter {} is not a leaf", name);
    check(supported, "[data_parallel] parameter {} is {}; float32 and float64 are supported", name,
          name_of(p.dtype()));
    if (frozen) {  // the others lose theirs when they move: what comes later is to be reduced
      autograd::clear_gradient_slot(p);
      p.set_grad({});
    }
    Open& open = all_open[{p.dtype(), frozen}];
    open.parameters.push_back(parameters[i]);
    open.bytes += static_cast<size_t>(p.numel()) * size_of(p.dtype());
    if (open.bytes >= (first && !frozen ? first_bucket_bytes : bucket_bytes)) close(open, frozen);
  }
  for (auto& [kind, open] : all_open) {
    if (!open.parameters.empty()) close(open, kind.second);
  }
  const auto last = std::find_if(places_.rbegin(), places_.rend(),
                                 [](const Place& place) { return !place.idle; });
  check(last != places_.rend(), "[data_parallel] no parameter of the model requires a gradient");
  std::rotate(last.base() - 1, last.base(), places_.end());
}

void Reducer::make_bucket(Place& place) {
  const bool last = &place == &places_.back();
  place.bucket =
      std::make_unique<Bucket>(*group_, place.parameters, last ? kWanted + places_.size() : 0);
  Bucket& bucket = *place.bucket;
  for (size_t e = 0; e < bucket.entries().size(); ++e) {
    const Tensor& p = bucket.entries()[e].parameter;
    // A frozen parameter gets its hook, too, for when it is unfrozen.
    const bool frozen = !p.requires_grad();
    if (frozen) p.requires_grad_();
    hooks_.push_back(p.register_post_accumulate_grad_hook(
        [this, &bucket, e](const Tensor&) { on_gradient(bucket, e); }));
    if (frozen) p.requires_grad_(false);
  }
}

// An idle place is needed.
void Reducer::wake(Place& place) {
  if (place.bucket) return;
  std::vector<Tensor> gradients;
  for (const auto& [name, p] : place.parameters) gradients.push_back(p.grad());
  make_bucket(place);
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (gradients[i].defined()) place.parameters[i].second.set_grad(gradients[i]);
  }
}

void Reducer::check_parameters() const {
  for (const Place& place : places_) {
    if (place.bucket) {
      place.bucket->check_slots();
      continue;
    }
    for (const auto& [name, p] : place.parameters) {
      if (p.requires_grad()) check_slot(name, p, nullptr);
    }
  }
  for (const auto& [name, p] : unsupported_) {
    check(!p.requires_grad(),
          "[data_parallel] parameter {} has been unfrozen and is {}; float32 and float64 are "
          "supported",
          name, name_of(p.dtype()));
  }
}

bool Reducer::is_wanted(const Place& place) {
  using State = autograd::GradientSlot::State;
  if (place.bucket) {
    const auto& entries = place.bucket->entries();
    return std::any_of(entries.begin(), entries.end(), [](const Bucket::Entry& entry) {
      return entry.parameter.requires_grad() || entry.slot->state == State::kAccumulating;
    });
  }
  return std::any_of(place.parameters.begin(), place.parameters.end(), [](const auto& named) {
    return named.second.requires_grad() || named.second.grad().defined();
  });
}

void Reducer::begin() {
  for (const Place& place : places_) {
    if (place.bucket) place.bucket->begin();
  }
  next_ = 0;
  reducing_ = true;
}

void Reducer::on_gradient(Bucket& bucket, size_t entry) {
  if (!reducing_) return;
  check<Error>(!bucket.launched(),
               "[data_parallel] parameter {} got another gradient after its bucket had left for "
               "the all-reduce. Was it unfrozen, or backward() called, inside of backward?",
               bucket.entries()[entry].name);
  if (bucket.mark_ready(entry)) launch_ready();
}

// The last bucket waits for the end of backward: it is the one that tells the others if this rank
// failed.
void Reducer::launch_ready() {
  for (; next_ + 1 < places_.size(); ++next_) {
    const Place& place = places_[next_];
    if (place.idle) continue;
    if (!place.bucket->all_ready()) return;
    place.bucket->launch(*group_, false);
  }
}

void Reducer::launch_rest(bool poisoned, const std::vector<double>& extras) {
  for (; next_ + 1 < places_.size(); ++next_) {
    if (!places_[next_].idle) places_[next_].bucket->launch(*group_, poisoned);
  }
  places_.back().bucket->launch(*group_, poisoned, extras);
}

Reducer::Outcome Reducer::finish(bool poisoned, double loss, int64_t step_number) {
  reducing_ = false;
  const NumberMark step = mark_of(step_number, group_->size());
  std::vector<double> extras(kWanted + places_.size());
  split(loss, &extras[kLossHigh], &extras[kLossLow]);
  extras[kStep] = step.value;
  extras[kStepSquare] = step.square;
  for (size_t i = 0; i < places_.size(); ++i) {
    extras[kWanted + i] = is_wanted(places_[i]) ? 1.0 : 0.0;
  }
  launch_rest(poisoned, extras);

  Outcome outcome;
  BusyTime busy;
  const auto finish_bucket = [&](size_t i) {
    Bucket& bucket = *places_[i].bucket;
    Bucket::Outcome of_bucket = bucket.finish();
    const auto& [launched, started, finished] = of_bucket.times;
    busy.add(of_bucket.times);
    outcome.all_reduces.push_back(
        {static_cast<int64_t>(i), bucket.bytes(), launched, started, finished});
    return of_bucket;
  };
  Bucket::Outcome last;
  for (size_t i = 0; i < places_.size(); ++i) {
    if (!places_[i].idle) last = finish_bucket(i);
  }
  outcome.same_step = marks_agree({last.extras[kStep], last.extras[kStepSquare]}, group_->size());
  outcome.poisoned = last.poisoned;
  outcome.loss = last.extras[kLossHigh] + last.extras[kLossLow];
  if (outcome.same_step && !outcome.poisoned) {
    for (size_t i = 0; i + 1 < places_.size(); ++i) {
      Place& place = places_[i];
      const bool wanted = last.extras[kWanted + i] > 0.0;
      if (wanted && place.idle) {
        wake(place);
        place.bucket->launch(*group_, false);
        finish_bucket(i);
      }
      place.idle = !wanted;
    }
  }
  outcome.communication_seconds = busy.seconds();
  return outcome;
}

void Reducer::discard() {
  for (const Place& place : places_) {
    if (place.bucket) {
      place.bucket->discard();
    } else {
      for (const auto& [name, p] : place.parameters) {
        if (!autograd::gradient_slot(p)) p.set_grad({});  // nobody else's
      }
    }
  }
}

std::vector<const Bucket*> Reducer::buckets() const {
  std::vector<const Bucket*> buckets;
  for (const Place& place : places_) {
    if (place.bucket) buckets.push_back(place.bucket.get());
  }
  return buckets;
}

}  // namespace lockstep::distributed
