#include "lockstep/distributed/reducer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "lockstep/distributed/bucket_plan.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

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
                 Options options)
    : group_(std::move(group)),
      options_(std::move(options)),
      trailer_(group_->rank(), group_->size(), options_.loss_terms),
      parameters_(parameters),
      homes_(parameters.size()),
      finite_check_(options_.find_non_finite),
      learning_(options_.learn_order && group_->size() > 1) {
  const auto reduction = options_.make_reduction();
  check(reduction != nullptr, "[data_parallel] the function in `compression` returned null");
  if (reduction->schedule() != nullptr) passes_apart_ = reduction->schedule()->size();
  plan();
  for (Place& place : places_) {
    if (!place.idle) make_bucket(place);
  }
}

// The first places, in reverse registration order, frozen parameters apart. The last place is one
// with parameters that require grad.
void Reducer::plan() {
  std::vector<size_t> order;
  std::vector<bool> all_frozen(parameters_.size());
  for (size_t i = parameters_.size(); i-- > 0;) {
    const auto& [name, p] = parameters_[i];
    const bool frozen = !p.requires_grad();
    const bool supported = p.dtype() == DType::kFloat32 || p.dtype() == DType::kFloat64;
    if (frozen && !supported) {
      unsupported_.push_back(parameters_[i]);
      continue;
    }
    check(p.is_leaf(), "[data_parallel] parameter {} is not a leaf", name);
    check(supported, "[data_parallel] parameter {} is {}; float32 and float64 are supported", name,
          name_of(p.dtype()));
    if (frozen) {  // the others lose theirs when they move: what comes later is to be reduced
      autograd::clear_gradient_slot(p);
      p.set_grad({});
    }
    all_frozen[i] = frozen;
    order.push_back(i);
  }
  places_ = fill(order, all_frozen);
  const auto last = std::find_if(places_.rbegin(), places_.rend(),
                                 [](const Place& place) { return !place.idle; });
  check(last != places_.rend(), "[data_parallel] no parameter of the model requires a gradient");
  std::rotate(last.base() - 1, last.base(), places_.end());
}

std::vector<Reducer::Place> Reducer::fill(const std::vector<size_t>& order,
                                          const std::vector<bool>& frozen) const {
  std::vector<Place> places;
  for (PlannedBucket& bucket : plan_buckets(parameters_, order, frozen,
                                            {options_.first_bucket_bytes, options_.bucket_bytes})) {
    Place& place = places.emplace_back();
    for (const size_t number : bucket.numbers) place.parameters.push_back(parameters_[number]);
    place.numbers = std::move(bucket.numbers);
    place.idle = bucket.idle;
  }
  return places;
}

// What is idle stays as it is, and apart.
void Reducer::learn_order() {
  learning_ = false;
  std::vector<bool> known(parameters_.size());
  for (const size_t number : arrived_) known[number] = true;
  std::vector<size_t> order = std::move(arrived_);
  size_t active = 0;
  for (const Place& place : places_) {
    if (place.idle) continue;
    ++active;
    for (const size_t number : place.numbers) {
      if (!known[number]) order.push_back(number);
    }
  }
  if (active == 1) return;
  std::vector<int64_t> of_root(order.begin(), order.end());
  const ProcessGroup::LabelScope label(*group_, Label("the order of the gradients"));
  group_->broadcast({of_root.data(), std::ssize(of_root), DType::kInt64, {}}, 0).wait();
  arrange({of_root.begin(), of_root.end()});
}

