#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/data/step.h"
#include "lockstep/distributed/bucket_reduction.h"
#include "lockstep/distributed/finite_check.h"
#include "lockstep/distributed/process_group.h"
#include "lockstep/distributed/reducer.h"
#include "lockstep/distributed/reduction_mode.h"
#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/module.h"
#include "lockstep/optim/loss_scale.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep {
class DeviceGraph;
}

namespace lockstep::distributed {

class ShardBuffers;

struct DataParallelOptions {
  ReductionChoice reduction = {};
  int64_t virtual_shards = 0;                   // in mode bitwise; 0: as many as `reduction` says
  size_t first_bucket_bytes = size_t{1} << 20;  // small, so that communication starts early
  // A bucket closes once it has this many, or half of what is left for it and later ones (but not
  // below first_bucket_bytes): the last one can leave only when backward is over, so it is small.
  size_t bucket_bytes = size_t{25} << 20;
  NonFinite non_finite = NonFinite::kThrow;  // what is done about NaN and infinite gradients
  // How gradients are made smaller on their way (compression.h), or otherwise reduced: a hook of
  // your own (docs/communication-hooks.md). Empty: they travel as they are. Not in mode bitwise.
  MakeReduction compression = {};
  // bfloat16 or float16: the loops of accumulate() run under autocast (engine/autograd/autocast.h),
  // and with float16 losses are scaled. float32: neither.
  DType precision = DType::kFloat32;
  optim::LossScaleOptions loss_scale = {};  // for float16
  int64_t check_lockstep_every = 1000;      // steps between checks of the replicas; 0: none
  bool learn_order = true;                  // of the buckets, from the first step
  bool count_joined_ranks = false;  // in the mean of a backward() outside accumulate(): see join()
  bool shard_gradients = false;     // for a ShardedOptimizer: see sharded_optimizer.h
};

// Keeps the replicas of a model in lockstep: after each step's last backward every rank has the
// same gradients, those of the mean loss over the samples of all ranks.
//
//   DataParallel replicas(net, job.group());
//   for (auto& step : job.steps(images)) {
//     optimizer.zero_grad();
//     for (auto& micro : replicas.accumulate(step)) {
//       auto loss = nn::cross_entropy(net.forward(micro.x), micro.y);
//       replicas.backward(loss, micro.size());
//     }
//     optimizer.step();
//   }
//
// Construction is collective: it verifies that the model is the same on every rank, gives every
// rank rank 0's parameters and buffers, and moves parameters and gradients into buckets of the
// group's memory (bucket.h). During the last micro-batch's backward a bucket is all-reduced as soon
// as it and the buckets before it are complete (reducer.h), on the group's communication thread,
// while backward goes on.
//
// Buckets begin in reverse registration order. After the first step that ends well they are cut
// anew, once, in the order in which rank 0's gradients arrived (options.learn_order; a world of one
// has nothing to gain by it). Results do not depend on it, and parameters and gradients keep their
// values and optimizers theirs; but memory moves: a p.grad(), p.detach() or other view of a
// parameter that was taken before the end of that step's backward goes on seeing the old memory.
//
// A parameter that gets no gradient on some ranks counts as zero there; one that gets none anywhere
// keeps its grad() undefined. Parameters may be frozen and unfrozen at any time, on some ranks
// only, too: what requires grad on any rank is reduced on all. If backward throws on one rank,
// every rank throws for that step, all gradients are undefined afterwards and the next step works.
//
// In mode bitwise the gradients, and so the weights, are the same bits on any number of ranks up to
// the number of virtual shards. A step consists of exactly those shards, as job.steps() or a
// data::Sampler with virtual_shards makes them: shard s is one micro-batch, number s, of
// global_samples / virtual_shards samples, on the rank that data::shards_of() says. The shards'
// gradients are added along one tree (canonical_sum.h); until the step's last backward grad() means
// nothing. Buffers are updated once a step (shard_buffers.h). There is no backward() outside
// accumulate(). Construction throws DistributedError naming the ranks if they would not compute the
// same bits: other instruction sets, versions of libraries (engine/arithmetic.h).
//
// A step that is left before its last micro-batch's backward, by break or by an exception that the
// program catches, leaves no gradients behind either. But only a step that every rank leaves is
// over: the peers of a rank that goes on alone still wait for it, and its next backward would be
// added to their old one. Each reduction therefore carries the index of its step, and where the
// ranks' differ all of them throw. A backward() outside accumulate() has no index: a rank that
// skips one of those goes unnoticed until the ranks disagree on something else.
//
// Loops that know nothing of steps accumulate with no_sync(): while its result lives, backward()
// adds to this rank's gradients and communicates nothing; the next one outside reduces all that has
// been added up, whatever the micro-batches were.
//
//   for (int64_t i = 0; i < n; ++i) {
//     std::optional<DataParallel::NoSync> local;
//     if (i + 1 < n) local.emplace(replicas);
//     replicas.backward(nn::cross_entropy(net.forward(x[i]), y[i]) / n);
//   }
//   optimizer.step();
//
// It is the call of backward() that decides, not forward as in PyTorch. As there, the result is the
// mean over the ranks of what each has added up: dividing by the number of micro-batches is the
// program's part, and shares of unequal size come out wrong, which accumulate() knows better. All
// ranks must reduce after the same number of backward()s: if they do not, all throw. So they do if
// a parameter has been changed in between (optimizer.step() with this rank's gradients alone would
// make the replicas differ), and accumulate() throws while there are gradients that have not been
// reduced. Mode bitwise has no no_sync().
//
// Steps of job.steps() and data::Sampler are even by construction. With loaders of their own ranks
// may run out of data at different times; each calls join() then, and keeps the others company:
//
//   for (auto& batch : my_loader) {
//     optimizer.zero_grad();
//     replicas.backward(nn::cross_entropy(net.forward(batch.x), batch.y));
//     optimizer.step();
//   }
//   replicas.join([&] { optimizer.step(); });
//
// A gradient that is NaN or infinite on one rank would spread to all of them; so each rank looks at
// its own before they are summed, and by default (options.non_finite) every rank throws for that
// step, naming parameter and rank. And every so many steps (options.check_lockstep_every) the ranks
// compare hashes of their replicas.
//
// With options.precision float16, backward() multiplies the loss by a scale and the reduced
// gradients are divided by it, so that they are what they would be without. Where one is not finite
// on some rank, the scale was too large: no gradients are left on any rank, so that the optimizer's
// step() does nothing, the step counts as skipped and the scale is halved (loss_scale.h says when
// it grows). That happens instead of what options.non_finite says, until the scale is so small that
// it cannot have been the reason. A forward outside accumulate() needs an autograd::Autocast of its
// own; backward() scales its loss just so.
//
// A step of one rank can be captured in a CUDA graph (engine/cuda_graph.h), accumulate() and the
// optimizer's step() with it; not in mode bitwise, nor with compression. The data::Step is one of
// the graph's static inputs and has to stay: before each replay the program writes the data into
// the tensors of its micro-batches, and `index`. The replay draws the random numbers of that index,
// leaves the optimizer's updates out where a gradient is not finite, waits, and then writes
// step.report, anew, and throws what backward() would. Only an IndexError of what no gradient has
// become NaN for comes behind the updates. The report has no timeline.
//
// A parameter belongs to the DataParallel that was made over it last; an older one throws when it
// is used again. The model must outlive this object. Afterwards its parameters stay where they are.
class DataParallel {
 public:
  class Accumulation;
  class NoSync;

