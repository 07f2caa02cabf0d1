// Captured steps of DataParallel: the bits, reports and exceptions of the same steps issued one by
// one.
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/compression.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/cuda_graph.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/optim.h"

#include "errors.h"

namespace lockstep::distributed {
namespace {

const Device kCuda{DeviceType::kCuda, 0};
constexpr int64_t kBatch = 6, kFeatures = 5, kClasses = 4;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Net : nn::Module {
  nn::Linear first{kFeatures, 8}, last{8, kClasses};
  nn::BatchNorm1d norm{8};
  Net() { register_modules({{"first", first}, {"norm", norm}, {"last", last}}); }
  Tensor forward(const Tensor& x) { return last(dropout(relu(norm(first(x))), 0.3, true)); }
};

// One rank's training; step() is what is captured.
struct Training {
  Net net;
  std::unique_ptr<DataParallel> replicas;
  std::unique_ptr<optim::Adam> adam;
  data::Step now;  // static

  explicit Training(DataParallelOptions options, int micros = 1, int64_t batch = kBatch) {
    net.to(kCuda);
    options.first_bucket_bytes = options.bucket_bytes = 64;  // several buckets
    replicas = std::make_unique<DataParallel>(net, make_single_group(), std::move(options));
    adam = std::make_unique<optim::Adam>(net.parameters());
    now = make_step(micros, batch);
  }
  static data::Step make_step(int micros, int64_t batch) {
    data::Step step;
    for (int k = 0; k < micros; ++k) {
      step.micros.push_back({zeros({batch, kFeatures}, {.device = kCuda}),
                             zeros({batch}, {DType::kInt64, kCuda}), k, batch});
      step.global_samples += batch;
    }
    return step;
  }
  void step(data::Step& step) {
    adam->zero_grad();
    for (auto& micro : replicas->accumulate(step)) {
      replicas->backward(cross_entropy(net.forward(micro.x), micro.y), micro.size());
    }
    adam->step();
  }
  // The data of step `index`, and its learning rate; `poison` in the last micro-batch.
  void prepare(data::Step& step, int64_t index, double poison = 0.0) const {
    step.index = index;
    for (auto& micro : step.micros) {
      const int64_t n = micro.samples;
      micro.x.copy_(sin(arange(0, n * kFeatures, 1, {DType::kFloat32}).view({n, kFeatures}) *
                        (0.7 * static_cast<double>(index + 1) + static_cast<double>(micro.index))));
      std::vector<int64_t> classes;
      for (int64_t j = 0; j < n; ++j) classes.push_back((index + j + micro.index) % kClasses);
      micro.y.copy_(from_span<int64_t>(classes, {n}));
    }
    if (poison != 0.0) step.micros.back().x.narrow(0, 0, 1).fill_(poison);
    for (const auto& rate : adam->rates()) *rate.lr = 0.05 / static_cast<double>(index + 1);
  }
  void append_to(std::vector<double>& all) const {
    for (const auto& list : {net.named_parameters(), net.named_buffers()}) {
      for (const auto& [name, t] : list) {
        for (const double value : t.to_vector()) all.push_back(value);
      }
    }
    for (const auto& state : adam->states()) {
      all.push_back(static_cast<double>(state.steps));
      for (const auto& [name, t] : state.buffers) {
        if (!t.defined()) continue;
        for (const double value : t.to_vector()) all.push_back(value);
      }
    }
    all.push_back(static_cast<double>(replicas->skipped_steps()));
    all.push_back(replicas->loss_scale());
  }
};

void append_report(const data::StepReport& report, std::vector<double>& all) {
  all.push_back(report.loss);
  all.push_back(report.has_loss);
  all.push_back(report.skipped);
  all.push_back(report.loss_scale.value_or(-1.0));
  all.push_back(static_cast<double>(report.models.size()));
}

// In bits, so that a NaN is one.
void expect_same(const std::vector<double>& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const bool same = got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]));
    EXPECT_TRUE(same) << "value " << i << ": " << got[i] << " instead of " << expected[i];
  }
}

struct Course {
  DataParallelOptions options = {};
  int micros = 1;
  int64_t poisoned = -1;  // step
  double poison = kNaN;
  std::string error = {};  // of the poisoned step
};

