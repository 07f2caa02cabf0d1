// Communication hooks: compressed gradients, a hook of one's own, parameters averaged now and then.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/bucket.h"
#include "lockstep/distributed/compression.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/periodic_averager.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_cases.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

// Parameters whose gradients are given: the loss is their product with them.
struct Given {
  NamedTensors parameters;

  Given(DType dtype, const std::vector<Dims>& sizes) {
    manual_seed(7);
    for (size_t i = 0; i < sizes.size(); ++i) {
      parameters.emplace_back(std::string("p") + std::to_string(i),
                              zeros(sizes[i], {dtype}).requires_grad_());
    }
  }
  Tensor loss(const std::vector<Tensor>& gradients) const {
    Tensor total;
    for (size_t i = 0; i < gradients.size(); ++i) {
      const Tensor term = sum(parameters[i].second * gradients[i]);
      total = total.defined() ? total + term : term;
    }
    return total;
  }
  std::vector<double> gradient(size_t i) const { return parameters[i].second.grad().to_vector(); }
  void zero_grad() const {
    for (const auto& [name, p] : parameters) p.set_grad({});
  }
  NamedTensors gradients() const {
    NamedTensors all;
    for (const auto& [name, p] : parameters) all.emplace_back(name, p.grad());
    return all;
  }
};

// What `rank` contributes in step `index`; every rank can tell everybody's.
std::vector<Tensor> random_gradients(const Given& given, int rank, int64_t index) {
  const RandomScope scope(static_cast<uint64_t>(index), static_cast<uint64_t>(rank),
                          RandomPurpose::kData);
  std::vector<Tensor> all;
  for (const auto& [name, p] : given.parameters) all.push_back(randn(p.sizes(), {p.dtype()}));
  return all;
}

// The mean over the ranks, in float64, and that of the absolute values.
struct Mean {
  std::vector<double> values, magnitudes;
};
template <typename Gradients>
Mean mean_over_ranks(int size, size_t i, const Gradients& gradients) {
  Mean mean;
  for (int r = 0; r < size; ++r) {
    const auto values = gradients(r)[i].to_vector();
    mean.values.resize(values.size());
    mean.magnitudes.resize(values.size());
    for (size_t e = 0; e < values.size(); ++e) {
      mean.values[e] += values[e] / size;
      mean.magnitudes[e] += std::abs(values[e]) / size;
    }
  }
  return mean;
}

double norm(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> difference;
  for (size_t i = 0; i < a.size(); ++i) difference.push_back(a[i] - b[i]);
  return norm(difference);
}

DataParallelOptions with(MakeReduction compression, size_t bucket_bytes = 0) {
  DataParallelOptions options;
  options.compression = std::move(compression);
  if (bucket_bytes > 0) options.first_bucket_bytes = options.bucket_bytes = bucket_bytes;
  return options;
}

// -- sixteen bits

template <typename Half>
void expect_rounded_means(ProcessGroup& group, const MakeReduction& compression, double unit,
                          double smallest) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const size_t bucket_bytes : {size_t{1}, size_t{1} << 20}) {
      const Given given(dtype, {{37, 29}, {13}, {2, 3, 5}});
      DataParallel replicas(given.parameters, {}, share_of(group), with(compression, bucket_bytes));
      for (int64_t index = 0; index < 2; ++index) {
        given.zero_grad();
        replicas.backward(given.loss(random_gradients(given, group.rank(), index)));
        expect_same_bits(group, given.gradients());
        for (size_t i = 0; i < given.parameters.size(); ++i) {
          const Mean mean = mean_over_ranks(
              group.size(), i, [&](int rank) { return random_gradients(given, rank, index); });
          const auto actual = given.gradient(i);
          for (size_t e = 0; e < actual.size(); ++e) {
            // One rounding of each contribution and one of each node's sum; a little for float32.
            const double bound = (group.size() + 1) * (unit * mean.magnitudes[e] + smallest) +
                                 1e-6 * mean.magnitudes[e];
            ASSERT_NEAR(actual[e], mean.values[e], bound) << "parameter " << i << ", " << e;
            const auto value = static_cast<float>(actual[e]);
            ASSERT_EQ(static_cast<float>(Half(value)), value) << "has not travelled in 16 bits";
          }
        }
      }
    }
  }
}

