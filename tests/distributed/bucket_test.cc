#include "lockstep/distributed/bucket.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/ops/ops.h"

#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

std::vector<std::vector<std::string>> layout_of(const nn::Module& net,
                                                DataParallelOptions options) {
  const DataParallel replicas(net, make_single_group(), options);
  std::vector<std::vector<std::string>> names;
  for (const auto& bucket : replicas.buckets()) {
    names.emplace_back();
    for (const auto& entry : bucket->entries()) names.back().push_back(entry.name);
  }
  return names;
}

using Layout = std::vector<std::vector<std::string>>;

TEST(Buckets, FillInReverseRegistrationOrderAndCloseWhenFull) {
  // Bytes: fc3 12 + 84, fc2 28 + 224, fc1 32 + 160.
  const Mlp net;
  EXPECT_EQ(
      layout_of(net, {}),
      Layout({{"fc3.bias", "fc3.weight", "fc2.bias", "fc2.weight", "fc1.bias", "fc1.weight"}}));
  EXPECT_EQ(
      layout_of(net, {.first_bucket_bytes = 12, .bucket_bytes = 300}),
      Layout({{"fc3.bias"}, {"fc3.weight", "fc2.bias", "fc2.weight"}, {"fc1.bias", "fc1.weight"}}));
  EXPECT_EQ(
      layout_of(net, {.first_bucket_bytes = 13, .bucket_bytes = 252}),
      Layout({{"fc3.bias", "fc3.weight"}, {"fc2.bias", "fc2.weight"}, {"fc1.bias", "fc1.weight"}}));
  EXPECT_EQ(layout_of(net, {.first_bucket_bytes = 1, .bucket_bytes = 1}).size(), 6u);
}

// What leaves after backward's last gradient is waited for, so it is little.
TEST(Buckets, CloseWithHalfOfWhatIsLeft) {
  const auto sizes = [](DataParallelOptions options) {
    NamedTensors parameters;
    for (int i = 0; i < 10; ++i) {
      parameters.emplace_back("p" + std::to_string(i), zeros({100}, {.requires_grad = true}));
    }
    const DataParallel replicas(parameters, {}, make_single_group(), options);
    std::vector<size_t> counts;
    for (const Bucket* bucket : replicas.buckets()) counts.push_back(bucket->entries().size());
    return counts;
  };
  using Counts = std::vector<size_t>;
  EXPECT_EQ(sizes({.first_bucket_bytes = 400}), (Counts{1, 5, 2, 1, 1}));
  EXPECT_EQ(sizes({.first_bucket_bytes = 800}), (Counts{2, 4, 2, 2}));
  EXPECT_EQ(sizes({.first_bucket_bytes = 400, .bucket_bytes = 1200}), (Counts{1, 3, 3, 2, 1}));
  EXPECT_EQ(sizes({.first_bucket_bytes = 4000}), (Counts{10}));
}

TEST(Buckets, HoldOneDtypeEachAndNoneThatIsFrozen) {
  MixedNet net;
  EXPECT_EQ(layout_of(net, {}), Layout({{"fc3.bias", "fc3.weight", "fc1.bias", "fc1.weight"},
                                        {"fc2.bias", "fc2.weight"}}));
  net.fc1.bias.requires_grad_(false);
  EXPECT_EQ(layout_of(net, {}),
            Layout({{"fc3.bias", "fc3.weight", "fc1.weight"}, {"fc2.bias", "fc2.weight"}}));
}

// The last bucket tells how the step went, so it must be one that is always reduced.
TEST(Buckets, TheLastOneIsNeverIdle) {
  Mlp net;
  net.fc1.requires_grad_(false);
  EXPECT_EQ(layout_of(net, {.first_bucket_bytes = 1, .bucket_bytes = 1}),
            Layout({{"fc3.bias"}, {"fc3.weight"}, {"fc2.bias"}, {"fc2.weight"}}));
  DataParallel replicas(net, make_single_group(), {.first_bucket_bytes = 1, .bucket_bytes = 1});
  net.fc1.requires_grad_();
  replicas.backward(sum(net.fc1.bias) + sum(net.fc2.bias));
  Layout names;
  for (const Bucket* bucket : replicas.buckets()) names.push_back({bucket->entries()[0].name});
  EXPECT_EQ(names, Layout({{"fc3.bias"},
                           {"fc3.weight"},
                           {"fc2.bias"},
                           {"fc1.bias"},
                           {"fc1.weight"},
                           {"fc2.weight"}}));
}

TEST(Buckets, MoveParametersIntoFlatMemoryAndKeepThem) {
  Mlp net;
  net.fc1.weight.set_data(net.fc1.weight.detach().t().contiguous().t());
  std::vector<std::vector<double>> before;
  for (const Tensor& p : net.parameters()) before.push_back(p.to_vector());
  const Tensor weight = net.fc1.weight;
  {
    const DataParallel replicas(net, make_single_group());
    const Buffer flat = replicas.buckets()[0]->parameter_buffer();
    const auto* begin = static_cast<const char*>(flat.data);
    const char* previous = begin - 1;
    for (const auto& entry : replicas.buckets()[0]->entries()) {
      const auto* at = static_cast<const char*>(entry.parameter.data_ptr());
      EXPECT_GT(at, previous) << "in order";
      EXPECT_LE(at + entry.parameter.numel() * 4, begin + flat.bytes());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 64, 0u) << "a cache line of its own";
      EXPECT_TRUE(entry.parameter.is_contiguous());
      previous = at;
    }
    EXPECT_TRUE(weight.is_same(net.fc1.weight));
  }
  size_t i = 0;
  for (const Tensor& p : net.parameters()) EXPECT_EQ(p.to_vector(), before[i++]);
}