  DataParallel(const nn::Module& model, std::shared_ptr<ProcessGroup> group,
               DataParallelOptions options = {});
  DataParallel(NamedTensors parameters, NamedTensors buffers, std::shared_ptr<ProcessGroup> group,
               DataParallelOptions options = {});
  ~DataParallel();
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  // The micro-batches of one step, for a range-based for; each must get exactly one backward().
  // Only the last one communicates. Random ops inside draw the numbers of their global micro-batch.
  Accumulation accumulate(data::Step& step);

  // Backpropagates `loss`, a mean over `samples` samples; 0 stands for all of the micro-batch's.
  // Inside accumulate() its weight is samples / the step's global samples. Outside, the call is a
  // step of its own, or with no_sync() the last part of one, and the gradients are averaged over
  // the ranks.
  void backward(const Tensor& loss, int64_t samples = 0);

  // While the result lives, backward() only accumulates. Throws Error inside accumulate() and in
  // mode bitwise.
  [[nodiscard]] NoSync no_sync();

  // This rank has no data left. Takes part in the steps of the others, contributing nothing, until
  // all ranks have joined; then returns on all of them, with the same parameters and buffers
  // everywhere and no gradients. That costs no message before all have joined, and then one more
  // reduction.
  //
  // Averages are over what is there: inside accumulate(), where step.global_samples tells the
  // number of samples on all ranks as if none had joined, over the samples that backward() was
  // given; outside, over the ranks that have not joined, or with options.count_joined_ranks over
  // all, as PyTorch does by default. Buffers are those of the lowest rank that has not joined.
  //
  // `follow` is called after each of these steps, and does what the others do between zero_grad()
  // and the next step: optimizer.step(), and that of a schedule. So optimizers stay in lockstep,
  // too. Without it, the parameters come in the end from a rank that was among the last, and an
  // optimizer's memory (momentum, step counts) lacks those steps here.
  //
  // Throws what backward() throws where another rank has failed; Error inside accumulate() or
  // no_sync(), with gradients that have not been reduced, without `follow` for an optimizer that is
  // watched, and in mode bitwise.
  void join(const std::function<void()>& follow = {});