void bf16_means(ProcessGroup& group) {
  expect_rounded_means<BFloat16>(group, bf16_compression(), 0x1p-8, 0.0);
}
void fp16_means(ProcessGroup& group) {
  expect_rounded_means<Float16>(group, fp16_compression(), 0x1p-11, 0x1p-25);
}

// Numbers that fit are exact; so is everything in the trailer, whatever the hook.
void losses_travel_exactly(ProcessGroup& group) {
  const Samples all = make_samples(5 * group.size() + 1, Mlp::kInput, DType::kFloat32, 0);
  size_t sent = 0;
  const auto loss_with = [&](const MakeReduction& compression) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), with(compression, 100));
    double loss = 0.0;
    sent = 0;
    for (int64_t index = 0; index < 2; ++index) {
      auto step = make_step(all, group.rank(), group.size(), 2, index);
      run_step(replicas, *net, step);
      EXPECT_TRUE(step.report.has_loss);
      loss = step.report.loss;
      for (const auto& all_reduce : step.report.timeline.all_reduces) sent += all_reduce.bytes;
    }
    expect_same_bits(group, gradients_of(*net));
    return loss;
  };
  const double plain = loss_with({});
  const size_t all_bytes = sent;
  EXPECT_GT(plain, 0.5);
  EXPECT_EQ(loss_with(bf16_compression()), plain);
  if (group.size() > 1) {
    EXPECT_LT(static_cast<double>(sent), 0.7 * static_cast<double>(all_bytes));  // with trailers
  }
  EXPECT_EQ(loss_with(fp16_compression()), plain);
  EXPECT_EQ(loss_with(powersgd({.rank = 1, .start_iteration = 1, .min_compression_rate = 0.0})),
            plain);
}

void fp16_overflow_is_loud(ProcessGroup& group) {
  const auto large = [&](const Given& given) {
    auto gradients = random_gradients(given, group.rank(), 0);
    if (group.rank() == group.size() - 1) gradients[1].data<float>()[2] = 1e7f;
    return given.loss(gradients);
  };
  const std::vector<Dims> sizes{{4, 3}, {5}};
  {
    const Given given(DType::kFloat32, sizes);
    DataParallel replicas(given.parameters, {}, share_of(group), with(fp16_compression()));
    try {
      replicas.backward(large(given));
      ADD_FAILURE() << "no error on rank " << group.rank();
    } catch (const DistributedError& error) {
      for (const char* part : {"parameter p1", "bucket 0", "float16", "element 2"}) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
    for (const auto& [name, p] : given.parameters) EXPECT_FALSE(p.grad().defined());
    replicas.backward(given.loss(random_gradients(given, group.rank(), 1)));  // none the worse
    const Mean mean = mean_over_ranks(group.size(), 1,
                                      [&](int rank) { return random_gradients(given, rank, 1); });
    EXPECT_LT(distance(given.gradient(1), mean.values), 0.02 * norm(mean.magnitudes));
  }
  {
    const Given given(DType::kFloat32, sizes);
    auto options = with(fp16_compression());
    options.non_finite = NonFinite::kSkip;
    DataParallel replicas(given.parameters, {}, share_of(group), options);
    replicas.backward(large(given));
    EXPECT_EQ(replicas.skipped_steps(), 1);
    for (const auto& [name, p] : given.parameters) EXPECT_FALSE(p.grad().defined());
  }
  {
    const Given given(DType::kFloat32, sizes);
    DataParallel replicas(given.parameters, {}, share_of(group), with(bf16_compression()));
    replicas.backward(large(given));
    EXPECT_NEAR(given.gradient(1)[2] * group.size(), 1e7, 1e5);
  }
}

void compression_is_refused_in_mode_bitwise(ProcessGroup& group) {
  const Given given(DType::kFloat32, {{4, 3}});
  auto options = with(bf16_compression());
  options.reduction = ReductionMode::kBitwise;
  try {
    const DataParallel replicas(given.parameters, {}, share_of(group), options);
    ADD_FAILURE() << "was accepted";
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("bitwise"), std::string::npos) << error.what();
  }
}

// -- PowerSGD