// No gradient tensor is ever replaced: the memory is the same in every step.
TEST(Buckets, GradientsAreViewsOfTheSameMemoryInEveryStep) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, make_single_group());
  const Samples all = make_samples(4, Mlp::kInput, DType::kFloat32, 0);
  std::vector<void*> places;
  for (int64_t index = 0; index < 3; ++index) {
    net->zero_grad();
    auto step = make_step(all, 0, 1, 2, index);
    run_step(replicas, *net, step);
    size_t i = 0;
    for (const Tensor& p : net->parameters()) {
      if (index == 0) places.push_back(p.grad().data_ptr());
      EXPECT_EQ(p.grad().data_ptr(), places[i++]);
    }
  }
}

// What one rank puts in, all get out: counts of contributors, the poison flag, the extras.
TEST(Bucket, TrailerTravelsWithTheGradients) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    run_thread_ranks(3, [dtype](ProcessGroup& group) {
      const auto a = zeros({2}, {dtype}).requires_grad_();
      const auto b = zeros({3}, {dtype}).requires_grad_();
      const auto c = zeros({1}, {dtype}).requires_grad_();
      Bucket bucket(group, {{"a", a}, {"b", b}, {"c", c}}, 4);
      const auto r = static_cast<double>(group.rank());
      for (const bool poisoned : {false, true}) {
        bucket.begin();
        EXPECT_FALSE(bucket.all_ready());
        sum(a * (r + 1)).backward();
        EXPECT_FALSE(bucket.mark_ready(0));
        EXPECT_FALSE(bucket.mark_ready(0)) << "twice is once";
        if (group.rank() == 1) sum(b * 5.0).backward();  // on one rank only; c on none
        EXPECT_FALSE(bucket.mark_ready(1));
        EXPECT_TRUE(bucket.mark_ready(2));
        const double extras[] = {r, 0.5, 0.0, -r};
        bucket.launch(group, poisoned && group.rank() == 2, extras);
        bucket.end_reduction();
        const auto outcome = bucket.finish();
        EXPECT_EQ(outcome.poisoned, poisoned);
        EXPECT_EQ(outcome.extras[0], 3.0);
        EXPECT_EQ(outcome.extras[1], 1.5);
        EXPECT_EQ(outcome.extras[3], -3.0);
        EXPECT_LE(outcome.times.launched, outcome.times.finished);
        if (!poisoned) {
          EXPECT_EQ(a.grad().to_vector(), std::vector<double>({6, 6}));
          EXPECT_EQ(b.grad().to_vector(), std::vector<double>({5, 5, 5}));
          EXPECT_FALSE(c.grad().defined());
        }
        bucket.discard();
        for (const Tensor& p : {a, b, c}) EXPECT_FALSE(p.grad().defined());
      }
    });
  }
}

// A slot that already holds a sum is set aside, and only what came since travels.
TEST(Bucket, ReducedGradientsAreNotReducedAgain) {
  run_thread_ranks(2, [](ProcessGroup& group) {
    const auto a = zeros({2}).requires_grad_();
    const auto b = zeros({2}).requires_grad_();
    Bucket bucket(group, {{"a", a}, {"b", b}});
    const auto reduce = [&] {
      bucket.begin();
      bucket.launch(group, false);
      bucket.end_reduction();
      bucket.finish();
      bucket.settle();
    };
    sum(a).backward();
    sum(b * 10.0).backward();
    reduce();
    EXPECT_EQ(a.grad().to_vector(), std::vector<double>({2, 2}));
    if (group.rank() == 0) sum(a).backward();
    reduce();  // b got nothing new
    EXPECT_EQ(a.grad().to_vector(), std::vector<double>({3, 3}));
    EXPECT_EQ(b.grad().to_vector(), std::vector<double>({20, 20}));
    a.set_grad({});
    sum(b).backward();
    reduce();
    EXPECT_FALSE(a.grad().defined());
    EXPECT_EQ(b.grad().to_vector(), std::vector<double>({22, 22}));
  });
}

TEST(Bucket, MemoryOutlivesTheBucketThroughTheParameters) {
  const auto p = ones({3}).requires_grad_();
  {
    const auto group = make_single_group();
    const Bucket bucket(*group, {{"p", p}});
  }
  EXPECT_EQ(p.to_vector(), std::vector<double>({1, 1, 1}));
  sum(p * 2.0).backward();
  EXPECT_EQ(p.grad().to_vector(), std::vector<double>({2, 2, 2}));
}

}  // namespace
}  // namespace lockstep::distributed::testing
