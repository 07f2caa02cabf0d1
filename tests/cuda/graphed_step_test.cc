// Jobs with --cuda-graph: the reports, weights and exceptions of the same jobs without.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/capture.h"
#include "lockstep/lockstep.h"

namespace lockstep::launch {
namespace {

const Device kCuda{DeviceType::kCuda, 0};
constexpr int64_t kSamples = 64, kFeatures = 5, kClasses = 3;

struct Net : nn::Module {
  nn::Linear first{kFeatures, 8}, last{8, kClasses};
  nn::BatchNorm1d norm{8};
  Net() { register_modules({{"first", first}, {"norm", norm}, {"last", last}}); }
  Tensor forward(const Tensor& x) { return last(dropout(relu(norm(first(x))), 0.3, true)); }
};

struct Course {
  bool graph = false;
  int64_t poisoned = -1;   // step, whose loss is made NaN by its data
  int64_t smaller = -1;    // step, of half the samples
  int64_t reset = -1;      // before this step
  int64_t bodies = 0;      // runs of the body, an answer
  std::string error = {};  // likewise
};

data::TensorDataset points() {
  const Tensor x =
      sin(arange(0, kSamples * kFeatures, 1, {DType::kFloat32}).view({kSamples, kFeatures}) * 1.3);
  std::vector<int64_t> classes;
  for (int64_t i = 0; i < kSamples; ++i) classes.push_back(i * i % kClasses);
  return {x, from_span<int64_t>(classes, {kSamples})};
}

void halve(data::Step& step) {
  for (auto& micro : step.micros) {
    micro.samples /= 2;
    micro.x = micro.x.narrow(0, 0, micro.samples).clone();
    micro.y = micro.y.narrow(0, 0, micro.samples).clone();
  }
  step.global_samples /= 2;
}

// The report's numbers and the weights after each step.
std::vector<double> after(Course& course) {
  CommandLine line;
  line.options.device = "cuda";
  line.options.global_batch = 16;
  line.options.accumulate = 2;
  line.options.epochs = 3;
  line.options.cuda_graph = course.graph;
  manual_seed(7);
  Job job(line, distributed::make_single_group());
  Net net;
  net.to(job.device());
  distributed::DataParallel replicas(net, job.group());
  optim::Adam adam(net.parameters(), {.lr = 0.1});
  optim::LambdaLR schedule(adam, [](int64_t i) { return 1.0 / static_cast<double>(1 + i); });
  GraphedStep train_step(job, [&](data::Step& step) {
    ++course.bodies;
    adam.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(nn::cross_entropy(net.forward(micro.x), micro.y), micro.size());
    }
    adam.step();
  });
  std::vector<double> all;
  const auto note_weights = [&] {
    for (const auto& [name, t] : net.named_parameters()) {
      for (const double value : t.to_vector()) all.push_back(value);
    }
    all.push_back(static_cast<double>(adam.states()[0].steps));
  };
  const auto data = points();
  for (auto& step : job.steps(data)) {
    if (step.index == course.reset) train_step.reset();
    if (step.index == course.smaller) halve(step);
    if (step.index == course.poisoned) {
      note_weights();
      step.micros[1].x.fill_(std::numeric_limits<double>::quiet_NaN());
    }
    try {
      train_step(step);
    } catch (const DistributedError& error) {
      course.error = error.what();
      const size_t count = all.size();
      note_weights();
      const auto at = all.begin() + static_cast<int64_t>(count);
      EXPECT_TRUE(std::equal(at, all.end(), at - (all.end() - at)));
      break;
    }
    schedule.step();
    note_weights();
    EXPECT_TRUE(step.report.has_loss);
    all.push_back(step.report.loss);
  }
  EXPECT_EQ(train_step.is_captured(), course.graph);
  const Report report = job.finish();
  for (const double loss : report.step_losses) all.push_back(loss);
  all.push_back(report.train_loss.value_or(-1.0));
  return all;
}

void expect_same(Course course, int64_t bodies, const std::string& error = {}) {
  course.graph = false;
  const std::vector<double> plain = after(course);
  EXPECT_NE(course.error.find(error), std::string::npos) << course.error;
  const std::string said = course.error;
  course.graph = true;
  course.bodies = 0;
  EXPECT_EQ(after(course), plain);
  EXPECT_EQ(course.error, said);
  EXPECT_EQ(course.bodies, bodies);
}

// 12 steps: three and the capture.
TEST(GraphedStep, KeepsTheBits) { expect_same({}, 4); }

TEST(GraphedStep, OtherShapesRunAsTheyAre) { expect_same({.smaller = 7}, 5); }

TEST(GraphedStep, ResetCapturesAnew) { expect_same({.reset = 6}, 8); }

TEST(GraphedStep, ThrowsForNaNAndLeavesTheWeights) {
  expect_same({.poisoned = 8}, 4, "is not finite on rank 0 (nan or inf on cuda:0)");
  expect_same({.poisoned = 3}, 4, "in step 3. All gradients");
}

TEST(GraphedStep, WhatCannotBeCapturedRunsAsItIs) {
  CommandLine line;
  line.options.device = "cuda";
  line.options.cuda_graph = true;
  Job job(line, distributed::make_single_group());
  const Tensor x = ones({4}, {.device = job.device()});
  std::vector<double> sums;
  GraphedStep train_step(job, [&](data::Step& step) {
    sums.push_back((x * static_cast<double>(step.index)).sum().item());
  });
  for (int64_t i = 0; i < 6; ++i) {
    data::Step step;
    step.index = i;
    train_step(step);
  }
  EXPECT_FALSE(train_step.is_captured());
  EXPECT_EQ(sums, (std::vector<double>{0, 4, 8, 12, 16, 20}));
}

bool fails(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error&) {
    return true;
  }
  return false;
}

// Threads beside the training wait for the end of a capture, and it for theirs.
TEST(GraphedStep, OtherThreadsTakeTurns) {
  std::atomic<bool> done = false, failed = false;
  std::atomic<int> turns = 0;
  std::thread other([&] {
    const Tensor x = ones({64});
    while (!done) {
      const NoCaptures wait;
      failed = failed || fails([&] { x.to(kCuda); });
      ++turns;
    }
  });
  const Tensor x = ones({8}, {.device = kCuda});
  int captures = 0;
  for (; captures < 20 || turns < 20; ++captures) {
    cuda::CUDAGraph graph;
    cuda::GraphCapture capture(graph);
    const Tensor y = x * 2.0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    capture.end();
    graph.replay();
    EXPECT_EQ(y.to_vector()[0], 2.0);
  }
  done = true;
  other.join();
  EXPECT_FALSE(failed);
}

}  // namespace
}  // namespace lockstep::launch