  // Gives every rank rank 0's buffers (running statistics). After every step they are equal by
  // themselves.
  void synchronize_buffers() { synchronize_buffers(0); }

  // Collective: throws DistributedError on every rank, naming ranks and tensor, unless all have the
  // same bits in parameters, buffers and the state of the optimizers that are watched.
  void check_lockstep() const;
  // From now on the checks include the optimizer's state. It must live while backward() is used.
  void watch(const optim::Optimizer& optimizer) { optimizers_.push_back(&optimizer); }

  // Steps whose gradients were discarded because of NonFinite::kSkip or an overflow of float16.
  int64_t skipped_steps() const { return skipped_steps_; }
  // What the next step's losses are multiplied by: 1 unless options.precision is float16.
  double loss_scale() const { return loss_scale_ ? loss_scale_->value() : 1.0; }

  // In the order in which they are reduced; those of frozen parameters exist once needed.
  std::vector<const Bucket*> buckets() const { return reducer_->buckets(); }
  ProcessGroup& group() const { return *group_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kNoStep = -1;  // a backward outside accumulate()

  void move_buffers();
  void broadcast_from_root();
  void synchronize_buffers(int root);
  // Ends the step's communication; `failure` is what this rank's backward threw. Returns whether
  // there was nobody left to contribute.
  bool finish(const std::exception_ptr& failure);
  void check_shards(const data::Step& step) const;
  void throw_wrong_index() const;
  // What the communication has ended with: throws, or writes the report.
  bool conclude(Reducer::Outcome outcome, const std::exception_ptr& failure,
                std::chrono::steady_clock::time_point backward_done);
  void report(Reducer::Outcome outcome, const data::StepTimeline::Wait& wait, bool skipped) const;
  StepTrailer::Share share() const;
  Tensor seed_of(const Tensor& loss, double weight);
  // captured_step.cc
  struct Captured;
  void check_capture() const;
  void drop_only_captured();
  void capture(DeviceGraph& graph, const std::exception_ptr& failure);
  void check_replay(const Captured& captured);
  void finish_replay(Captured& captured);
  void throw_poisoned(const std::exception_ptr& failure);
  void discard_non_finite(const Reducer::Outcome& outcome);
  void check_lockstep_now_and_then(bool complete);
  void check_not_joined(const char* function) const;
  void end_join(int64_t missed_steps);
  void throw_different_steps(const std::exception_ptr& failure, const char* advice);
  void check_unreduced() const;
  void check_reduced(const char* function);
  void remember_unreduced();
  std::string step_name() const;
  void set_activity(Phase phase) const;
  void forget_losses();
  void add_loss(size_t term, double weight, const Tensor& loss);

  std::shared_ptr<ProcessGroup> group_;
  const DataParallelOptions options_;
  NamedTensors parameters_, buffers_;
  std::shared_ptr<const NamedTensors> weights_;  // both, for the step's report
  std::unique_ptr<Reducer> reducer_;
  struct FlatBuffers {
    std::shared_ptr<Memory> memory;
    Buffer buffer;
  };
  std::vector<FlatBuffers> flat_buffers_;
  std::shared_ptr<const CanonicalPlan> plan_;        // in mode bitwise, else null
  std::unique_ptr<ShardBuffers> shard_buffers_;      // likewise, where there are buffers
  std::vector<const optim::Optimizer*> optimizers_;  // watched
  int64_t reductions_ = 0;
  int64_t skipped_steps_ = 0;
  std::optional<optim::LossScale> loss_scale_;  // for float16

  // The step under way.
  Accumulation* accumulation_ = nullptr;
  data::Step* step_ = nullptr;  // whose report is written
  std::vector<double> losses_;  // this rank's, weighted: their sum, or one for each shard;
  Tensor device_losses_;        // on a GPU in its memory, so that nobody waits for them
  int64_t samples_ = 0;         // this rank's, so far
  int64_t step_index_ = kNoStep;
  int64_t unreduced_ = 0;           // backward()s in no_sync() since the last reduction
  std::vector<uint32_t> versions_;  // then: of the parameters after the last of them
  bool no_sync_ = false;
  bool joined_ = false;  // in join()
  // The last step was captured, and not replayed: nothing has computed its gradients.
  bool only_captured_ = false;
  std::shared_ptr<const int> alive_ = std::make_shared<int>();  // for graphs
  friend class Accumulation;
};

// A scope without communication; they may be nested.
class DataParallel::NoSync {
 public:
  explicit NoSync(DataParallel& replicas);
  ~NoSync() { replicas_.no_sync_ = before_; }
  NoSync(const NoSync&) = delete;
  NoSync& operator=(const NoSync&) = delete;

