// Collectives of tensors on a GPU through a group that knows host memory only.
#include "lockstep/distributed/staged_group.h"

#include <atomic>
#include <cmath>

#include <gtest/gtest.h>

#include "lockstep/distributed/compression.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "lockstep/distributed/sync_batch_norm.h"
#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/index_checks.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/adam.h"
#include "lockstep/optim/sgd.h"

#include "training.h"

namespace lockstep::distributed {
namespace {

const Device kCuda{DeviceType::kCuda, 0};
using Values = std::vector<double>;
using testing::after_compressed_training;
using testing::after_training;
using testing::few_numbers;
using testing::Net;
using testing::Watched;

Buffer buffer_of(const Tensor& t) { return {t.data_ptr(), t.numel(), t.dtype(), t.device()}; }

// Runs `test` with two ranks as threads, whose groups have been wrapped.
using Group = std::shared_ptr<ProcessGroup>;
void with_two_ranks(const std::function<void(const Group&)>& test) {
  run_thread_ranks(2, [&](ProcessGroup& group) {
    // The wrapper shares the group that the caller owns.
    test(make_staged_group(Group(&group, [](ProcessGroup*) {})));
  });
}

Tensor on_gpu(Values values) { return from_span<double>(values, {std::ssize(values)}).to(kCuda); }

TEST(StagedGroup, MovesWhatTheCollectivesSay) {
  with_two_ranks([](const Group& shared) {
    ProcessGroup& group = *shared;
    const double r = group.rank();
    const Tensor sum = on_gpu({1 + r, 10 * r, -r});
    group.all_reduce(buffer_of(sum)).wait();
    EXPECT_EQ(sum.to_vector(), (Values{3, 10, -1}));

    const Tensor from_one = on_gpu({r, r + 5});
    group.broadcast(buffer_of(from_one), 1, Launch::kBlocking).wait();
    EXPECT_EQ(from_one.to_vector(), (Values{1, 6}));

    const Tensor all = on_gpu({0, 0, 0, 0});
    group.all_gather(buffer_of(all), buffer_of(on_gpu({r, r + 0.5}))).wait();
    EXPECT_EQ(all.to_vector(), (Values{0, 0.5, 1, 1.5}));

    const Tensor part = on_gpu({0, 0}), whole = on_gpu({r, 1, 2, 3 + r});
    group.reduce_scatter(buffer_of(part), buffer_of(whole)).wait();
    EXPECT_EQ(part.to_vector(), group.rank() == 0 ? (Values{1, 2}) : (Values{4, 7}));

    const Tensor received = on_gpu({0, 0});
    group.all_to_all(buffer_of(received), buffer_of(on_gpu({10 * r, 10 * r + 1}))).wait();
    EXPECT_EQ(received.to_vector(), group.rank() == 0 ? (Values{0, 10}) : (Values{1, 11}));
  });
}

TEST(StagedGroup, PartsOfItsOwnMemoryStayInPlace) {
  with_two_ranks([](const Group& shared) {
    ProcessGroup& group = *shared;
    const auto memory = group.allocate(4 * sizeof(double), kCuda);
    const Tensor all = from_memory(memory->data(), {4}, DType::kFloat64, memory, kCuda);
    EXPECT_EQ(all.to_vector(), (Values{0, 0, 0, 0}));
    const Tensor mine = all.narrow(0, 2 * group.rank(), 2);
    mine.fill_(group.rank() + 1.0);
    group.all_gather(buffer_of(all), buffer_of(mine)).wait();
    EXPECT_EQ(all.to_vector(), (Values{1, 1, 2, 2}));
    // Two at once in different parts of one piece of memory.
    Work first = group.all_reduce(buffer_of(all.narrow(0, 0, 2)));
    Work second = group.all_reduce(buffer_of(all.narrow(0, 2, 2)), ReduceOp::kMax);
    first.wait();
    second.wait();
    EXPECT_EQ(all.to_vector(), (Values{2, 2, 2, 2}));
    // A part of a buffer that is not the group's.
    const Tensor other = on_gpu({0, 0, 0, 0});
    const Tensor own = other.narrow(0, 2 * group.rank(), 2);
    own.fill_(group.rank() + 3.0);
    group.all_gather(buffer_of(other), buffer_of(own)).wait();
    EXPECT_EQ(other.to_vector(), (Values{3, 3, 4, 4}));
  });
}

TEST(StagedGroup, HostBuffersAndDuplicatesWorkAsBefore) {
  with_two_ranks([](const Group& shared) {
    ProcessGroup& group = *shared;
    double value = group.rank() + 1.0;
    group.all_reduce({&value, 1, DType::kFloat64, Device{}}).wait();
    EXPECT_EQ(value, 3);
    const auto copy = group.duplicate();
    const Tensor x = on_gpu({1.0});
    copy->all_reduce(buffer_of(x)).wait();
    EXPECT_EQ(x.to_vector(), Values{2});
    group.barrier().wait();
  });
}

TEST(StagedGroup, AMismatchIsAnErrorOnEveryRank) {
  std::atomic<int> errors = 0;
  with_two_ranks([&](const Group& shared) {
    ProcessGroup& group = *shared;
    const Tensor x = on_gpu(Values(static_cast<size_t>(group.rank() + 1), 1.0));
    try {
      group.all_reduce(buffer_of(x)).wait();
    } catch (const DistributedError& error) {
      EXPECT_NE(std::string(error.what()).find("do not match"), std::string::npos) << error.what();
      ++errors;
    }
  });
  EXPECT_EQ(errors, 2);
}

// Two collectives of memory of their own and of the group's, which nobody waits for any more.
TEST(StagedGroup, WhatAnExceptionLeavesBehindIsFreedInTime) {
  std::atomic<int> unwound = 0;
  EXPECT_THROW(with_two_ranks([&](const Group& shared) {
                 const auto memory = shared->allocate(8 * sizeof(double), kCuda);
                 try {
                   const auto staged = shared->duplicate();
                   const Tensor x = on_gpu(Values(1000, 1.0));
                   Work dropped = staged->all_reduce(buffer_of(x));
                   const auto own = staged->allocate(8 * sizeof(double), kCuda);
                   dropped = staged->all_reduce({own->data(), 8, DType::kFloat64, kCuda});
                   // Of two ranks one comes here.
                   if (shared->rank() == 0) dropped = staged->all_reduce(buffer_of(on_gpu({1.0})));
                   throw Error("given up");
                 } catch (const Error&) {
                   ++unwound;
                   throw;
                 }
               }),
               Error);
  EXPECT_EQ(unwound, 2);
}

// The memory of a result is overwritten by the next collective only once that has been copied.
TEST(StagedGroup, OneCollectiveAfterTheOtherInOnePlace) {
  with_two_ranks([](const Group& shared) {
    const auto memory = shared->allocate(2 * sizeof(double), kCuda);
    const Tensor x = from_memory(memory->data(), {2}, DType::kFloat64, memory, kCuda);
    Tensor sums = zeros({2}, {DType::kFloat64, kCuda});
    for (int i = 0; i < 4; ++i) {
      x.fill_(i + 1.0);
      shared->all_reduce(buffer_of(x)).wait();
      sums.add_(x);
      x.fill_(shared->rank() + i);
      shared->broadcast(buffer_of(x), i % 2).wait();
      sums.add_(x);
    }
    EXPECT_EQ(sums.to_vector(), (Values{28, 28}));  // 2 (1 + 2 + 3 + 4) + 0 + 2 + 2 + 4
  });
}

TEST(StagedGroup, BitwiseIsTheSameOnOneRankAndTwoWithBuffers) {
  const Values expected = after_training(make_single_group(), kCuda);
  ASSERT_GT(expected.size(), 40u);
  with_two_ranks([&](const Group& group) { EXPECT_EQ(after_training(group, kCuda), expected); });
}

// Three steps of two micro-batches; the losses that were reported.
Values train_watched(const Group& group, Device device, NonFinite non_finite, double poison) {
  manual_seed(5);
  Net net;
  net.to(device);
  DataParallel replicas(net, group,
                        {.first_bucket_bytes = 64, .bucket_bytes = 64, .non_finite = non_finite});
  optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9});
  Values losses;
  for (int64_t index = 0; index < 3; ++index) {
    data::Step step;
    step.index = index;
    step.global_samples = 4 * group->size();
    for (int64_t i = 0; i < 2; ++i) {
      const Tensor x = sin(arange(0, 8, 1, {DType::kFloat32}).view({2, 4}) * 1.7 +
                           static_cast<double>(10 * index + 2 * group->rank() + i));
      if (index == 2 && group->rank() == group->size() - 1) x.fill_(poison);
      step.micros.push_back({x.to(device), x.sum({1}, true).to(device), i, 2});
    }
    sgd.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(mse_loss(net.forward(micro.x), micro.y), micro.size());
    }
    sgd.step();
    losses.push_back(step.report.loss);
  }
  return losses;
}