// As many columns as the matrix has rows: nothing is lost.
void powersgd_of_full_rank(ProcessGroup& group) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Given given(dtype, {{6, 6}, {5, 3, 2, 2}, {7}});
    const Given exact(dtype, {{6, 6}, {5, 3, 2, 2}, {7}});
    DataParallel replicas(
        given.parameters, {}, share_of(group),
        with(powersgd({.rank = 6, .start_iteration = 0, .min_compression_rate = 0.0}), 100));
    DataParallel plain(exact.parameters, {}, share_of(group));
    for (int64_t index = 0; index < 3; ++index) {
      given.zero_grad();
      exact.zero_grad();
      replicas.backward(given.loss(random_gradients(given, group.rank(), index)));
      plain.backward(exact.loss(random_gradients(exact, group.rank(), index)));
      expect_same_bits(group, given.gradients());
      const double tolerance = dtype == DType::kFloat64 ? 1e-12 : 1e-5;
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_LE(distance(given.gradient(i), exact.gradient(i)),
                  tolerance * norm(exact.gradient(i)));
      }
      EXPECT_EQ(given.gradient(2), exact.gradient(2));  // a vector is not compressed
    }
  }
}

// A sum of rank one comes out exactly, though there are three columns for it; nothing stays behind.
// One has columns that are multiples of each other to the last bit.
void powersgd_of_a_rank_one_gradient(ProcessGroup& group) {
  const Given given(DType::kFloat32, {{16, 9}});
  DataParallel replicas(
      given.parameters, {}, share_of(group),
      with(powersgd({.rank = 3, .start_iteration = 0, .min_compression_rate = 0.0})));
  for (int64_t index = 0; index < 4; ++index) {
    const RandomScope scope(static_cast<uint64_t>(index), 0, RandomPurpose::kData);
    Tensor common = matmul(randn({16, 1}), randn({1, 9}));
    if (index == 0) {
      common = zeros({16, 9});
      for (int i = 0; i < 16; ++i) common.data<float>()[i * 9 + 4] = std::ldexp(1.0f, i % 4);
    }
    if (index == 2) common = zeros({16, 9});
    given.zero_grad();
    replicas.backward(given.loss({common * static_cast<double>(group.rank() + 1)}));
    const auto expected = (common * (0.5 * (group.size() + 1))).to_vector();
    // Where the gradient is zero, the rounding of those before comes out.
    EXPECT_LE(distance(given.gradient(0), expected), 1e-5 * norm(expected) + 1e-4) << index;
    expect_same_bits(group, given.gradients());
  }
}

// What a step leaves out comes later: after many steps nearly all of it has been applied. A
// parameter that is not used for a while keeps what is left.
void powersgd_feeds_errors_back(ProcessGroup& group) {
  const Given given(DType::kFloat32, {{12, 10}, {8, 8}});
  DataParallel replicas(
      given.parameters, {}, share_of(group),
      with(powersgd({.rank = 1, .start_iteration = 0, .min_compression_rate = 0.0})));
  const auto gradients = [&](int rank) { return random_gradients(given, rank, 0); };
  std::vector<std::vector<double>> means, applied;
  for (size_t i = 0; i < 2; ++i) {
    means.push_back(mean_over_ranks(group.size(), i, gradients).values);
    applied.emplace_back(means[i].size());
  }
  constexpr int kSteps = 60;
  for (int step = 1; step <= kSteps; ++step) {
    given.zero_grad();
    auto mine = gradients(group.rank());  // the first one's in every step, the second one's once
    if (step > 1) mine[1] = zeros({8, 8});
    const bool second = step == 1 || step > 4;
    if (!second) mine.resize(1);
    replicas.backward(given.loss(mine));
    EXPECT_EQ(given.parameters[1].second.grad().defined(), second);
    for (size_t i = 0; i < (second ? 2 : 1); ++i) {
      const auto now = given.gradient(i);
      for (size_t e = 0; e < now.size(); ++e) applied[i][e] += now[e];
      if (step == 1) {
        EXPECT_GT(distance(now, means[i]), 0.5 * norm(means[i])) << i;
      }
    }
  }
  for (double& value : means[0]) value *= kSteps;
  EXPECT_LT(distance(applied[0], means[0]), 0.15 * norm(means[0]));
  EXPECT_LT(distance(applied[1], means[1]), 0.01 * norm(means[1]));
  expect_same_bits(group, given.gradients());
}

