// When gradients leave, and in which order.
#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"

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
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  recorder->events.clear();
  run_step(replicas, *net, step);
  EXPECT_EQ(recorder->events, std::vector<std::string>(replicas.buckets().size(), "all_reduce"));
}

}  // namespace

const std::vector<Case>& order_cases() {
  static const std::vector<Case> kCases = {
      {"all_reduce_overlaps_backward", all_reduce_overlaps_backward},
      {"collectives_do_not_depend_on_the_graph", collectives_do_not_depend_on_the_graph},
  };
  return kCases;
}

}  // namespace lockstep::distributed::testing