 private:
  DataParallel& replicas_;
  const bool before_;
};

// The loop over one step's micro-batches.
class DataParallel::Accumulation {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = data::MicroBatch;
    using difference_type = std::ptrdiff_t;
    using pointer = data::MicroBatch*;
    using reference = data::MicroBatch&;

    data::MicroBatch& operator*() const { return owner_->current(); }
    data::MicroBatch* operator->() const { return &owner_->current(); }
    Iterator& operator++() {
      owner_->advance();
      return *this;
    }
    void operator++(int) { owner_->advance(); }
    bool operator==(std::default_sentinel_t) const { return owner_->done(); }

   private:
    friend class Accumulation;
    explicit Iterator(Accumulation* owner) : owner_(owner) {}
    Accumulation* owner_;
  };

  ~Accumulation();
  Accumulation(const Accumulation&) = delete;
  Accumulation& operator=(const Accumulation&) = delete;
  Iterator begin();  // once
  std::default_sentinel_t end() const { return {}; }

 private:
  friend class DataParallel;
  Accumulation(DataParallel& replicas, data::Step& step);
  data::MicroBatch& current() const { return step_.micros[at_]; }
  bool done() const { return at_ == step_.micros.size(); }
  bool last() const { return at_ + 1 == step_.micros.size(); }
  void enter();
  void leave_random_scope();
  void advance();

  DataParallel& replicas_;
  data::Step& step_;
  size_t at_ = 0;
  int backwards_ = 0;  // of the current micro-batch
  std::chrono::steady_clock::time_point entered_;
  bool begun_ = false;
  std::optional<RandomScope> random_;
  bool captures_random_ = false;  // random_ is a scope of the graph in capture, too
  std::optional<autograd::Autocast> autocast_;
};

}  // namespace lockstep::distributed
