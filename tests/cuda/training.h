#pragma once

#include <memory>
#include <vector>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/sgd.h"

// A small training, for the groups whose tensors are on a device.
namespace lockstep::distributed::testing {

struct Net : nn::Module {
  nn::Linear first{4, 6}, last{6, 1};
  nn::BatchNorm1d norm{6};
  Net() { register_modules({{"first", first}, {"norm", norm}, {"last", last}}); }
  Tensor forward(const Tensor& x) { return last(relu(norm(first(x)))); }
};

// Weights and running statistics after three steps of eight virtual shards, in mode bitwise.
inline std::vector<double> after_training(const std::shared_ptr<ProcessGroup>& group,
                                          Device device) {
  constexpr int64_t kShards = 8;
  manual_seed(3);
  Net net;
  net.to(device);
  DataParallel replicas(net, group, {.reduction = {ReductionMode::kBitwise, kShards}});
  optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9});
  const auto share = data::shards_of(kShards, group->rank(), group->size());
  for (int64_t index = 0; index < 3; ++index) {
    data::Step step;
    step.index = index;
    step.global_samples = 2 * kShards;
    for (int64_t shard = share.begin; shard < share.end; ++shard) {
      const Tensor x = sin(arange(0, 8, 1, {DType::kFloat32}).view({2, 4}) * 1.7 +
                           static_cast<double>(10 * index + shard));
      step.micros.push_back({x.to(device), x.sum({1}, true).to(device), shard, 2});
    }
    sgd.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(mse_loss(net.forward(micro.x), micro.y), micro.size());
    }
    sgd.step();
  }
  std::vector<double> all;
  for (const auto& list : {net.named_parameters(), net.named_buffers()}) {
    for (const auto& [name, t] : list) {
      for (const double value : t.to_vector()) all.push_back(value);
    }
  }
  return all;
}

}  // namespace lockstep::distributed::testing
