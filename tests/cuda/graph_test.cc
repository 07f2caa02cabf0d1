// Captured steps of training: the bits of the same steps issued one by one, what a replay takes
// from the host, and what cannot be captured.
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/checkpoint.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/cuda_graph.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/memory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/engine/transfer.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/optim.h"

#include "errors.h"

namespace lockstep {
namespace {

const Device kCuda{DeviceType::kCuda, 0};
constexpr int64_t kBatch = 6, kFeatures = 5, kClasses = 4;

struct Net : nn::Module {
  nn::Linear first{kFeatures, 8}, last{8, kClasses};
  nn::BatchNorm1d norm{8};
  Net() { register_modules({{"first", first}, {"norm", norm}, {"last", last}}); }
  Tensor forward(const Tensor& x) { return last(dropout(relu(norm(first(x))), 0.3, true)); }
};

using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(const std::vector<Tensor>&)>;

enum class Gradients { kMadeInTheStep, kZeroedInPlace };

// A net, its inputs and one optimizer; step() is what is captured.
struct Training {
  Net net;
  std::unique_ptr<optim::Optimizer> optimizer;
  Tensor x = zeros({kBatch, kFeatures}, {.device = kCuda});
  Tensor y = zeros({kBatch}, {DType::kInt64, kCuda});
  Gradients gradients;

