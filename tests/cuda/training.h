#pragma once

#include <memory>
#include <vector>

#include "lockstep/distributed/compression.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/sync_debug.h"
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

// A scope in which whoever waits for the device without meaning to gets an exception.
struct Watched {
  Watched() { cuda::set_sync_debug_mode("error"); }
  ~Watched() { cuda::set_sync_debug_mode("default"); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
};

// The losses of eight steps on each rank's own samples, then the weights. Both layers are matrices
// that rank 2 and less stand for; what a step lacks must come in the next.
inline std::vector<double> after_compressed_training(const std::shared_ptr<ProcessGroup>& group,
                                                     Device device,
                                                     const MakeReduction& compression) {
  manual_seed(7);
  nn::Sequential net(nn::Linear(12, 10), nn::ReLU{}, nn::Linear(10, 4));
  net.to(device);
  DataParallelOptions options{.first_bucket_bytes = 256, .bucket_bytes = 256};
  if (compression) options.compression = compression;
  DataParallel replicas(net, group, options);
  optim::SGD sgd(net.parameters(), {.lr = 0.05, .momentum = 0.5});
  std::vector<double> all;
  for (int64_t index = 0; index < 8; ++index) {
    data::Step step;
    step.index = index;
    step.global_samples = 6 * group->size();
    const Tensor x = sin(arange(0, 72, 1, {DType::kFloat32}).view({6, 12}) * 1.7 +
                         static_cast<double>(10 * index + 3 * group->rank()));
    const Tensor y = sin(x.narrow(1, 0, 4) * 2.0);
    step.micros.push_back({x.to(device), y.to(device), group->rank(), 6});
    sgd.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(mse_loss(net(micro.x), micro.y), micro.size());
    }
    sgd.step();
    all.push_back(step.report.loss);
  }
  const SyncAllowed allowed;
  for (const Tensor& p : net.parameters()) {
    for (const double value : p.to_vector()) all.push_back(value);
  }
  return all;
}

// Exact in the first step, and few numbers for each matrix from then on.
inline MakeReduction few_numbers() {
  return powersgd({.rank = 2, .start_iteration = 1, .min_compression_rate = 0.0});
}

}  // namespace lockstep::distributed::testing
