// When gradients leave, and in which order.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_cases.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

// Buckets go out in the midst of the last backward, in index order, and nowhere else.
void all_reduce_overlaps_backward(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  const auto recorder = std::make_shared<RecordingGroup>(group);
  DataParallel replicas(*net, recorder, kBucketEach);
  ASSERT_EQ(replicas.buckets().size(), 6u);
  std::vector<autograd::HookHandle> hooks;
  for (const auto& [name, p] : net->named_parameters()) {
    hooks.push_back(p.register_hook([&events = recorder->events, name = name](const Tensor&) {
      events.push_back(name);
      return Tensor();
    }));
  }
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 2, 0);
  for (auto& m : replicas.accumulate(step)) {
    recorder->events.clear();
    const auto loss = net->loss(m.x, m.y, m.index);
    recorder->events.push_back("backward");
    replicas.backward(loss, m.size());
    const auto& events = recorder->events;
    const auto reductions = std::count(events.begin(), events.end(), "all_reduce");
    EXPECT_EQ(reductions, &m == &step.micros.back() ? 6 : 0);
  }
  // As in the graph: a bias and a weight of a layer at a time, last layer first.
  const auto& events = recorder->events;
  const auto at = [&](const std::string& event) {
    const auto found = std::find(events.begin(), events.end(), event);
    EXPECT_NE(found, events.end()) << event;
    return found - events.begin();
  };
  EXPECT_EQ(events.front(), "backward");
  EXPECT_LT(at("all_reduce"), at("fc1.weight")) << "no overlap";
  EXPECT_LT(at("all_reduce"), at("fc2.weight")) << "no overlap";
  EXPECT_GT(at("all_reduce"), std::min(at("fc3.weight"), at("fc3.bias")));
  const auto before_last_gradient = std::count(
      events.begin(), events.begin() + std::max(at("fc1.weight"), at("fc1.bias")), "all_reduce");
  EXPECT_GE(before_last_gradient, 4);
}

// Every rank issues the same collectives whatever its graph was.
void collectives_do_not_depend_on_the_graph(ProcessGroup& group) {
  const auto net = make_net<BranchNet>(DType::kFloat32);
  const auto recorder = std::make_shared<RecordingGroup>(group);
  DataParallel replicas(*net, recorder, kBucketEach);
  const Samples all = make_samples(2 * group.size(), BranchNet::kInput, DType::kFloat32, 0);
  for (int64_t index = 0; index < 3; ++index) {
    auto step = make_step(all, group.rank(), group.size(), 1, index);
    recorder->events.clear();
    run_step(replicas, *net, step);
    std::vector<std::string> expected(replicas.buckets().size(), "all_reduce");
    if (index == 0 && group.size() > 1) expected.emplace_back("broadcast");  // the order
    EXPECT_EQ(recorder->events, expected);
  }
}

// -- the order that is learned

std::string layout_of(const DataParallel& replicas) {
  std::string layout;
  for (const Bucket* bucket : replicas.buckets()) {
    for (const auto& entry : bucket->entries()) layout += entry.name + " ";
    layout += "| ";
  }
  return layout;
}

// Gradients become ready in the opposite of the expected order: at first nothing overlaps, from the
// second step on everything does.
void buckets_follow_the_first_backward(ProcessGroup& group) {
  for (const bool learn : {false, true}) {
    const auto net = make_net<BackwardNet>(DType::kFloat32);
    const auto recorder = std::make_shared<RecordingGroup>(group);
    auto options = kBucketEach;
    options.learn_order = learn;
    DataParallel replicas(*net, recorder, options);
    std::vector<autograd::HookHandle> hooks;
    for (const auto& [name, p] : net->named_parameters()) {
      hooks.push_back(p.register_hook([&events = recorder->events, name = name](const Tensor&) {
        events.push_back(name);
        return Tensor();
      }));
    }
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 0);
    for (int64_t index = 0; index < 3; ++index) {
      auto step = make_step(all, group.rank(), group.size(), 1, index);
      recorder->events.clear();
      run_step(replicas, *net, step);
      const auto& events = recorder->events;
      const auto first = std::find(events.begin(), events.end(), "all_reduce");
      const auto gradients_before = std::distance(events.begin(), first);
      const bool learned = learn && index > 0 && group.size() > 1;
      if (learned) {
        EXPECT_EQ(gradients_before, 1);
        EXPECT_EQ(events[1], "all_reduce");
      } else {
        EXPECT_GE(gradients_before, 5);
      }
      EXPECT_EQ(std::count(events.begin(), events.end(), "all_reduce"), 6);
      EXPECT_EQ(std::count(events.begin(), events.end(), "broadcast"),
                learn && index == 0 && group.size() > 1 ? 1 : 0);
    }
    EXPECT_EQ(layout_of(replicas).starts_with("fc3."), learn && group.size() > 1);
  }
}

struct Trained {
  std::vector<uint8_t> weights, gradients, state;
  std::string layout;
};