void powersgd_starts_later(ProcessGroup& group) {
  const Given given(DType::kFloat32, {{12, 10}, {3, 2}});
  const Given exact(DType::kFloat32, {{12, 10}, {3, 2}});
  DataParallel replicas(given.parameters, {}, share_of(group),
                        with(powersgd({.rank = 1, .start_iteration = 2})));
  DataParallel plain(exact.parameters, {}, share_of(group));
  for (int64_t index = 0; index < 3; ++index) {
    given.zero_grad();
    exact.zero_grad();
    replicas.backward(given.loss(random_gradients(given, group.rank(), index)));
    plain.backward(exact.loss(random_gradients(exact, group.rank(), index)));
    EXPECT_EQ(given.gradient(0) == exact.gradient(0), index < 2) << index;
    EXPECT_EQ(given.gradient(1), exact.gradient(1));  // 6 numbers in place of 5: not worth it
  }
  EXPECT_THROW(powersgd({.rank = 0}), ValueError);
  EXPECT_THROW(powersgd({.start_iteration = -1}), ValueError);
  EXPECT_THROW(powersgd({.min_compression_rate = std::nan("")}), ValueError);
}

// A step with a NaN, and one that fails on one rank, leave nothing behind; a parameter that nobody
// used has no gradient, and what is kept for it stays.
void powersgd_after_steps_that_fail(ProcessGroup& group) {
  const Given given(DType::kFloat32, {{6, 6}, {6, 6}});
  auto options = with(powersgd({.rank = 6, .start_iteration = 0, .min_compression_rate = 0.0}));
  options.non_finite = NonFinite::kSkip;
  DataParallel replicas(given.parameters, {}, share_of(group), options);
  const bool last = group.rank() == group.size() - 1;
  for (int64_t index = 0; index < 4; ++index) {
    given.zero_grad();
    auto gradients = random_gradients(given, group.rank(), index);
    if (index == 0) {
      if (last) gradients[0].data<float>()[7] = std::nanf("");
      replicas.backward(given.loss(gradients));
      EXPECT_EQ(replicas.skipped_steps(), 1);
      continue;
    }
    if (index == 2) {
      EXPECT_THROW(replicas.backward(last ? Tensor() : given.loss(gradients)), Error);
      continue;
    }
    gradients.resize(1);
    replicas.backward(given.loss(gradients));
    const Mean mean = mean_over_ranks(
        group.size(), 0, [&](int rank) { return random_gradients(given, rank, index); });
    EXPECT_LE(distance(given.gradient(0), mean.values), 1e-5 * norm(mean.values)) << index;
    EXPECT_FALSE(given.parameters[1].second.grad().defined());
  }
}

// -- a hook of one's own: docs/communication-hooks.md has it, too

// signSGD with a majority vote: a byte for each gradient would do; here they are int32.
class SignReduction final : public BucketReduction {
 public:
  void attach(ProcessGroup& group, const Bucket& bucket) override {
    const int64_t count = bucket.gradients().numel();
    memory_ = group.allocate(static_cast<size_t>(count) * sizeof(int32_t), Device{});
    votes_ = {memory_->data(), count, DType::kInt32, Device{}};
  }
  void launch(ProcessGroup& group, const Bucket& bucket) override {
    const float* gradients = bucket.gradients().data<float>();
    auto* votes = static_cast<int32_t*>(votes_.data);
    for (int64_t i = 0; i < votes_.count; ++i) votes[i] = gradients[i] < 0.0f ? -1 : 1;
    issue(group.all_reduce(votes_));
    issue(group.all_reduce(bucket.trailer_buffer()));
  }
  void finish(const Bucket& bucket) override {
    wait();
    float* gradients = bucket.gradients().data<float>();
    const auto* votes = static_cast<const int32_t*>(votes_.data);
    for (int64_t i = 0; i < votes_.count; ++i) gradients[i] = votes[i] < 0 ? -1.0f : 1.0f;
  }

 private:
  std::shared_ptr<Memory> memory_;
  Buffer votes_;
};

void a_hook_of_ones_own(ProcessGroup& group) {
  const Given given(DType::kFloat32, {{8, 5}, {3}});
  EXPECT_THROW(DataParallel(given.parameters, {}, share_of(group), with([] { return nullptr; })),
               ValueError);
  DataParallel replicas(given.parameters, {}, share_of(group),
                        with([] { return std::make_unique<SignReduction>(); }, 1));
  replicas.backward(given.loss(random_gradients(given, group.rank(), 0)));
  expect_same_bits(group, given.gradients());
  for (size_t i = 0; i < given.parameters.size(); ++i) {
    const auto actual = given.gradient(i);
    std::vector<int> votes(actual.size());
    for (int r = 0; r < group.size(); ++r) {
      const auto values = random_gradients(given, r, 0)[i].to_vector();
      for (size_t e = 0; e < values.size(); ++e) votes[e] += values[e] < 0.0 ? -1 : 1;
    }
    for (size_t e = 0; e < actual.size(); ++e) EXPECT_EQ(actual[e], votes[e] < 0 ? -1.0 : 1.0);
  }
}