TEST(StagedGroup, ATrainingStepWaitsWhereItMeansToOnly) {
  const Values one_rank = train_watched(make_single_group(), {}, NonFinite::kThrow, 0.5);
  std::vector<Values> cpu(2);
  run_thread_ranks(2, [&](ProcessGroup& group) {
    cpu[static_cast<size_t>(group.rank())] =
        train_watched(Group(&group, [](ProcessGroup*) {}), {}, NonFinite::kThrow, 0.5);
  });
  const Watched watched;
  const Values alone = train_watched(make_single_group(), kCuda, NonFinite::kThrow, 0.5);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(alone[i], one_rank[i], 1e-5) << i;
  with_two_ranks([&](const Group& group) {
    const Values losses = train_watched(group, kCuda, NonFinite::kThrow, 0.5);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(losses[i], cpu[0][i], 1e-5) << i;
  });
  EXPECT_NE(cpu[0], one_rank);
}

TEST(StagedGroup, AGradientThatIsNotFiniteIsNamedWithItsRank) {
  const double nan = std::nan("");
  std::atomic<int> named = 0;
  with_two_ranks([&](const Group& group) {
    try {
      train_watched(group, kCuda, NonFinite::kThrow, nan);
    } catch (const DistributedError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("gradient of last.bias is not finite on rank 1 (nan or inf on cuda:0)"),
                std::string::npos)
          << text;
      EXPECT_EQ(text.find("on rank 0"), std::string::npos) << text;
      EXPECT_NE(text.find("in step 2"), std::string::npos) << text;
      ++named;
    }
    const Values losses = train_watched(group, kCuda, NonFinite::kSkip, nan);
    EXPECT_TRUE(std::isfinite(losses[1]) && std::isnan(losses[2]));
  });
  EXPECT_EQ(named, 2);
}

