#pragma once

#include <memory>
#include <string>

#include "lockstep/distributed/process_group.h"
#include "lockstep/nn/batch_norm.h"

namespace lockstep::distributed {

class LayerExchange;

// Batch normalisation of (N, C, ...) over the batches of all ranks, as PyTorch's SyncBatchNorm: in
// training mean and variance are those of all ranks' batches together, however unequal these are;
// a rank's may also be empty. Output and gradients are those that nn::BatchNorm1d or 2d computes of
// the concatenated batch. weight and bias get this rank's part of their gradients, which
// DataParallel sums. The running statistics are the same bits on every rank. In evaluation, and in
// a world of one, it is nn::BatchNorm.
//
//   struct Net : nn::Module {
//     explicit Net(const std::shared_ptr<distributed::ProcessGroup>& group) : norm(32, group) {
//       register_modules({{"conv", conv}, {"norm", norm}});
//     }
//     nn::Conv2d conv{1, 32, 3};
//     distributed::SyncBatchNorm norm;
//   };
//
// Construction and, in training, forward and backward are collective: every rank makes the same
// layers in the same order and uses them alike, on a channel of their own (layer_exchange.h). If
// backward fails on one rank, DataParallel makes every rank throw as always. If the layers are not
// used alike, every rank throws DifferentLayersError.
//
// Modules keep the addresses of their children, so a finished model cannot be converted in place:
// use this class where the model is written. Names of parameters and buffers are BatchNorm's, so
// state dicts fit both.
//
// backward with create_graph throws Error. In reduction mode bitwise, where batch statistics are
// per virtual shard, DataParallel refuses models with this layer.
class SyncBatchNorm : public nn::BatchNorm {
 public:
  SyncBatchNorm(int64_t features, std::shared_ptr<ProcessGroup> group, Options options);
  SyncBatchNorm(int64_t features, std::shared_ptr<ProcessGroup> group)
      : SyncBatchNorm(features, std::move(group), Options()) {}

  // Throws ValueError on every rank if there is no more than one value per channel on all of them.
  Tensor forward(const Tensor& x) override;

  const ProcessGroup& group() const { return *group_; }
  // For messages; DataParallel gives it the layer's name in the model.
  void set_name(std::string name);

 private:
  void check_input(const Tensor& x) const override;
  Tensor normalise(const Tensor& x, const Tensor& weight, const Tensor& bias);
  void update_running(const Tensor& mean, const Tensor& var, double count);

  std::shared_ptr<ProcessGroup> group_;
  const Options options_;
  const int64_t features_;
  std::shared_ptr<LayerExchange> layers_;  // null in a world of one
  size_t layer_ = 0;
};

}  // namespace lockstep::distributed
