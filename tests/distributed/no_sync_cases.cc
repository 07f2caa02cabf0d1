// Gradients that add up on each rank before they are reduced.
#include <optional>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_cases.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

// This rank's `count` micro-batches of a batch, the last one reduced.
void run_micros(DataParallel& replicas, Net& net, const data::Step& step) {
  for (const auto& m : step.micros) {
    std::optional<DataParallel::NoSync> local;
    if (&m != &step.micros.back()) local.emplace(replicas);
    replicas.backward(net.loss(m.x, m.y, m.index));
  }
}

// The mean over the ranks of what each adds up.
void run_micros_alone(Net& net, const Samples& all, int world, int64_t micros) {
  for (int64_t i = 0; i < world * micros; ++i) {
    const auto m = part(all, i, world * micros);
    (net.loss(m.x, m.y, i) / static_cast<double>(world)).backward();
  }
}

// Every micro-batch counts, whether or not the last one touches the parameter, and also in the step
// after which the buckets are made anew; gradients of the step before are kept.
template <typename Net>
void expect_sum_of_micros(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kSmallBuckets, kBucketEach}) {
    for (const int64_t micros : {1, 2, 3}) {
      const auto alone = make_net<Net>(DType::kFloat64), net = make_net<Net>(DType::kFloat64);
      const auto recorder = std::make_shared<RecordingGroup>(group);
      DataParallel replicas(*net, recorder, options);
      for (int64_t index = 0; index < 4; ++index) {
        if (index == 2) {
          net->zero_grad();
          alone->zero_grad();
        }
        const Samples all =
            make_samples(2 * group.size() * micros, Net::kInput, DType::kFloat64, index);
        const auto step = make_step(all, group.rank(), group.size(), micros, index);
        recorder->events.clear();
        {
          const auto local = replicas.no_sync();
          const auto nested = replicas.no_sync();
          for (int64_t k = 0; k + 1 < micros; ++k) {
            const auto& m = step.micros[static_cast<size_t>(k)];
            replicas.backward(net->loss(m.x, m.y, m.index));
          }
        }
        EXPECT_TRUE(recorder->events.empty());
        const auto& last = step.micros.back();
        replicas.backward(net->loss(last.x, last.y, last.index));
        EXPECT_FALSE(recorder->events.empty());
        run_micros_alone(*alone, all, group.size(), micros);
        expect_same_gradients(*net, *alone, 1e-13);
        expect_same_bits(group, gradients_of(*net));
      }
    }
  }
}

void no_sync_adds_up(ProcessGroup& group) {
  expect_sum_of_micros<BackwardNet>(group);
  expect_sum_of_micros<BranchNet>(group);
}

// What was frozen at first and has got gradients in the scope is reduced with the rest.
void no_sync_with_an_unfrozen_parameter(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  net->fc2.requires_grad_(false);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  net->fc2.requires_grad_(true);
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  run_micros(replicas, *net, make_step(all, group.rank(), group.size(), 2, 0));
  run_micros_alone(*alone, all, group.size(), 2);
  expect_same_gradients(*net, *alone, 1e-13);
}

void no_sync_misuse(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  auto step = make_step(all, group.rank(), group.size(), 2, 0);
  {
    const auto scope = replicas.accumulate(step);
    expect_error([&] { static_cast<void>(replicas.no_sync()); }, "no_sync() inside accumulate()");
  }
  {
    const auto local = replicas.no_sync();
    expect_error([&] { replicas.accumulate(step); }, "accumulate() inside no_sync()");
    replicas.backward(net->loss(all.x, all.y, 0));
  }
  expect_error([&] { replicas.accumulate(step); },
               "the gradients of 1 backward() in no_sync() have not been reduced");
  EXPECT_TRUE(net->fc1.weight.grad().defined());
  net->zero_grad();
  run_step(replicas, *net, step);  // they were dropped
  backward_alone(*alone, all, 2 * group.size(), 0);
  expect_same_gradients(*net, *alone, 1e-13);
}