// Five steps of Adam; without zero_grad() in every other one.
template <typename Net>
Trained train(ProcessGroup& group, DataParallelOptions options, bool learn_order) {
  options.learn_order = learn_order;
  const auto net = make_net<Net>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), options);
  optim::Adam adam(net->parameters(), {.lr = 0.01});
  Trained result;
  for (int64_t index = 0; index < 5; ++index) {
    const int64_t accumulate = 1 + (index + 1) % 2;
    const Samples all =
        make_samples(2 * group.size() * accumulate + 1, Net::kInput, DType::kFloat32, index);
    if (index % 2 == 0) adam.zero_grad();
    auto step = make_step(all, group.rank(), group.size(), accumulate, index);
    run_step(replicas, *net, step);
    const auto gradients = bits_of(gradients_of(*net));
    result.gradients.insert(result.gradients.end(), gradients.begin(), gradients.end());
    adam.step();
  }
  expect_same_bits(group, net->state_dict());
  result.weights = bits_of(net->state_dict());
  for (const auto& state : adam.states()) {
    for (const auto& [name, buffer] : state.buffers) {
      if (!buffer.defined()) continue;
      const auto bits = bits_of({{name, buffer}});
      result.state.insert(result.state.end(), bits.begin(), bits.end());
    }
  }
  result.layout = layout_of(replicas);
  return result;
}

template <typename Net>
void expect_same_training(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kSmallBuckets, kBucketEach}) {
    const Trained fixed = train<Net>(group, options, false);
    const Trained learned = train<Net>(group, options, true);
    EXPECT_FALSE(learned.state.empty());
    EXPECT_TRUE(learned.gradients == fixed.gradients);
    EXPECT_TRUE(learned.weights == fixed.weights);
    EXPECT_TRUE(learned.state == fixed.state);
  }
}

// Bit for bit, gradients that were kept and the optimizer's state included.
void the_order_changes_no_result(ProcessGroup& group) {
  expect_same_training<BackwardNet>(group);
  expect_same_training<BranchNet>(group);
  expect_same_training<MixedNet>(group);
  expect_same_training<TiedNet>(group);
  expect_same_training<FrozenNet>(group);
}

// Where the ranks' gradients arrive in different orders, all take rank 0's.
void every_rank_learns_root_s_order(ProcessGroup& group) {
  const auto net = make_net<BranchNet>(DType::kFloat64),
             alone = make_net<BranchNet>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  for (int64_t index = 0; index < 3; ++index) {
    const Samples all = make_samples(2 * group.size(), BranchNet::kInput, DType::kFloat64, index);
    net->zero_grad();
    alone->zero_grad();
    auto step = make_step(all, group.rank(), group.size(), 1, index);
    run_step(replicas, *net, step);
    backward_alone(*alone, all, group.size(), index);
    expect_same_gradients(*net, *alone, 1e-13);
  }
  const std::string layout = layout_of(replicas);
  const auto layouts = exchange_texts(group, layout);
  EXPECT_EQ(layouts, std::vector<std::string>(layouts.size(), layouts[0]));
  if (group.size() == 1) return;
  // Of rank 0's micro-batch: "odd" has no part in it, nor has "never" in any.
  EXPECT_LT(layout.find("first"), layout.find("odd.")) << layout;
  EXPECT_LT(layout.find("always.weight"), layout.find("odd.")) << layout;
}

// A graph that was recorded before the parameters moved is still the same function.
void graphs_outlive_the_move(ProcessGroup& group) {
  const auto net = make_net<BackwardNet>(DType::kFloat64);
  const auto alone = make_net<BackwardNet>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  {
    const autograd::NoGrad no_grad;  // the versions are no longer those of new memory
    for (const Tensor& p : net->parameters()) p.mul_(1.0).mul_(1.0).mul_(1.0);
  }
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  const auto m = part(all, group.rank(), group.size());
  const Tensor first = net->loss(m.x, m.y, 0), second = net->loss(m.x * 0.5, m.y, 0);
  const std::string before = layout_of(replicas);
  replicas.backward(first);
  EXPECT_EQ(layout_of(replicas) != before, group.size() > 1);
  replicas.backward(second);
  alone->loss(all.x, all.y, 0).backward();
  alone->loss(all.x * 0.5, all.y, 0).backward();
  expect_same_gradients(*net, *alone, 1e-13);
}

// From a step that fails nothing is learned; from the next one it is.
void a_failed_step_teaches_no_order(ProcessGroup& group) {
  const auto net = make_net<BackwardNet>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  const std::string before = layout_of(replicas);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  {
    autograd::HookHandle hook;
    if (group.rank() == 0) {
      hook = net->fc2.weight.register_hook(
          [](const Tensor&) -> Tensor { throw std::runtime_error("no"); });
    }
    EXPECT_THROW(run_step(replicas, *net, step), std::exception);
  }
  EXPECT_EQ(layout_of(replicas), before);
  step = make_step(all, group.rank(), group.size(), 1, 1);
  run_step(replicas, *net, step);
  EXPECT_EQ(layout_of(replicas) != before, group.size() > 1);
}

}  // namespace

const std::vector<Case>& order_cases() {
  static const std::vector<Case> kCases = {
      {"all_reduce_overlaps_backward", all_reduce_overlaps_backward},
      {"collectives_do_not_depend_on_the_graph", collectives_do_not_depend_on_the_graph},
      {"buckets_follow_the_first_backward", buckets_follow_the_first_backward},
      {"the_order_changes_no_result", the_order_changes_no_result},
      {"every_rank_learns_root_s_order", every_rank_learns_root_s_order},
      {"graphs_outlive_the_move", graphs_outlive_the_move},
      {"a_failed_step_teaches_no_order", a_failed_step_teaches_no_order},
  };
  return kCases;
}

}  // namespace lockstep::distributed::testing