// Rank 1 has a target, computed on the device, that is no class.
void step_with_wrong_target(const Group& group, NonFinite non_finite) {
  nn::Linear net(4, 3);
  net.to(kCuda);
  DataParallel replicas(net, group, {.non_finite = non_finite});
  const Tensor target = full({2}, 1 + group->rank(), {DType::kInt64, kCuda}) * 2;
  replicas.backward(cross_entropy(net(ones({2, 4}, {DType::kFloat32, kCuda})), target));
}

TEST(StagedGroup, AWrongTargetStopsTheStep) {
  std::atomic<int> named = 0, own = 0;
  with_two_ranks([&](const Group& group) {
    try {
      step_with_wrong_target(group, NonFinite::kThrow);
    } catch (const DistributedError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("on rank 1 (nan or inf on cuda:0)"), std::string::npos) << text;
      EXPECT_NE(text.find("[cross_entropy] Target 4 is out of bounds."), std::string::npos) << text;
      EXPECT_EQ(text.find("not finite on rank 0"), std::string::npos) << text;
      ++named;
    }
  });
  EXPECT_EQ(named, 2);
  with_two_ranks([&](const Group& group) {
    try {
      step_with_wrong_target(group, NonFinite::kSkip);
    } catch (const IndexError&) {  // whichever comes first: here they share a device
      ++own;
    }
  });
  EXPECT_EQ(own, 1);
}

// Three steps; the parameters after them, and what the optimizer remembers.
template <typename MakeOptimizer>
std::pair<Values, Values> after_steps(const Group& group, Device device,
                                      const DataParallelOptions& options, MakeOptimizer&& make) {
  manual_seed(6);
  Net net;
  net.to(device);
  DataParallel replicas(net, group, options);
  auto optimizer = make(replicas, net.parameters());
  for (int64_t index = 0; index < 3; ++index) {
    data::Step step;
    step.index = index;
    step.global_samples = 2 * group->size();
    const Tensor x = sin(arange(0, 8, 1, {DType::kFloat32}).view({2, 4}) * 1.7 +
                         static_cast<double>(10 * index + group->rank()));
    step.micros.push_back({x.to(device), x.sum({1}, true).to(device), group->rank(), 2});
    optimizer->zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(mse_loss(net.forward(micro.x), micro.y), micro.size());
    }
    optimizer->step();
  }
  std::pair<Values, Values> all;
  for (const Tensor& p : net.parameters()) {
    for (const double value : p.to_vector()) all.first.push_back(value);
  }
  std::vector<optim::Optimizer::ParameterState> states;
  if constexpr (requires { optimizer->gather_states(); }) {
    states = optimizer->gather_states();
  } else {
    states = optimizer->states();
  }
  for (const auto& state : states) {
    for (const auto& [name, t] : state.buffers) {
      if (!t.defined()) continue;  // amsgrad's
      EXPECT_EQ(t.device(), device);
      for (const double value : t.to_vector()) all.second.push_back(value);
    }
  }
  return all;
}