// The optimizer takes a step with the gradients of one rank: the next backward tells all ranks.
void an_optimizer_s_step_in_no_sync(ProcessGroup& group) {
  for (const bool zero : {false, true}) {
    for (const bool once_more : {false, true}) {  // the next one is in the scope, too
      const auto net = make_net<Mlp>(DType::kFloat64);
      DataParallel replicas(*net, share_of(group), kBucketEach);
      optim::SGD sgd(net->parameters(), {.lr = 0.1});
      const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
      const auto step = make_step(all, group.rank(), group.size(), 2, 0);
      std::optional<DataParallel::NoSync> local(std::in_place, replicas);
      replicas.backward(net->loss(step.micros[0].x, step.micros[0].y, 0));
      sgd.step();
      if (zero) sgd.zero_grad();
      if (!once_more) local.reset();
      expect_error([&] { replicas.backward(net->loss(step.micros[1].x, step.micros[1].y, 1)); },
                   "parameter fc1.weight has been changed since a backward() in no_sync()");
      local.reset();
      for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
      run_micros(replicas, *net, step);
      expect_same_bits(group, gradients_of(*net));
    }
  }
}

// A backward that throws in the scope on one rank: all throw in the reduction, and the next works.
void failure_in_no_sync(ProcessGroup& group) {
  for (const size_t bad : {size_t{0}, size_t{1}, size_t{2}}) {
    const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
    DataParallel replicas(*net, share_of(group), kBucketEach);
    const Samples all = make_samples(6 * group.size(), Mlp::kInput, DType::kFloat64, 0);
    const auto step = make_step(all, group.rank(), group.size(), 3, 0);
    std::string text;
    try {
      for (size_t k = 0; k < 3; ++k) {
        std::optional<DataParallel::NoSync> local;
        if (k < 2) local.emplace(replicas);
        autograd::HookHandle hook;
        if (group.rank() == 0 && k == bad) {
          hook = net->fc2.weight.register_hook(
              [](const Tensor&) -> Tensor { throw std::runtime_error("the hook says no"); });
        }
        replicas.backward(net->loss(step.micros[k].x, step.micros[k].y, 0));
      }
    } catch (const std::exception& error) {
      text = error.what();
    }
    EXPECT_NE(text.find("the hook says no"), std::string::npos) << text;
    for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
    run_micros(replicas, *net, step);
    run_micros_alone(*alone, all, group.size(), 3);
    expect_same_gradients(*net, *alone, 1e-13);
  }
}

// One rank reduces where the others go on adding up.
void ranks_disagree_on_no_sync(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kBucketEach}) {
    const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
    DataParallel replicas(*net, share_of(group), options);
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
    const auto step = make_step(all, group.rank(), group.size(), 2, 0);
    std::string text = "no error";
    try {
      if (group.rank() == 0) {
        replicas.backward(net->loss(step.micros[0].x, step.micros[0].y, 0));
      } else {
        run_micros(replicas, *net, step);
      }
    } catch (const DistributedError& error) {
      text = error.what();
    }
    for (const std::string& part :
         {std::string("rank 0 in a backward() outside accumulate()"),
          std::string("in a backward() outside accumulate(), after 1 in no_sync()"),
          std::string("every rank must reduce after the same number of backward()s")}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
    for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
    run_micros(replicas, *net, step);
    run_micros_alone(*alone, all, group.size(), 2);
    expect_same_gradients(*net, *alone, 1e-13);
  }
}

}  // namespace

const std::vector<Case>& no_sync_cases() {
  static const std::vector<Case> kCases = {
      {"no_sync_adds_up", no_sync_adds_up},
      {"no_sync_with_an_unfrozen_parameter", no_sync_with_an_unfrozen_parameter},
      {"no_sync_misuse", no_sync_misuse},
      {"an_optimizer_s_step_in_no_sync", an_optimizer_s_step_in_no_sync},
      {"failure_in_no_sync", failure_in_no_sync},
  };
  return kCases;
}

const std::vector<Case>& several_ranks_no_sync_cases() {
  static const std::vector<Case> kCases = {
      {"ranks_disagree_on_no_sync", ranks_disagree_on_no_sync},
  };
  return kCases;
}

}  // namespace lockstep::distributed::testing