// Reports and all that is left after 8 steps, the later ones replayed or not. One in between is of
// another shape.
std::vector<double> after(const Course& course, bool captured) {
  manual_seed(5);
  Training training(course.options, course.micros);
  cuda::CUDAGraph graph;
  std::vector<double> all;
  for (int64_t i = 0; i < 8; ++i) {
    data::Step small = Training::make_step(1, 3);
    data::Step& step = i == 5 ? small : training.now;
    if (captured && i == 2) {
      training.prepare(step, 77);
      cuda::GraphCapture capture(graph);
      training.step(step);
      capture.end();
    }
    training.prepare(step, i, i == course.poisoned ? course.poison : 0.0);
    const bool replays = captured && i >= 2 && i != 5;
    if (!replays) step.report = {};
    std::vector<double> before, left;
    if (i == course.poisoned) {
      for (const Tensor& p : training.net.parameters()) before.push_back(p.sum().item());
    }
    const std::string error =
        text_of_error([&] { replays ? graph.replay() : training.step(step); });
    if (i == course.poisoned && !course.error.empty()) {
      EXPECT_NE(error.find(course.error), std::string::npos) << error;
    } else {
      EXPECT_EQ(error, "no error");
      append_report(step.report, all);
    }
    if (i == course.poisoned) {
      for (const Tensor& p : training.net.parameters()) {
        left.push_back(p.sum().item());
        EXPECT_FALSE(p.grad().defined());
      }
      EXPECT_EQ(left, before);
      // What the NaN has made of the running statistics.
      const autograd::NoGrad no_grad;
      for (const auto& [name, t] : training.net.named_buffers()) {
        if (t.dtype() == DType::kFloat32) t.fill_(0.5);
      }
    } else {
      EXPECT_TRUE(training.net.parameters()[0].grad().defined());
      training.append_to(all);
    }
  }
  return all;
}

void expect_bits_of_eager(const Course& course) {
  expect_same(after(course, true), after(course, false));
}

TEST(CapturedStep, GivesTheBitsOfSteps) {
  expect_bits_of_eager({});
  expect_bits_of_eager({.micros = 3});
  expect_bits_of_eager({.options = {.non_finite = NonFinite::kIgnore}, .micros = 2});
  expect_bits_of_eager({.options = {.precision = DType::kBFloat16}, .micros = 2});
}

TEST(CapturedStep, ThrowsForNaNAndLeavesTheWeights) {
  for (const int micros : {1, 2}) {
    expect_bits_of_eager({.micros = micros,
                          .poisoned = 4,
                          .error = "is not finite on rank 0 (nan or inf on cuda:0), gradient of"});
  }
  expect_bits_of_eager({.poisoned = 6, .error = "in step 6. All gradients"});
}

TEST(CapturedStep, SkipsNaN) {
  const Course course{.options = {.non_finite = NonFinite::kSkip}, .micros = 2, .poisoned = 4};
  expect_bits_of_eager(course);
  const std::vector<double> all = after(course, true);
  EXPECT_EQ(all[all.size() - 2], 1.0);  // skipped_steps()
}

TEST(CapturedStep, ScalesLosses) {
  Course course{.options = {.precision = DType::kFloat16}, .micros = 2, .poisoned = 4};
  course.options.loss_scale = {.init_scale = 1024.0, .growth_interval = 2};
  expect_bits_of_eager(course);
  EXPECT_NE(after(course, true).back(), 1024.0);
}

TEST(CapturedStep, WrongTargetsThrow) {
  for (const NonFinite non_finite : {NonFinite::kThrow, NonFinite::kSkip}) {
    std::vector<std::string> texts;
    for (const bool captured : {true, false}) {
      manual_seed(5);
      Training training({.non_finite = non_finite});
      cuda::CUDAGraph graph;
      for (int64_t i = 0; i < 3; ++i) {
        training.prepare(training.now, i);
        training.step(training.now);
      }
      if (captured) {
        cuda::GraphCapture capture(graph);
        training.step(training.now);
        capture.end();
      }
      training.now.micros[0].y.narrow(0, 1, 1).fill_(kClasses);
      std::vector<double> before, left;
      training.append_to(before);
      texts.push_back(
          text_of_error([&] { captured ? graph.replay() : training.step(training.now); }));
      training.append_to(left);
      const size_t weights = 5 * 8 + 8 + 8 * 4 + 4;
      before.resize(weights);
      left.resize(weights);
      EXPECT_EQ(left, before);
    }
    EXPECT_EQ(texts[0], texts[1]);
    EXPECT_NE(texts[0].find("Target 4 is out of bounds"), std::string::npos) << texts[0];
  }
}