// Cuts what is not idle into places anew, in this order; the same on every rank. A bucket goes as
// soon as its last parameter has moved, so that little more memory is needed than for one bucket.
void Reducer::arrange(const std::vector<size_t>& order) {
  std::vector<Place> places = fill(order, std::vector<bool>(parameters_.size()));
  const auto sets = [](const std::vector<Place>& all) {
    std::vector<std::vector<size_t>> result;
    for (const Place& place : all) {
      if (place.idle) continue;
      auto& numbers = result.emplace_back(place.numbers);
      std::sort(numbers.begin(), numbers.end());
    }
    return result;
  };
  if (sets(places) == sets(places_)) return;

  std::vector<Place> old;
  for (Place& place : places_) {
    if (place.idle) {
      places.insert(places.end() - 1, std::move(place));
    } else {
      old.push_back(std::move(place));
    }
  }
  // What has been reduced moves to other places, perhaps of other ranks' parts.
  for (const Place& place : old) place.bucket->gather_parts(*group_);
  places_ = std::move(places);
  const autograd::NoGrad no_grad;
  for (Place& place : places_) {
    if (place.idle) continue;
    std::vector<std::shared_ptr<autograd::GradientSlot>> before;
    for (const auto& [name, p] : place.parameters) before.push_back(autograd::gradient_slot(p));
    make_bucket(place);
    for (size_t e = 0; e < before.size(); ++e) {
      autograd::GradientSlot& slot = *place.bucket->entries()[e].slot;
      slot.state = before[e]->state;
      if (slot.state != autograd::GradientSlot::State::kEmpty) slot.view.copy_(before[e]->view);
    }
    std::erase_if(old, [](const Place& left) {
      const auto& entries = left.bucket->entries();
      return std::none_of(entries.begin(), entries.end(), [](const Bucket::Entry& entry) {
        return autograd::gradient_slot(entry.parameter) == entry.slot;
      });
    });
  }
}

void Reducer::make_bucket(Place& place) {
  const bool last = &place == &places_.back();
  const size_t extras = trailer_.size(places_.size());
  place.bucket = std::make_unique<Bucket>(*group_, place.parameters, last ? extras : 0,
                                          options_.make_reduction(),
                                          static_cast<int>(&place - places_.data()));
  for (size_t e = 0; e < place.numbers.size(); ++e) {
    const size_t number = place.numbers[e];
    if (homes_[number].bucket == nullptr) {
      const Tensor& p = parameters_[number].second;
      // A frozen parameter gets its hook, too, for when it is unfrozen.
      const bool frozen = !p.requires_grad();
      if (frozen) p.requires_grad_();
      hooks_.push_back(p.register_post_accumulate_grad_hook(
          [this, number](const Tensor&) { on_gradient(number); }));
      if (frozen) p.requires_grad_(false);
    }
    homes_[number] = {place.bucket.get(), e};
  }
}

// An idle place is needed.
void Reducer::wake(Place& place) {
  if (place.bucket) return;
  std::vector<Tensor> gradients;
  for (const auto& [name, p] : place.parameters) gradients.push_back(p.grad());
  make_bucket(place);
  if (passes_apart_ == 0) {
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (gradients[i].defined()) place.parameters[i].second.set_grad(gradients[i]);
    }
    return;
  }
  place.passes.resize(passes_apart_);
  for (size_t pass = 0; pass < passes_apart_; ++pass) {
    const auto& of_pass = place.passes[pass];
    place.bucket->open(pass, true);
    for (size_t i = 0; i < of_pass.size(); ++i) {
      if (of_pass[i].defined()) place.bucket->put(i, of_pass[i]);
    }
    if (pass + 1 < passes_apart_) place.bucket->close();
  }
  place.passes.clear();
}