// -- parameters averaged now and then

// Rank r adds r to everything in each step, after all have begun with rank 0's values.
void periodic_averages(ProcessGroup& group) {
  std::vector<Tensor> parameters;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    parameters.push_back(full({3, 2}, 8.0 + group.rank(), {dtype}).requires_grad_());
  }
  PeriodicAverager averager(parameters, share_of(group), {.period = 3, .warmup_steps = 2});
  double common = 8.0;
  int since = 0;
  std::vector<bool> averaged;
  for (int step = 1; step <= 9; ++step) {
    for (const Tensor& p : parameters) {
      const autograd::NoGrad no_grad;
      p.add_(static_cast<double>(group.rank()));
    }
    ++since;
    averaged.push_back(averager.step());
    if (averaged.back()) {
      common += since * (group.size() - 1) / 2.0;
      since = 0;
    }
    for (const Tensor& p : parameters) {
      EXPECT_EQ(p.to_vector(), std::vector<double>(6, common + since * group.rank())) << step;
    }
  }
  EXPECT_EQ(averaged,
            (std::vector<bool>{true, true, false, false, true, false, false, true, false}));
  EXPECT_EQ(averager.steps(), 9);
  averager.average();
  EXPECT_EQ(parameters[0].to_vector()[5], common + (group.size() - 1) / 2.0);
}

// For plain SGD the mean of the replicas after every step is the replica that the mean gradient
// makes; less often it is not, but the replicas are still the same afterwards.
void averager_trains_like_one_process(ProcessGroup& group) {
  for (const int64_t period : {1, 2}) {
    const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
    PeriodicAverager averager(net->named_parameters(), share_of(group), {.period = period});
    optim::SGD sgd(net->parameters(), {.lr = 0.5});
    optim::SGD sgd_alone(alone->parameters(), {.lr = 0.5});
    for (int64_t index = 0; index < 4; ++index) {
      const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, index);
      const auto step = make_step(all, group.rank(), group.size(), 1, index);
      sgd.zero_grad();
      net->loss(step.micros[0].x, step.micros[0].y, 0).backward();
      sgd.step();
      averager.step();
      sgd_alone.zero_grad();
      alone->loss(all.x, all.y, 0).backward();
      sgd_alone.step();
    }
    expect_same_bits(group, net->named_parameters());
    const auto mine = net->fc1.weight.to_vector(), other = alone->fc1.weight.to_vector();
    if (period == 1 || group.size() == 1) {
      EXPECT_LE(distance(mine, other), 1e-13 * norm(other));
    } else {
      EXPECT_GT(distance(mine, other), 1e-6 * norm(other));
    }
  }
}

void averager_refuses(ProcessGroup& group) {
  const auto group_pointer = share_of(group);
  const std::vector<Tensor> right{zeros({2})};
  EXPECT_THROW(PeriodicAverager({zeros({2}, {DType::kInt64})}, group_pointer), ValueError);
  EXPECT_THROW(PeriodicAverager(right, group_pointer, {.period = 0}), ValueError);
  EXPECT_THROW(PeriodicAverager(right, group_pointer, {.warmup_steps = -1}), ValueError);
  if (group.size() == 1) return;
  const std::vector<Tensor> mine{zeros({group.rank() == 0 ? 2 : 3})};
  EXPECT_THROW(PeriodicAverager(mine, group_pointer), DistributedError);
}

}  // namespace

const std::vector<Case>& hook_cases() {
#define CASE(name) \
  { #name, name }
  static const std::vector<Case> kCases = {
      CASE(bf16_means),
      CASE(fp16_means),
      CASE(losses_travel_exactly),
      CASE(fp16_overflow_is_loud),
      CASE(compression_is_refused_in_mode_bitwise),
      CASE(powersgd_of_full_rank),
      CASE(powersgd_of_a_rank_one_gradient),
      CASE(powersgd_feeds_errors_back),
      CASE(powersgd_starts_later),
      CASE(powersgd_after_steps_that_fail),
      CASE(a_hook_of_ones_own),
      CASE(periodic_averages),
      CASE(averager_trains_like_one_process),
      CASE(averager_refuses),
  };
#undef CASE
  return kCases;
}

}  // namespace lockstep::distributed::testing