// The index of the replayed step says which random numbers it draws.
TEST(CapturedStep, DrawsTheNumbersOfItsStep) {
  Training training({});
  for (int64_t i = 0; i < 2; ++i) training.step(training.now);
  cuda::CUDAGraph graph;
  Tensor drawn;
  const auto draw = [&](data::Step& step) {
    training.adam->zero_grad();
    for (auto& micro : training.replicas->accumulate(step)) {
      drawn = empty({16}, {.device = kCuda}).uniform_();
      training.replicas->backward(cross_entropy(training.net.forward(micro.x), micro.y));
    }
  };
  std::vector<double> expected[2];
  for (const int64_t index : {0, 1}) {
    training.now.index = index;
    draw(training.now);
    expected[index] = drawn.to_vector();
  }
  EXPECT_NE(expected[0], expected[1]);
  {
    cuda::GraphCapture capture(graph);
    draw(training.now);
    capture.end();
  }
  for (const int64_t index : {1, 0}) {
    training.now.index = index;
    graph.replay();
    EXPECT_EQ(drawn.to_vector(), expected[index]);
  }
}

// A loop without accumulate().
TEST(CapturedStep, OfBackwardAlone) {
  std::vector<double> results[2];
  for (const bool captured : {false, true}) {
    manual_seed(3);
    Training training({});
    const auto step = [&] {
      training.adam->zero_grad();
      const auto& micro = training.now.micros[0];
      training.replicas->backward(cross_entropy(training.net.forward(micro.x), micro.y));
      training.adam->step();
    };
    cuda::CUDAGraph graph;
    for (int64_t i = 0; i < 5; ++i) {
      training.prepare(training.now, i);
      if (captured && i == 2) {
        cuda::GraphCapture capture(graph);
        step();
        capture.end();
      }
      captured&& i >= 2 ? graph.replay() : step();
    }
    training.append_to(results[captured]);
  }
  expect_same(results[1], results[0]);
}

void refuse(Training& training, const std::function<void()>& step, const std::string& text) {
  SCOPED_TRACE(text);
  training.step(training.now);
  cuda::CUDAGraph graph;
  EXPECT_ERROR(
      {
        const cuda::GraphCapture capture(graph);
        step();
      },
      text);
  training.step(training.now);  // works
}

TEST(CapturedStep, SaysWhatCannotBeCaptured) {
  const auto refuse_options = [](const DataParallelOptions& options, const std::string& text) {
    Training training(options);
    refuse(
        training, [&] { training.step(training.now); }, text);
  };
  refuse_options({.reduction = {ReductionMode::kBitwise, 1}}, "bitwise cannot be captured");
  refuse_options({.compression = bf16_compression()}, "with compression cannot be captured");
  Training training({});
  refuse(
      training,
      [&] {
        for (auto& micro : training.replicas->accumulate(training.now)) {
          training.replicas->backward(training.net.forward(micro.x).sum());
        }
      },
      "call the optimizer's zero_grad() in the captured step");
  refuse(
      training, [&] { const auto local = training.replicas->no_sync(); },
      "no_sync() cannot be captured");
  refuse(
      training, [&] { training.replicas->join(); }, "join() cannot be captured");
  refuse(
      training,
      [&] {
        training.adam->zero_grad();
        for (const Tensor& p : training.net.last.parameters()) p.requires_grad_(false);
        training.step(training.now);
      },
      "frozen or unfrozen cannot be captured");
  refuse(
      training,
      [&] {
        training.adam->zero_grad();
        for (auto& micro : training.replicas->accumulate(training.now)) {
          rand({4});
          training.replicas->backward(training.net.forward(micro.x).sum());
        }
        training.adam->step();
        throw Error(graph_in_capture()->why_invalid());
      },
      "drew their numbers on the host");
}