  explicit Training(const MakeOptimizer& make, Gradients how = Gradients::kMadeInTheStep)
      : gradients(how) {
    net.to(kCuda);
    optimizer = make(net.parameters());
  }
  Tensor step() {
    if (gradients == Gradients::kMadeInTheStep) {
      optimizer->zero_grad();
    } else {
      for (const Tensor& p : net.parameters()) {
        if (p.grad().defined()) p.grad().zero_();
      }
    }
    const Tensor loss = cross_entropy(net.forward(x), y);
    loss.backward();
    optimizer->step();
    return loss.detach();
  }
  // Batch i, and the learning rate of step i.
  void prepare(int64_t i) {
    x.copy_(sin(arange(0, kBatch * kFeatures, 1, {DType::kFloat32}).view({kBatch, kFeatures}) *
                static_cast<double>(i + 1)));
    std::vector<int64_t> classes;
    for (int64_t j = 0; j < kBatch; ++j) classes.push_back((i + j) % kClasses);
    y.copy_(from_span<int64_t>(classes, {kBatch}));
    if (i % 3 == 2) y.narrow(0, 1, 1).fill_(-100);  // ignored
    for (const auto& rate : optimizer->rates()) *rate.lr = 0.05 / static_cast<double>(i + 1);
  }
  void append_to(std::vector<double>& all) {
    for (const auto& list : {net.named_parameters(), net.named_buffers()}) {
      for (const auto& [name, t] : list) {
        for (const double value : t.to_vector()) all.push_back(value);
      }
    }
    for (const auto& state : optimizer->states()) {
      all.push_back(static_cast<double>(state.steps));
      for (const auto& [name, t] : state.buffers) {
        if (!t.defined()) continue;
        for (const double value : t.to_vector()) all.push_back(value);
      }
    }
  }
};

// Losses and all that is left after 2 steps, and `steps` more, which are replays or not.
std::vector<double> after_training(const MakeOptimizer& make, bool captured, Gradients how,
                                   int steps = 4) {
  manual_seed(5);
  Training training(make, how);
  std::vector<double> all;
  int64_t i = 0;
  for (; i < 2; ++i) {
    training.prepare(i);
    all.push_back(training.step().item());
  }
  cuda::CUDAGraph graph;
  Tensor loss;
  if (captured) {
    cuda::GraphCapture capture(graph);
    loss = training.step();
    capture.end();
    EXPECT_GT(graph.nodes(), 20u);
  }
  for (const int64_t last = i + steps; i < last; ++i) {
    training.prepare(i);
    if (captured) {
      graph.replay();
    } else {
      loss = training.step();
    }
    // What somebody else writes is not the graph's.
    if (i % 2 == 0) full({1000}, 3.0, {.device = kCuda}).add_(1);
    all.push_back(loss.item());
  }
  training.append_to(all);
  all.push_back(rand({2}).to_vector()[1]);  // the host's generator has come as far
  return all;
}

void expect_same_bits(const MakeOptimizer& make) {
  for (const Gradients how : {Gradients::kMadeInTheStep, Gradients::kZeroedInPlace}) {
    const auto expected = after_training(make, false, how);
    const auto replayed = after_training(make, true, how);
    ASSERT_EQ(expected.size(), replayed.size());
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(expected[i], replayed[i]) << i;
  }
}

TEST(CudaGraph, SgdHasTheBitsOfStepsWithoutIt) {
  expect_same_bits([](const std::vector<Tensor>& parameters) {
    return std::make_unique<optim::SGD>(
        parameters, optim::SgdOptions{.momentum = 0.9, .weight_decay = 0.01, .nesterov = true});
  });
}

TEST(CudaGraph, SgdWithoutMomentumToo) {
  expect_same_bits([](const std::vector<Tensor>& parameters) {
    return std::make_unique<optim::SGD>(parameters);
  });
}

TEST(CudaGraph, AdamHasTheBitsOfStepsWithoutIt) {
  expect_same_bits([](const std::vector<Tensor>& parameters) {
    return std::make_unique<optim::Adam>(parameters, optim::AdamOptions{.amsgrad = true});
  });
}

TEST(CudaGraph, AdamWOfTwoGroupsToo) {
  expect_same_bits([](const std::vector<Tensor>& parameters) {
    using Group = optim::ParamGroup<optim::AdamWOptions>;
    const auto middle = parameters.begin() + 2;
    return std::make_unique<optim::AdamW>(
        std::vector<Group>{{{parameters.begin(), middle}, {.weight_decay = 0.1}},
                           {{middle, parameters.end()}, {.beta1 = 0.8}}});
  });
}

// Losses, scales and what is left after steps of which the fourth overflows, and later ones with
// twice the scale.
std::vector<double> after_scaled_training(const MakeOptimizer& make, bool captured) {
  manual_seed(6);
  Training training(make);
  optim::GradScaler scaler({.init_scale = 1e10, .growth_interval = 2});
  const Tensor boost = ones({}, {.device = kCuda});
  const auto step = [&] {
    training.optimizer->zero_grad();
    const Tensor loss = cross_entropy(training.net.forward(training.x), training.y);
    scaler.scale(loss * boost).backward();
    scaler.step(*training.optimizer);
    scaler.update();
    return loss.detach();
  };
  cuda::CUDAGraph graph;
  Tensor loss;
  std::vector<double> all;
  for (int64_t i = 0; i < 8; ++i) {
    training.prepare(i);
    boost.fill_(i == 3 ? 1e30 : 1.0);
    if (captured && i == 1) {
      cuda::GraphCapture capture(graph);
      loss = step();
      capture.end();
    }
    if (captured && i > 0) {
      graph.replay();
    } else {
      loss = step();
    }
    all.push_back(loss.item());
    all.push_back(scaler.get_scale());
    all.push_back(scaler.state_dict().at("_growth_tracker"));
  }
  training.append_to(all);
  return all;
}

TEST(CudaGraph, GradScalerSkipsAndAdapts) {
  const MakeOptimizer optimizers[] = {[](const std::vector<Tensor>& parameters) {
                                        return std::make_unique<optim::SGD>(
                                            parameters, optim::SgdOptions{.momentum = 0.9});
                                      },
                                      [](const std::vector<Tensor>& parameters) {
                                        return std::make_unique<optim::Adam>(parameters);
                                      }};
  for (const MakeOptimizer& make : optimizers) {
    const auto expected = after_scaled_training(make, false);
    EXPECT_EQ(expected[3 * 2 + 1], 2e10f) << "has grown";
    EXPECT_EQ(expected[3 * 3 + 1], 1e10f) << "has backed off";
    EXPECT_EQ(after_scaled_training(make, true), expected);
  }
}

Tensor dropped(const Tensor& x) { return dropout(dropout(x, 0.5, true), 0.2, true); }

TEST(CudaGraph, RandomNumbersAreThoseOfTheScopeAroundTheReplay) {
  const Tensor x = ones({64}, {.device = kCuda});
  cuda::CUDAGraph graph;
  Tensor y;
  {
    const RandomScope scope(1, 2);
    cuda::GraphCapture capture(graph);
    y = dropped(x);
    capture.end();
    EXPECT_EQ(random_state().ordinal, 0u);
  }
  for (const uint64_t step : {1, 7, 8}) {
    const auto expected = [&] {
      const RandomScope scope(step, 2);
      return dropped(x).to_vector();
    }();
    const RandomScope scope(step, 2);
    graph.replay();
    EXPECT_EQ(y.to_vector(), expected);
  }
  manual_seed(11);
  const auto expected = dropped(x).to_vector();
  manual_seed(11);
  graph.replay();
  EXPECT_EQ(y.to_vector(), expected) << "outside of a scope, with another seed";
}

TEST(CudaGraph, RecomputingDrawsTheSameNumbers) {
  const auto gradient_of = [](const Tensor& x) {
    const auto half = [](const std::vector<Tensor>& in) { return dropout(sin(in[0]), 0.5, true); };
    sum(autograd::checkpoint(half, {x}) * 3.0).backward();
    return x.grad();
  };
  manual_seed(4);
  const Tensor x = ones({64}, {.device = kCuda}).requires_grad_();
  gradient_of(x);
  x.set_grad({});
  const RandomState begun = random_state();
  const auto expected = gradient_of(x).to_vector();
  x.set_grad({});
  set_random_state(begun);
  cuda::CUDAGraph graph;
  graph.capture_begin();
  const Tensor gradient = gradient_of(x);
  graph.capture_end();
  graph.replay();
  EXPECT_EQ(gradient.to_vector(), expected);
}

TEST(CudaGraph, MemoryIsItsOwnUntilTheEnd) {
  const Tensor x = ones({1000}, {.device = kCuda});
  const size_t before = memory_allocated(kCuda);
  Tensor kept, freed = ones({500}, {.device = kCuda});
  {
    cuda::CUDAGraph graph;
    graph.capture_begin();
    Tensor inner = x * 2.0;
    kept = inner + 1.0;
    inner = Tensor();
    freed = Tensor();  // of before, and only now given back
    const Tensor again = kept * 2.0;
    graph.capture_end();
    EXPECT_GE(graph.bytes(), 8000u);
    EXPECT_EQ(memory_allocated(kCuda), before + graph.bytes());
    for (int i = 0; i < 3; ++i) {
      const Tensor other = full({1000}, 77.0, {.device = kCuda});
      graph.replay();
      EXPECT_EQ(other.to_vector(), std::vector<double>(1000, 77.0));
      EXPECT_EQ(kept.to_vector(), std::vector<double>(1000, 3.0));
    }
  }
  EXPECT_GE(memory_allocated(kCuda), before + 4000) << "a tensor outlives the graph";
  EXPECT_EQ(kept.to_vector(), std::vector<double>(1000, 3.0));
  kept = Tensor();
  EXPECT_EQ(memory_allocated(kCuda), before);
}

TEST(CudaGraph, CanBeResetAndCapturedAgain) {
  const Tensor x = ones({8}, {.device = kCuda});
  const size_t before = memory_allocated(kCuda);
  cuda::CUDAGraph graph;
  EXPECT_ERROR(graph.replay(), "without a preceding successful capture");
  EXPECT_ERROR(graph.capture_end(), "without a capture_begin()");
  for (const double factor : {2.0, 3.0}) {
    graph.capture_begin();
    EXPECT_TRUE(cuda::is_current_stream_capturing());
    Tensor y = x * factor;
    EXPECT_ERROR(cuda::CUDAGraph().capture_begin(), "captures do not nest");
    graph.capture_end();
    EXPECT_FALSE(cuda::is_current_stream_capturing());
    EXPECT_ERROR(graph.capture_begin(), "reset() it");
    graph.replay();
    EXPECT_EQ(y.to_vector(), std::vector<double>(8, factor));
    y = Tensor();
    graph.reset();
    EXPECT_EQ(memory_allocated(kCuda), before);
  }
}

TEST(CudaGraph, ResettingAnotherOneWaitsForTheEndOfACapture) {
  const Tensor x = ones({8}, {.device = kCuda});
  const size_t before = memory_allocated(kCuda);
  {
    auto first = std::make_unique<cuda::CUDAGraph>();
    first->capture_begin();
    Tensor y = x * 2.0;
    first->capture_end();
    first->replay();
    cuda::CUDAGraph second;
    second.capture_begin();
    first.reset();
    y = x * 3.0;
    second.capture_end();
    EXPECT_EQ(memory_allocated(kCuda), before + second.bytes());
    second.replay();
    EXPECT_EQ(y.to_vector(), std::vector<double>(8, 3.0));
  }
  EXPECT_EQ(memory_allocated(kCuda), before);
}

// Each is refused with its reason, and the device goes on.
TEST(CudaGraph, WhatCannotBeCapturedSaysSo) {
  const Tensor x = ones({8}, {.device = kCuda});
  const Tensor host = ones({8});
  const auto refused = [&](const std::function<void()>& op, const std::string& why) {
    for (const bool caught : {false, true}) {
      const size_t before = memory_allocated(kCuda);
      cuda::CUDAGraph graph;
      const std::string got = text_of_error([&] {
        cuda::GraphCapture capture(graph);
        const Tensor y = x * 2.0;
        if (caught) {
          EXPECT_NE(text_of_error(op), "no error");
        } else {
          op();
        }
        capture.end();
      });
      EXPECT_NE(got.find(why), std::string::npos) << "expected: " << why << "\ngot: " << got;
      EXPECT_FALSE(cuda::is_current_stream_capturing());
      EXPECT_ERROR(graph.replay(), "without a preceding successful capture");
      EXPECT_EQ((x * 2.0).to_vector(), std::vector<double>(8, 2.0)) << why;
      EXPECT_EQ(memory_allocated(kCuda), before) << why;
    }
  };
  refused([&] { x.sum().item(); }, "item() cannot be captured: it waits");
  refused([&] { x.to(Device{}); }, "to(cpu) cannot be captured");
  refused([&] { backend_of(kCuda).synchronize(); }, "synchronize() cannot be captured");
  refused([&] { host.to(kCuda); }, "memory of the host cannot be captured");
  refused([&] { Tensor(x).copy_(host); }, "memory of the host cannot be captured");
  refused([&] { transfers_of(kCuda)->allocate_pinned(64); }, "memory of the host");
  refused([&] { backend_of(kCuda).record_event()->wait_on_host(); }, "wait_on_host()");
  refused([&] { optim::GradScaler().scale(x.to(DType::kFloat16)); }, "of 16 bits cannot be");
  refused(
      [&] {
        const RandomScope scope(3, 4);
        dropout(x, 0.5, true);
      },
      "open the RandomScope around");
  refused(
      [&] {
        rand({4});
        throw Error("on purpose");
      },
      "");
  const Tensor p = ones({8}, {.device = kCuda}).requires_grad_();
  p.set_grad(ones({8}, {.device = kCuda}));
  refused([&] { optim::clip_grad_norm_({p}, 1.0); }, "cannot be captured: it waits");
  refused([&] { optim::RMSprop({p}).step(); }, "RMSprop's step cannot be captured");
  refused([&] { optim::Adagrad({p}).step(); }, "Adagrad's step cannot be captured");
  refused([&] { optim::Adam({p}).step(); }, "first step cannot be captured");
  refused([&] { optim::SGD({p}, {.momentum = 0.9}).step(); }, "first step cannot be captured");
}

TEST(CudaGraph, NumbersDrawnOnTheHostWouldBeFrozen) {
  cuda::CUDAGraph graph;
  graph.capture_begin();
  rand({4});
  EXPECT_ERROR(graph.capture_end(), "of 1 random ops 1 drew");
}

TEST(CudaGraph, ErrorsOfTheScopesEndComeWithTheReplay) {
  const Tensor x = ones({8}, {.device = kCuda});
  cuda::CUDAGraph graph;
  {
    const cuda::GraphCapture capture(graph);
    EXPECT_THROW(x.sum().item(), Error);
  }
  EXPECT_ERROR(graph.replay(), "item() cannot be captured");
  EXPECT_ERROR(cuda::CUDAGraph().capture_begin(Device{}), "need a CUDA device, got cpu");
}

TEST(CudaGraph, OtherThreadsLeaveTheDeviceAlone) {
  Tensor x = ones({8}, {.device = kCuda});
  cuda::CUDAGraph graph;
  graph.capture_begin();
  const Tensor y = x * 2.0;
  std::string text;
  Tensor other = ones({8}, {.device = kCuda});
  std::thread([&] {
    text = text_of_error([&] { x * 3.0; });
    other = Tensor();
  }).join();
  EXPECT_NE(text.find("another thread captures cuda:0"), std::string::npos) << text;
  graph.capture_end();
  graph.replay();
  EXPECT_EQ(y.to_vector(), std::vector<double>(8, 2.0));
}

TEST(CudaGraph, ReplaysNoticeThatTheOptimizerHasChanged) {
  manual_seed(1);
  cuda::CUDAGraph graph;
  {
    Training training([](const std::vector<Tensor>& parameters) {
      return std::make_unique<optim::Adam>(parameters);
    });
    training.prepare(0);
    training.step();
    graph.capture_begin();
    training.step();
    graph.capture_end();
    graph.replay();
    EXPECT_EQ(training.optimizer->states()[0].steps, 2);
    training.optimizer->load_states(training.optimizer->states());
    EXPECT_ERROR(graph.replay(), "has been moved or loaded since the capture");
    EXPECT_EQ(training.optimizer->states()[0].steps, 2);
  }
  EXPECT_ERROR(graph.replay(), "an optimizer of the captured step is gone");
}

// They reach no memory, and the next wait throws.
TEST(CudaGraph, TargetsOutOfBoundsGiveNaN) {
  const Tensor x = ones({2, kClasses}, {.device = kCuda}).requires_grad_();
  const Tensor y = zeros({2}, {DType::kInt64, kCuda});
  cuda::CUDAGraph graph;
  graph.capture_begin();
  const Tensor loss = cross_entropy(x, y, Reduction::kNone);
  sum(loss).backward();
  const Tensor gradient = x.grad();
  graph.capture_end();
  for (const int64_t wrong : {kClasses, int64_t{-1}, int64_t{1} << 40}) {
    y.narrow(0, 1, 1).fill_(wrong);
    graph.replay();
    EXPECT_ERROR(backend_of(kCuda).synchronize(),
                 "Target " + std::to_string(wrong) + " is out of bounds");
    EXPECT_FALSE(std::isnan(loss.to_vector()[0]));
    EXPECT_TRUE(std::isnan(loss.to_vector()[1])) << wrong;
    EXPECT_FALSE(std::isnan(gradient.to_vector()[0]));
    EXPECT_TRUE(std::isnan(gradient.to_vector()[kClasses])) << wrong;
  }
}

TEST(CudaGraph, OutOfMemorySaysWhatGraphsHold) {
  const Tensor x = ones({1 << 20}, {.device = kCuda});
  cuda::CUDAGraph graph;
  graph.capture_begin();
  const Tensor y = x * 2.0;
  EXPECT_ERROR(empty({int64_t{1} << 40}, {.device = kCuda}), "CUDA graphs 4.0");
  graph.reset();
  EXPECT_EQ((x * 2.0).sum().item(), 2.0 * (1 << 20));
}

}  // namespace
}  // namespace lockstep