auto plain_adam(DataParallel&, const std::vector<Tensor>& parameters) {
  return std::make_unique<optim::Adam>(parameters, optim::AdamOptions{.lr = 0.01});
}

TEST(StagedGroup, AShardedOptimizerGetsTheBitsOfAWholeOne) {
  with_two_ranks([](const Group& group) {
    DataParallelOptions options{.first_bucket_bytes = 64, .bucket_bytes = 64};
    const auto whole = after_steps(group, kCuda, options, plain_adam);
    options.shard_gradients = true;
    const auto sharded = after_steps(group, kCuda, options, [](DataParallel& replicas, auto all) {
      return std::make_unique<ShardedOptimizer<optim::Adam>>(replicas, std::move(all),
                                                             optim::AdamOptions{.lr = 0.01});
    });
    EXPECT_GT(whole.second.size(), 90u);
    EXPECT_EQ(sharded, whole);
  });
}

TEST(StagedGroup, CompressedGradientsAreThoseOfTheCpu) {
  // Not Adam, which divides by the size of gradients that are nothing but rounding errors.
  const auto make = [](DataParallel&, const std::vector<Tensor>& parameters) {
    return std::make_unique<optim::SGD>(parameters, optim::SgdOptions{.lr = 0.1});
  };
  with_two_ranks([&](const Group& group) {
    const auto exact = after_steps(group, kCuda, {}, make).first;
    for (const MakeReduction& half : {bf16_compression(), fp16_compression()}) {
      const DataParallelOptions options{.compression = half};
      const auto cpu = after_steps(group, {}, options, make).first;
      const auto cuda = after_steps(group, kCuda, options, make).first;
      EXPECT_NE(cuda, exact);
      for (size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(cuda[i], cpu[i], 1e-3) << i;
    }
  });
}

TEST(StagedGroup, PowerSgdIsTheCpusAndNobodyWaitsForIt) {
  std::vector<Values> cpu(2), cuda(2), exact(2);
  const auto train = [](std::vector<Values>& all, Device device, const MakeReduction& compression) {
    with_two_ranks([&](const Group& group) {
      all[static_cast<size_t>(group->rank())] =
          after_compressed_training(group, device, compression);
    });
  };
  train(cpu, {}, few_numbers());
  train(exact, {}, {});
  {
    const Watched watched;
    train(cuda, kCuda, few_numbers());
  }
  EXPECT_EQ(cuda[0], cuda[1]);
  double apart = 0;
  for (size_t i = 0; i < cpu[0].size(); ++i) {
    EXPECT_NEAR(cuda[0][i], cpu[0][i], 2e-5) << i;
    apart = std::max(apart, std::fabs(cpu[0][i] - exact[0][i]));
  }
  EXPECT_GT(apart, 1e-3);  // the gradients were compressed indeed
}

TEST(StagedGroup, ASumThatOverflowsInSixteenBitsIsNamed) {
  std::atomic<int> named = 0;
  with_two_ranks([&](const Group& group) {
    Net net;
    net.to(kCuda);
    DataParallel replicas(net, group, {.compression = fp16_compression()});
    const Tensor x = full({2, 4}, 1.0, {DType::kFloat32, kCuda});
    try {
      replicas.backward(net.forward(x).sum() * 1e7);
    } catch (const DistributedError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("last.bias"), std::string::npos) << text;
      EXPECT_NE(text.find("does not fit into float16"), std::string::npos) << text;
      ++named;
    }
  });
  EXPECT_EQ(named, 2);
}

// What SyncBatchNorm gives this rank, forward and backward.
Values normalized(const Group& group, Device device) {
  SyncBatchNorm norm(3, group);
  norm.to(device);
  const Tensor x =
      (sin(arange(0, 12, 1, {DType::kFloat32}).view({4, 3}) + group->rank())).to(device);
  x.requires_grad_();
  const Tensor y = norm(x);
  (y * y * x.detach()).sum().backward();
  Values all = y.to_vector();
  for (const double value : x.grad().to_vector()) all.push_back(value);
  return all;
}

TEST(StagedGroup, SyncBatchNormIsTheCpus) {
  with_two_ranks([](const Group& group) {
    const Values cpu = normalized(group, Device{}), cuda = normalized(group, kCuda);
    for (size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(cuda[i], cpu[i], 1e-5);
  });
}

}  // namespace
}  // namespace lockstep::distributed
