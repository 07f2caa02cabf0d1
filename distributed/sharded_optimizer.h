#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep::distributed {

// What all sharded optimizers are, whatever the algorithm; see ShardedOptimizer.
class ShardedOptimizerBase : public optim::Optimizer {
 public:
  ~ShardedOptimizerBase() override;

  // Collective. Every rank updates its part of each bucket, and all parts are gathered while the
  // next bucket is updated and the next forward runs: whoever reads a parameter waits for those of
  // its bucket, and gets a DistributedError if they cannot come. Pointers that data() gave out
  // before know nothing of this: take them anew. Throws Error if a gradient has not been reduced,
  // or a parameter has been given other memory.
  void step() override;
  std::vector<Rates> rates() override { return inner_->rates(); }

  // Collective: optim::clip_grad_norm_ for the parameters of this optimizer, the same norm on every
  // rank. In reduction mode bitwise it has the same bits as that; else it adds up the ranks'
  // partial norms in their order.
  double clip_grad_norm_(double max_norm, bool error_if_nonfinite = false);

  // Collective: the whole state, on every rank, in the order of parameters() and in their shapes:
  // what states() of the optimizer says that is not sharded, for checkpoints that fit any number of
  // ranks. states() itself is empty, as no two ranks remember the same.
  std::vector<ParameterState> gather_states();
  // Keeps this rank's part of such a state, from whatever number of ranks, or from the optimizer
  // that is not sharded. Throws ValueError if it does not fit.
  void load_states(const std::vector<ParameterState>& states) override;

  size_t state_bytes() const;  // what this rank keeps

 protected:
  ShardedOptimizerBase(DataParallel& replicas, const std::vector<std::vector<Tensor>>& groups);
  // The parts that fall to this rank, one for each parameter, perhaps without elements: what the
  // inner optimizer is made of.
  const std::vector<Tensor>& parts(size_t group) const { return parts_[group]; }
  void set_inner(std::unique_ptr<optim::Optimizer> inner) { inner_ = std::move(inner); }
  optim::Optimizer& inner() { return *inner_; }
  // Where the inner optimizer keeps its parameters.
  virtual std::vector<Tensor>& inner_parameters(size_t group) = 0;

 private:
  // Where a parameter lies in its bucket, and how that is cut: enough to say which part is whose.
  struct Layout {
    int64_t offset = 0;
    int64_t part = 0;  // elements of the bucket for each rank; 0: no bucket yet, all is rank 0's
    friend bool operator==(const Layout&, const Layout&) = default;
  };
  struct Piece {
    Tensor parameter;
    size_t group = 0, index = 0;
    Layout layout;
    const Bucket* bucket = nullptr;
    size_t entry = 0;
    void* data = nullptr;  // of the parameter, when the piece was cut
  };
  struct Range {
    int64_t begin = 0, count = 0;  // of a parameter's elements
  };
  Range range_of(const Piece& piece, int rank) const;
  Tensor cut(const Piece& piece, const Tensor& whole) const;
  const Tensor& part_of(const Piece& piece) const { return parts_[piece.group][piece.index]; }
  std::vector<Layout> look();
  void follow_buckets();
  std::vector<ParameterState> own_parts(const std::vector<ParameterState>& states) const;
  bool is_whole() const;
  void check_homes() const;
  void gather_parameters(const Bucket& bucket);

  DataParallel& replicas_;
  std::vector<Piece> pieces_;  // in order of parameters()
  std::vector<std::vector<Tensor>> parts_;
  std::unique_ptr<optim::Optimizer> inner_;
  std::vector<Work> gathers_;  // of the last step
};

// An optimizer whose state is spread over the ranks (stage 1 of Rajbhandari et al.: "ZeRO: memory
// optimizations toward training trillion parameter models", SC 2020). Each rank gets the sum of the
// gradients for its part of every bucket only, remembers and updates that part, and all parts of
// the parameters are gathered again. The state takes 1 / ranks of the memory, as many bytes travel
// as in an all-reduce, and the weights are the same bits as without sharding.
//
//   DataParallel replicas(net, job.group(), {.shard_gradients = true});
//   ShardedOptimizer<optim::AdamW> adam(replicas, net.parameters(), {.lr = 1e-3});
//   ... the loop as ever:  adam.zero_grad(); ...; adam.clip_grad_norm_(1.0); adam.step();
//
// Inner is SGD, Adam, AdamW, Adagrad or RMSprop, whose updates treat every element alike. Schedules
// take it as they take those. After the reduction a rank's gradients are whole in its own part
// only: grad() then contains a NaN, so that optim::clip_grad_norm_ or another optimizer does not
// silently work with half of a sum. (In reduction mode bitwise they are whole on every rank.)
//
// The parameters are those of `replicas`, which must outlive this; they may be frozen and unfrozen,
// and ones without a gradient keep their state.
template <typename Inner>
class ShardedOptimizer final : public ShardedOptimizerBase {
 public:
  using Options = typename Inner::Options;

  // Throw ValueError unless `replicas` shards its gradients and has all of the parameters.
  ShardedOptimizer(DataParallel& replicas, std::vector<Tensor> parameters, Options options = {})
      : ShardedOptimizer(
            replicas, std::vector<optim::ParamGroup<Options>>{{std::move(parameters), options}}) {}
  ShardedOptimizer(DataParallel& replicas, std::vector<optim::ParamGroup<Options>> groups)
      : ShardedOptimizerBase(replicas, parameters_of(groups)) {
    for (size_t g = 0; g < groups.size(); ++g) groups[g].parameters = parts(g);
    set_inner(std::make_unique<Inner>(std::move(groups)));
  }

  // The hyperparameters, which may be changed between steps. The parameters in there are this
  // rank's parts.
  auto& groups() { return static_cast<Inner&>(inner()).groups(); }

 private:
  static std::vector<std::vector<Tensor>> parameters_of(
      const std::vector<optim::ParamGroup<Options>>& groups) {
    std::vector<std::vector<Tensor>> all;
    for (const auto& group : groups) all.push_back(group.parameters);
    return all;
  }
  std::vector<Tensor>& inner_parameters(size_t group) override {
    return groups()[group].parameters;
  }
};

}  // namespace lockstep::distributed
