// Around captured steps: what the host has kept from before, other devices, halves of a step.
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/cuda_graph.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/optim.h"

#include "errors.h"

namespace lockstep {
namespace {

using autograd::Autocast;
using Values = std::vector<double>;

const Device kCuda{DeviceType::kCuda, 0};

struct Training {
  nn::Linear net{5, 3};
  Tensor x = ones({4, 5}, {.device = kCuda}), y = zeros({4}, {DType::kInt64, kCuda});
  optim::SGD optimizer;

  Training() : optimizer(moved(net), {.lr = 0.5}) {}
  static std::vector<Tensor> moved(nn::Linear& net) {
    manual_seed(3);
    net.to(kCuda);
    for (const Tensor& p : net.parameters()) {
      const autograd::NoGrad no_grad;
      Tensor(p).copy_(sin(arange(0, p.numel(), 1, {DType::kFloat32})).view(p.sizes()));
    }
    return net.parameters();
  }
  Tensor loss() { return cross_entropy(net.forward(x), y); }
  Tensor step() {
    optimizer.zero_grad();
    const Tensor now = loss();
    now.backward();
    optimizer.step();
    return now.detach();
  }
  Tensor capture_step(cuda::CUDAGraph& graph) {
    cuda::GraphCapture capture(graph);
    const Tensor now = step();
    capture.end();
    return now;
  }
};

// Losses of five steps in one scope around all of them, behind one that is thrown away.
Values losses_in_one_scope(bool captured) {
  Training t;
  const Autocast scope(DType::kBFloat16);
  t.step();
  {
    const autograd::NoGrad no_grad;
    t.net.forward(t.x);  // keeps the weights' conversion
  }
  cuda::CUDAGraph graph;
  Tensor loss;
  if (captured) loss = t.capture_step(graph);
  Values all;
  for (int i = 0; i < 5; ++i) {
    if (captured) {
      graph.replay();
    } else {
      loss = t.step();
    }
    all.push_back(loss.item());
    all.push_back(t.loss().item());  // what somebody else sees in the same scope
  }
  return all;
}

TEST(CudaGraphTraps, ConversionsOfAnOpenAutocastScopeAreMadeAnew) {
  const Values eager = losses_in_one_scope(false);
  EXPECT_LT(eager.back(), eager.front());
  EXPECT_EQ(losses_in_one_scope(true), eager);
}

TEST(CudaGraphTraps, AScopeAroundReplaysSeesTheirUpdates) {
  Training t;
  t.step();
  cuda::CUDAGraph graph;
  t.capture_step(graph);
  const Autocast scope(DType::kBFloat16);
  double before = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 3; ++i) {
    graph.replay();
    const double now = t.loss().item();
    EXPECT_LT(now, before);
    before = now;
  }
}

TEST(CudaGraphTraps, ReplaysAreWritesToTheParameters) {
  Training t;
  t.step();
  cuda::CUDAGraph graph;
  t.capture_step(graph);
  const Tensor again = t.x.detach().requires_grad_();
  const Tensor loss = t.net.forward(again).sum();
  graph.replay();
  EXPECT_ERROR(loss.backward(), "modified by an inplace operation");
}

TEST(CudaGraphTraps, AnotherDevicesWorkIsRefused) {
  if (cuda_status().devices < 2) GTEST_SKIP() << "needs two devices";
  const Device other{DeviceType::kCuda, 1};
  const Tensor x = ones({4}, {.device = other});
  cuda::CUDAGraph graph;
  const std::string got = text_of_error([&] {
    cuda::GraphCapture capture(graph);
    x.sum();
  });
  EXPECT_NE(got.find("work for cuda:1 cannot be captured"), std::string::npos) << got;
  Tensor y;
  {
    cuda::GraphCapture capture(graph, other);
    y = x * 3.0;
    capture.end();
  }
  graph.replay();
  EXPECT_EQ(y.to_vector(), Values(4, 3.0));
}

TEST(CudaGraphTraps, AScalersStepIsCapturedAsAWhole) {
  Training t;
  optim::GradScaler scaler;
  const auto upto_unscale = [&] {
    t.optimizer.zero_grad();
    scaler.scale(t.loss()).backward();
    scaler.unscale_(t.optimizer);
  };
  const auto rest = [&] {
    scaler.step(t.optimizer);
    scaler.update();
  };
  upto_unscale();
  rest();
  cuda::CUDAGraph graph;
  EXPECT_ERROR(
      {
        cuda::GraphCapture capture(graph);
        upto_unscale();
        capture.end();
      },
      "unscale_() has been captured without step() and update()");
  upto_unscale();  // as if nothing had been
  rest();
  {
    cuda::GraphCapture capture(graph);
    upto_unscale();
    rest();
    capture.end();
  }
  const double before = t.loss().item();
  graph.replay();
  EXPECT_LT(t.loss().item(), before);
}

TEST(CudaGraphTraps, AReplayNeedsItsScaler) {
  Training t;
  cuda::CUDAGraph graph;
  {
    optim::GradScaler scaler;
    const Tensor loss = scaler.scale(t.loss());
    t.optimizer.zero_grad();
    loss.backward();
    scaler.step(t.optimizer);
    scaler.update();
    t.optimizer.zero_grad();
    const Tensor next = scaler.scale(t.loss());
    cuda::GraphCapture capture(graph);
    mul(t.net.forward(t.x).sum(), 1.0).backward();
    scaler.step(t.optimizer);
    scaler.update();
    capture.end();
  }
  EXPECT_ERROR(graph.replay(), "GradScaler is gone");
}

// cuDNN's seed would be the same in every replay: composed, its dropout draws anew.
TEST(CudaGraphTraps, AttentionsDropoutDrawsAnewInReplays) {
  const Tensor x = ones({1, 2, 16, 8}, {DType::kBFloat16, kCuda});
  const AttentionOptions options{.dropout = 0.5, .causal = true};
  cuda::CUDAGraph graph;
  Tensor y;
  {
    cuda::GraphCapture capture(graph);
    y = scaled_dot_product_attention(x, x, x, options);
    capture.end();
  }
  graph.replay();
  const Values first = y.to_vector();
  graph.replay();
  EXPECT_NE(y.to_vector(), first);
}

}  // namespace
}  // namespace lockstep
