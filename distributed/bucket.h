#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/distributed/bucket_reduction.h"
#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/tensor/tensor.h"
#include "lockstep/engine/transfer.h"

namespace lockstep::distributed {

// Parameters whose gradients travel together.
//
// The gradients live side by side in the group's communicable memory: each parameter's grad() is a
// view of its place (a GradientSlot), so nothing is copied before or after the reduction. The
// parameters themselves are moved into flat memory of the same layout. Behind the gradients lies a
// trailer that is summed with them:
//
//   [ gradient 0 | gradient 1 | ... | count 0, count 1, ... | poison | extra 0, extra 1, ... ]
//
// count i is the number of ranks that contributed to gradient i; poison the number of ranks whose
// backward failed; the extras carry whatever small sums the step needs, the loss above all.
//
// How the bucket is reduced is a BucketReduction's affair. One with a schedule keeps several slots
// of this layout. The gradients of each pass (a micro-batch's backward) are stored in the slot that
// is the pass's, or added to it, and as soon as a parameter's is complete, what the schedule says
// is added up. In between grad() may be anything.
//
// A parameter may be frozen and unfrozen at any time between reductions; while it is frozen nobody
// waits for its gradient.
class Bucket {
 public:
  struct Entry {
    std::string name;
    Tensor parameter;
    int64_t offset = 0;    // in elements
    bool ready = false;    // its gradient is complete for this reduction
    bool carried = false;  // an earlier reduction's result waits in carry_
    std::shared_ptr<autograd::GradientSlot> slot;
    std::vector<Tensor> places;  // in each of the reduction's slots
    bool present = false;        // it has got a gradient in this pass,
    bool collected = false;      // which has been added up
    bool contributed = false;    // it got one in any of the passes
  };

  // Collective: allocates the group's memory and moves the parameters into it. Without a reduction
  // the bucket is all-reduced. `index` is for messages.
  Bucket(ProcessGroup& group, const NamedTensors& parameters, size_t extras = 0,
         std::unique_ptr<BucketReduction> reduction = nullptr, int index = -1);
  ~Bucket();
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  const std::vector<Entry>& entries() const { return entries_; }
  Buffer parameter_buffer() const;  // all parameters, for collectives
  const Label& label() const { return label_; }
  size_t bytes() const;            // gradients and trailer
  Buffer gradient_buffer() const;  // gradients and trailer, in slot 0
  Tensor gradients() const;        // in slot 0, flat, without the trailer: a view
  Buffer trailer_buffer() const;   // in slot 0
  Buffer slots_buffer() const;     // all slots, of equal length
  int64_t trailer_offset() const { return trailer_; }
  // Into how many equal ones the elements before the trailer can be cut.
  int parts() const { return reduction_->parts(); }
  bool is_whole() const { return reduction_->is_whole(); }

  void check_slots() const;                     // check_slot() for every entry
  bool has_gradient(const Entry& entry) const;  // of this rank, for the next reduction

  // -- the passes, where the reduction has a schedule; without, nothing happens. A bucket that is
  // idle gets gradients in no pass, most likely, and costs nothing until it does.
  void open(size_t pass, bool idle);
  void collect(size_t entry);                      // its gradient of this pass is complete
  void put(size_t entry, const Tensor& gradient);  // as if it came from this pass's backward
  void close();                                    // before the next pass

  // -- one reduction: begin, mark_ready for what gets gradients, launch, end_reduction, finish,
  // settle
  void begin();
  // Returns true when every entry has become ready.
  bool mark_ready(size_t entry);
  bool all_ready() const { return pending_ == 0; }
  bool launched() const { return launched_; }
  // Zeroes the places of entries without a gradient, writes the trailer and starts the reduction.
  // As many extras as the constructor was told; some may be on the bucket's device, where they
  // replace what `extras` says from `at` on. In a capture (Reducer::capture) only the first
  // happens.
  struct DeviceExtras {
    size_t at = 0;
    Tensor values;
  };
  void launch(ProcessGroup& group, bool poisoned, std::span<const double> extras = {},
              std::span<const DeviceExtras> on_device = {});
  // When all buckets have been launched, and before the first one is finished.
  void proceed(ProcessGroup& group);
  struct Outcome {
    bool poisoned = false;
    std::string trouble;  // BucketReduction::trouble()
    std::vector<double> extras;
    Work::Times times;
    size_t sent_bytes = 0;
  };
  // Waits for the reduction; on a GPU, which comes to its end later, it has the trailer fetched
  // then. Before finish(), for all buckets, so that that waits once.
  void end_reduction();
  // Sets the slots' states: reduced, or empty where no rank contributed.
  Outcome finish();
  // Scales what has been reduced, and adds what an earlier reduction had left.
  void settle(double scale = 1.0);
  // Collective: where a reduction has left each rank its own part only, all parts on every rank.
  void gather_parts(ProcessGroup& group);
  // After a failed step: no gradients anywhere.
  void discard();

 private:
  template <typename T>
  void write_trailer(bool poisoned, std::span<const double> extras);
  template <typename T>
  Outcome read_trailer();
  const void* fetched_trailer();
  void set_aside_reduced();
  Tensor place(const Entry& entry, const std::shared_ptr<Memory>& memory, int64_t slot = 0) const;
  void use_slot(int slot, bool adds);
  void collect_rest();
  void add_up(Entry& entry);
  const CanonicalPlan::Leaf& leaf() const { return (*reduction_->schedule())[pass_]; }
  void touch();

  DType dtype_;
  Device device_;
  Label label_;
  int64_t trailer_ = 0;   // offset of the trailer in elements
  int64_t elements_ = 0;  // with the trailer
  int64_t stride_ = 0;    // between slots
  int64_t pending_ = 0;
  bool launched_ = false;  // since begin()
  size_t extras_ = 0;
  std::unique_ptr<BucketReduction> reduction_;
  size_t pass_ = 0;
  bool touched_ = true;  // false: no gradient has come since pass 0 of an idle bucket
  std::vector<Entry> entries_;
  std::shared_ptr<Memory> gradient_memory_, parameter_memory_;
  std::unique_ptr<PinnedMemory> fetched_;   // a GPU's trailer,
  std::shared_ptr<Event> trailer_arrived_;  // once this has come
  Tensor carry_;  // reduced gradients from before a further backward, in the bucket's layout
};

// Throws Error naming the parameter if its gradient goes elsewhere than to `slot` (null: to a
// grad() of its own).
void check_slot(const std::string& name, const Tensor& parameter,
                const std::shared_ptr<autograd::GradientSlot>& slot);

}  // namespace lockstep::distributed