// A pass is over for parameters without a bucket.
void Reducer::keep_pass(Place& place) const {
  if (place.bucket || passes_apart_ == 0) return;
  auto& gradients = place.passes.emplace_back();
  for (const auto& [name, p] : place.parameters) {
    gradients.push_back(p.grad());
    if (p.grad().defined()) p.set_grad({});
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
  if (place.bucket) {
    const auto& entries = place.bucket->entries();
    return std::any_of(entries.begin(), entries.end(), [&](const Bucket::Entry& entry) {
      return entry.parameter.requires_grad() || place.bucket->has_gradient(entry);
    });
  }
  const bool kept = std::any_of(place.passes.begin(), place.passes.end(), [](const auto& pass) {
    return std::any_of(pass.begin(), pass.end(), [](const Tensor& g) { return g.defined(); });
  });
  return kept ||
         std::any_of(place.parameters.begin(), place.parameters.end(), [](const auto& named) {
           return named.second.requires_grad() || named.second.grad().defined();
         });
}

void Reducer::begin_pass(size_t pass) {
  if (passes_apart_ > 0 && pass == 0) finite_check_.begin();
  for (Place& place : places_) {
    if (pass == 0) place.passes.clear();
    if (place.bucket) place.bucket->open(pass, place.idle);
  }
  in_pass_ = true;
}

void Reducer::end_pass() {
  in_pass_ = false;
  for (Place& place : places_) {
    if (place.bucket) place.bucket->close();
    keep_pass(place);
  }
}

void Reducer::begin() {
  for (const Place& place : places_) {
    if (place.bucket) place.bucket->begin();
  }
  if (passes_apart_ == 0) finite_check_.begin();
  next_ = 0;
  reducing_ = true;
  arrived_.clear();
}

void Reducer::on_gradient(size_t number) {
  if (!in_pass_) return;
  Bucket& bucket = *homes_[number].bucket;
  const size_t at = homes_[number].entry;
  const Bucket::Entry& entry = bucket.entries()[at];
  check<Error>(!reducing_ || !bucket.launched(),
               "[data_parallel] parameter {} got another gradient after its bucket had left for "
               "the all-reduce. Was it unfrozen, or backward() called, inside of backward?",
               entry.name);
  if (reducing_ || passes_apart_ > 0) finite_check_.look(entry.name, entry.slot->view);
  if (passes_apart_ > 0) finite_check_.ask();
  bucket.collect(at);
  if (!reducing_) return;
  if (learning_ && !entry.ready) arrived_.push_back(number);
  if (bucket.mark_ready(at)) launch_ready();
}

// The last bucket waits for the end of backward: it is the one that tells the others if this rank
// failed.
void Reducer::launch_ready() {
  for (; next_ + 1 < places_.size(); ++next_) {
    const Place& place = places_[next_];
    if (place.idle) continue;
    if (!place.bucket->all_ready()) return;
    look_for_non_finite(place);
    finite_check_.ask();
    place.bucket->launch(*group_, false);
  }
}

// Gradients that only earlier micro-batches contributed to: no hook has looked at them in this one.
void Reducer::look_for_non_finite(const Place& place) {
  if (!place.bucket) {
    for (size_t i = 0; i < place.parameters.size(); ++i) {
      const auto& [name, p] = place.parameters[i];
      if (p.grad().defined()) finite_check_.look(name, p.grad());
      for (const auto& pass : place.passes) {
        if (pass[i].defined()) finite_check_.look(name, pass[i]);
      }
    }
    return;
  }
  for (const Bucket::Entry& entry : place.bucket->entries()) {
    if (entry.slot->state == autograd::GradientSlot::State::kAccumulating &&
        (!entry.ready || !entry.parameter.requires_grad())) {
      finite_check_.look(entry.name, entry.slot->view);
    }
  }
}

void Reducer::launch_rest(bool poisoned, const std::vector<double>& extras,
                          const std::vector<Bucket::DeviceExtras>& on_device) {
  for (; next_ + 1 < places_.size(); ++next_) {
    if (!places_[next_].idle) places_[next_].bucket->launch(*group_, poisoned);
  }
  places_.back().bucket->launch(*group_, poisoned, extras, on_device);
}

Reducer::Outcome Reducer::finish(bool poisoned, const StepTrailer::Share& share, double unscale,
                                 const Tensor& losses) {
  reducing_ = false;
  in_pass_ = false;
  for (Place& place : places_) keep_pass(place);
  std::vector<bool> wanted;
  for (const Place& place : places_) wanted.push_back(is_wanted(place));
  for (size_t i = next_; i < places_.size(); ++i) look_for_non_finite(places_[i]);
  // A device is not asked to do anything more after it has failed, perhaps.
  std::vector<Bucket::DeviceExtras> on_device;
  if (!poisoned && losses.defined())
    on_device.push_back({StepTrailer::loss_at(), StepTrailer::split_terms(losses)});
  if (const Tensor answer = poisoned ? Tensor() : finite_check_.answer(); answer.defined()) {
    on_device.push_back({StepTrailer::non_finite_at(), answer});
  }
  launch_rest(poisoned, trailer_.write(share, finite_check_.found(), wanted), on_device);

  Outcome outcome;
  BusyTime busy;
  const auto finish_bucket = [&](size_t i) {
    Bucket& bucket = *places_[i].bucket;
    Bucket::Outcome of_bucket = bucket.finish();
    const auto& [launched, started, finished] = of_bucket.times;
    busy.add(of_bucket.times);
    if (outcome.trouble.empty()) outcome.trouble = of_bucket.trouble;
    outcome.all_reduces.push_back(
        {static_cast<int64_t>(i), of_bucket.sent_bytes, launched, started, finished});
    return of_bucket;
  };
  for (const Place& place : places_) {
    if (!place.idle) place.bucket->proceed(*group_);
  }
  for (const Place& place : places_) {
    if (!place.idle) place.bucket->end_reduction();
  }
  Bucket::Outcome last;
  for (size_t i = 0; i < places_.size(); ++i) {
    if (!places_[i].idle) last = finish_bucket(i);
  }
  outcome.sums = trailer_.read(last.extras);
  outcome.poisoned = last.poisoned;
  const StepTrailer::Sums& sums = outcome.sums;
  if (sums.same_step && !outcome.poisoned) {
    for (const Place& place : places_) {
      if (!place.idle) place.bucket->settle(sums.scale * unscale);
    }
    for (size_t i = 0; i + 1 < places_.size(); ++i) {
      Place& place = places_[i];
      if (sums.wanted[i] && place.idle) {
        wake(place);
        place.bucket->launch(*group_, false);
        place.bucket->proceed(*group_);
        place.bucket->end_reduction();
        finish_bucket(i);
        place.bucket->settle(sums.scale * unscale);
      }
      place.idle = !sums.wanted[i];
    }
    if (learning_ && !sums.non_finite && sums.active() == group_->size()) learn_order();
  }
  outcome.communication_seconds = busy.seconds();
  return outcome;
}

void Reducer::discard() {
  in_pass_ = false;
  for (Place& place : places_) {
    place.passes.clear();
    if (place.bucket) {
      place.bucket->discard();
    } else {
      for (const auto& [name, p] : place.parameters) {
        if (!autograd::gradient_slot(p)) p.set_grad({});  // nobody else's
      }
    }
  }
}

bool Reducer::has_unreduced() const {
  return std::any_of(places_.begin(), places_.end(), [](const Place& place) {
    if (!place.bucket) {
      return std::any_of(place.parameters.begin(), place.parameters.end(), [](const auto& named) {
        const Tensor& p = named.second;
        return !autograd::gradient_slot(p) && p.grad().defined();
      });
    }
    const auto& entries = place.bucket->entries();
    return std::any_of(entries.begin(), entries.end(), [](const Bucket::Entry& entry) {
      return entry.slot->state == autograd::GradientSlot::State::kAccumulating;
    });
  });
}

std::vector<const Bucket*> Reducer::buckets() const {
  std::vector<const Bucket*> buckets;
  for (const Place& place : places_) {
    if (place.bucket) buckets.push_back(place.bucket.get());
  }
  return buckets;
}

}  // namespace lockstep::distributed