TEST(CapturedStep, SeveralRanksCannotBeCaptured) {
  std::atomic<int> refused = 0;
  auto groups = make_threads_groups(2);
  std::vector<std::thread> ranks;
  for (auto& group : groups) {
    ranks.emplace_back([&refused, group] {
      nn::Linear net(3, 1);
      DataParallel replicas(net, group);
      data::Step step;
      step.global_samples = 4;
      step.micros.push_back({ones({2, 3}), ones({2, 1}), group->rank(), 2});
      if (group->rank() == 0) {
        cuda::CUDAGraph graph;
        try {
          const cuda::GraphCapture capture(graph);
          replicas.accumulate(step);
        } catch (const Error& error) {
          const std::string text = error.what();
          EXPECT_NE(text.find("over several ranks cannot be captured"), std::string::npos) << text;
          ++refused;
        }
      }
      for (auto& micro : replicas.accumulate(step)) replicas.backward(net(micro.x).sum());
    });
  }
  for (auto& rank : ranks) rank.join();
  EXPECT_EQ(refused, 1);
}

TEST(CapturedStep, ReplaysNoticeWhatHasChanged) {
  cuda::CUDAGraph graph;
  {
    Training training({});
    training.step(training.now);
    {
      cuda::GraphCapture capture(graph);
      training.step(training.now);
      capture.end();
    }
    graph.replay();
    EXPECT_TRUE(training.now.report.has_loss);
    training.net.last.bias.requires_grad_(false);
    EXPECT_ERROR(graph.replay(), "parameter last.bias has been frozen since the capture");
    training.net.last.bias.requires_grad_(true);
    const Tensor x = training.now.micros[0].x;
    training.now.micros[0].x = x.clone();
    EXPECT_ERROR(graph.replay(), "data::Step has other tensors");
    training.now.micros[0].x = x;
    graph.replay();
    training.replicas = nullptr;
    EXPECT_ERROR(graph.replay(), "the captured step's DataParallel is gone");
  }
}

// What the capture leaves of gradients nobody has computed.
TEST(CapturedStep, GradientsOfACaptureAreNotAdded) {
  std::vector<double> results[2];
  for (const bool captured : {false, true}) {
    manual_seed(3);
    Training training({});
    training.step(training.now);
    training.adam->zero_grad();
    cuda::CUDAGraph graph;
    if (captured) {
      cuda::GraphCapture capture(graph);
      training.step(training.now);
      capture.end();
    }
    for (auto& micro : training.replicas->accumulate(training.now)) {
      training.replicas->backward(cross_entropy(training.net.forward(micro.x), micro.y));
    }
    training.adam->step();
    training.append_to(results[captured]);
  }
  expect_same(results[1], results[0]);
}

// Two models in a step: where the first one's gradients are NaN, it throws, and the second one's
// weights stay, too.
TEST(CapturedStep, OfTwoModels) {
  Training one({}), two({});
  for (Training* each : {&one, &two}) each->prepare(each->now, 1);
  const auto step = [](Training& training, Training& other) {
    training.step(training.now);
    other.step(other.now);
  };
  for (int i = 0; i < 2; ++i) step(one, two);
  cuda::CUDAGraph graph;
  {
    cuda::GraphCapture capture(graph);
    step(one, two);
    capture.end();
  }
  const auto weight = [&] { return two.net.last.weight.to_vector(); };
  const auto before = weight();
  graph.replay();
  const auto after_one = weight();
  EXPECT_NE(after_one, before);
  one.now.micros[0].x.fill_(kNaN);
  EXPECT_ERROR(graph.replay(), "is not finite");
  EXPECT_EQ(weight(), after_one);
  EXPECT_EQ(two.adam->states()[0].steps, 3);
  EXPECT_EQ(one.adam->states()[0].steps, 3);

  Training skips({.non_finite = NonFinite::kSkip});
  refuse(
      skips, [&] { step(two, skips); }, "of which one may be skipped, cannot be captured");
}

}  // namespace
}  // namespace lockstep::distributed
