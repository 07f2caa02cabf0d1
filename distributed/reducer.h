#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/data/step.h"
#include "lockstep/distributed/bucket.h"
#include "lockstep/distributed/finite_check.h"
#include "lockstep/distributed/process_group.h"
#include "lockstep/distributed/step_trailer.h"
#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/autograd/hooks.h"
#include "lockstep/engine/transfer.h"

namespace lockstep::distributed {

// A model's buckets, and which of them are reduced when.
//
// Parameters fill buckets in reverse registration order, which is roughly the order in which
// gradients become ready. In the backward that is to be reduced a bucket leaves as soon as it and
// those before it are complete, strictly in index order, the same on every rank; what is still
// there at the end of backward leaves then, whatever the graph was.
//
// How the gradients really arrive is seen in the first reduced backward that ends well. After it
// rank 0's order is broadcast, and where it cuts the parameters into other buckets these are made
// anew, once: parameters and reduced gradients move into them with the same bits. Parameters
// without a gradient go behind the others, where they hold nobody up. No result depends on the
// order, because every element is summed by itself.
//
// Frozen parameters have buckets apart from the others, which are idle: they cost no communication,
// and no memory before a parameter in them is unfrozen. That all ranks reduce the same buckets is
// agreed without a message of its own. The last bucket is never idle; its trailer (step_trailer.h)
// carries one count per bucket: on how many ranks it is wanted, because one of its parameters
// requires grad or has a gradient from before it was frozen. From these counts every
// rank concludes alike: an idle bucket that somebody wants is reduced after all, once behind the
// others, and takes its place among them from then on; one that nobody wants is idle from then on.
//
// Where the buckets' reduction keeps passes apart (bucket_reduction.h), the gradients of a
// parameter whose bucket does not exist yet are kept pass by pass until it does.
class Reducer {
 public:
  struct Options {
    size_t first_bucket_bytes = 0, bucket_bytes = 0;
    MakeReduction make_reduction = make_all_reduction;
    size_t loss_terms = 1;  // a power of two
    bool find_non_finite = true;
    bool learn_order = true;
  };
  // Collective: makes the buckets and moves the parameters into them. Throws ValueError unless
  // those that require grad are leaves of float32 or float64, and there is at least one.
  Reducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters, Options options);

  // Throws Error naming the parameter if one has a gradient that would not arrive here.
  void check_parameters() const;

  // Around each of a step's backward passes, numbered from 0.
  void begin_pass(size_t pass);
  void end_pass();  // not after the last one

  // Before the backward that is to be reduced: from now on complete buckets leave.
  void begin();
  struct Outcome {
    StepTrailer::Sums sums;
    bool poisoned = false;  // on some rank; otherwise the gradients are there
    std::string trouble;    // a bucket's, see bucket_reduction.h
    double communication_seconds = 0.0;
    std::vector<data::StepTimeline::AllReduce> all_reduces;
  };
  // After it: sends what is still there and waits for everything. The same on every rank, with
  // gradients that have been multiplied by `unscale`. A device may hold the terms of the loss, as
  // float64, instead of the share.
  Outcome finish(bool poisoned, const StepTrailer::Share& share, double unscale = 1.0,
                 const Tensor& losses = {});

  // The end of a step that is being captured (engine/capture.h), by a world of one, which has
  // nobody to wait for.
  struct Captured {
    std::vector<std::shared_ptr<autograd::GradientSlot>> slots;  // of gradients
    std::vector<bool> required;                                  // whether each parameter was
    std::vector<double> trailer;                                 // as far as the host knows it
    FiniteCheck finite_check{false};
    Tensor non_finite;  // what that answers
    // On the device, float64: the terms of the loss as in the trailer, and non_finite.
    Tensor found;
    std::unique_ptr<PinnedMemory> fetched;
  };
  // Instead of finish(). `unscale`, on the device, may be undefined.
  Captured capture(const StepTrailer::Share& share, const Tensor& unscale, const Tensor& losses);
  // Before a replay: throws Error if the gradients would not be where the capture had them.
  void check_captured(const Captured& captured) const;
  // Behind it: waits, and says what finish() would.
  Outcome finish_replay(Captured& captured);
  // No gradients anywhere.
  void discard();
  // Whether there are gradients of this rank that no reduction has taken along.
  bool has_unreduced() const;

  FiniteCheck& finite_check() { return finite_check_; }

  std::vector<const Bucket*> buckets() const;  // without those that have never been needed

 private:
  struct Place {
    NamedTensors parameters;
    std::vector<size_t> numbers;  // of the parameters in registration order
    bool idle = false;
    std::unique_ptr<Bucket> bucket = nullptr;      // null: idle since construction
    std::vector<std::vector<Tensor>> passes = {};  // without a bucket: the gradients so far
  };

  struct Home {  // where a parameter's gradient goes
    Bucket* bucket = nullptr;
    size_t entry = 0;
  };

  void plan();
  std::vector<Place> fill(const std::vector<size_t>& order, const std::vector<bool>& frozen) const;
  void learn_order();
  void arrange(const std::vector<size_t>& order);
  void make_bucket(Place& place);
  void wake(Place& place);
  void keep_pass(Place& place) const;
  static bool is_wanted(const Place& place);
  void on_gradient(size_t number);
  void launch_ready();
  void look_for_non_finite(const Place& place);
  void launch_rest(bool poisoned, const std::vector<double>& extras,
                   const std::vector<Bucket::DeviceExtras>& on_device);

  std::shared_ptr<ProcessGroup> group_;
  const Options options_;
  const StepTrailer trailer_;
  size_t passes_apart_ = 0;        // in a step of this rank; 0: they add up
  const NamedTensors parameters_;  // in registration order
  std::vector<Place> places_;
  std::vector<Home> homes_;   // of each parameter
  NamedTensors unsupported_;  // frozen, of another dtype
  std::vector<autograd::HookHandle> hooks_;
  FiniteCheck finite_check_;
  bool in_pass_ = false;
  bool reducing_ = false;        // in the backward that is to be reduced
  size_t next_ = 0;              // the first place that has not been launched
  bool learning_ = false;        // the order has not been learned yet
  std::vector<size_t> arrived_;  // while learning: the parameters whose gradients have come
};

}  // namespace lockstep::distributed
