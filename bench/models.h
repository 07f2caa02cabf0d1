#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/nn/nn.h"

namespace bench {

// A model of the usual PyTorch comparison, with synthetic data.
struct Workload {
  std::unique_ptr<lockstep::nn::Layer> net;
  lockstep::Tensor x, y;
  bool sgd = false;  // otherwise Adam

  void to(lockstep::Device device);
  // The mean cross entropy of the logits.
  lockstep::Tensor loss(const lockstep::Tensor& input, const lockstep::Tensor& target) const;
};

// mlp: 784-512-512-10; widemlp: 784-4096-4096-4096-10; cnn: two convolutions and two linear layers
// on 28x28; resnet18: on 32x32, as for CIFAR-10; gpt: 6 layers of 384 over 128 bytes.
const std::vector<std::string>& workload_names();
Workload make_workload(const std::string& name, int64_t batch);

}  // namespace bench
