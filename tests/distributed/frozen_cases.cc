// Parameters that are frozen and unfrozen while a DataParallel trains them.
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_cases.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

// The sets of frozen parameters by which a schedule goes.
std::vector<std::vector<std::string>> schedules() {
  return {{"fc1", "", "", "fc1", "fc1", "", ""},
          {"", "fc2", "fc2", "", ""},
          {"fc1 fc2", "fc1", "", "fc3", "fc3", "fc2", "fc1 fc3", "", ""},
          {"fc3", "fc3", "fc1 fc2", "fc1 fc2", "fc1", ""},
          {"fc1.weight fc3.bias", "fc1.bias fc3.weight", "", "fc2.weight", "fc1.weight"}};
}

void freeze(const nn::Module& net, const std::string& frozen) {
  for (const auto& [name, p] : net.named_parameters()) {
    const bool whole = frozen.find(name.substr(0, 3) + " ") != std::string::npos ||
                       (frozen.size() >= 3 && frozen.ends_with(name.substr(0, 3)));
    p.requires_grad_(!whole && frozen.find(name) == std::string::npos);
  }
}

}  // namespace

// Every step has the gradients of one process whose parameters are frozen alike, and after it the
// replicas have the same weights.
void frozen_and_unfrozen_between_steps(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kSmallBuckets, kBucketEach}) {
    for (const auto& schedule : schedules()) {
      for (const bool zero : {true, false}) {
        const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
        freeze(*net, schedule[0]);
        DataParallel replicas(*net, share_of(group), options);
        optim::SGD sgd(net->parameters(), {.lr = 0.1}), sgd_alone(alone->parameters(), {.lr = 0.1});
        for (size_t index = 0; index < schedule.size(); ++index) {
          SCOPED_TRACE("step " + std::to_string(index) + ", frozen: " + schedule[index]);
          freeze(*net, schedule[index]);
          freeze(*alone, schedule[index]);
          const auto step_index = static_cast<int64_t>(index);
          const Samples all =
              make_samples(4 * group.size() + 1, Mlp::kInput, DType::kFloat64, step_index);
          if (zero) sgd.zero_grad();
          if (zero) sgd_alone.zero_grad();
          auto step = make_step(all, group.rank(), group.size(), 2, step_index);
          run_step(replicas, *net, step);
          backward_alone(*alone, all, 2 * group.size(), step_index);
          expect_same_gradients(*net, *alone, 1e-12);
          sgd.step();
          sgd_alone.step();
          expect_same_bits(group, net->state_dict());
        }
      }
    }
  }
}

// What a micro-batch has contributed counts, whether or not the parameter is frozen afterwards.
void frozen_and_unfrozen_within_a_step(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kBucketEach}) {
    for (const bool at_first : {true, false}) {  // frozen when the DataParallel is made
      const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
      net->fc1.requires_grad_(!at_first);
      DataParallel replicas(*net, share_of(group), options);
      const std::vector<std::string> frozen = {"fc2", "", "fc1"};
      const Samples all = make_samples(6 * group.size(), Mlp::kInput, DType::kFloat64, 0);
      for (int64_t index = 0; index < 2; ++index) {
        net->zero_grad();
        alone->zero_grad();
        auto step = make_step(all, group.rank(), group.size(), 3, index);
        for (auto& m : replicas.accumulate(step)) {
          freeze(*net, frozen[static_cast<size_t>(m.index % 3)]);
          replicas.backward(net->loss(m.x, m.y, m.index), m.size());
        }
        for (int64_t i = 0; i < 3 * group.size(); ++i) {
          freeze(*alone, frozen[static_cast<size_t>(i % 3)]);
          const auto m = part(all, i, 3 * group.size());
          (alone->loss(m.x, m.y, i) * (static_cast<double>(m.size()) / all.x.size(0))).backward();
        }
        expect_same_gradients(*net, *alone, 1e-13);
        expect_same_bits(group, gradients_of(*net));
      }
    }
  }
}

// What requires grad on any rank is reduced on all: the others contribute nothing.
void unfrozen_on_one_rank(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kBucketEach}) {
    for (const int only : {0, group.size() - 1}) {
      const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
      freeze(*net, "fc1");
      DataParallel replicas(*net, share_of(group), options);
      for (int64_t index = 0; index < 4; ++index) {
        SCOPED_TRACE(index);
        const bool unfrozen = index == 1 || index == 2;
        freeze(*net, unfrozen && group.rank() == only ? "" : "fc1");
        net->zero_grad();
        alone->zero_grad();
        const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, index);
        auto step = make_step(all, group.rank(), group.size(), 1, index);
        run_step(replicas, *net, step);
        for (int i = 0; i < group.size(); ++i) {
          freeze(*alone, unfrozen && i == only ? "" : "fc1");
          const auto m = part(all, i, group.size());
          (alone->loss(m.x, m.y, i) * (1.0 / group.size())).backward();
        }
        EXPECT_EQ(net->fc1.weight.grad().defined(), unfrozen);
        expect_same_gradients(*net, *alone, 1e-13);
        expect_same_bits(group, gradients_of(*net));
      }
    }
  }
}

// Buckets in which nothing is trained stay at home, from the step on in which all ranks know.
void frozen_parameters_are_not_reduced(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  const auto recorder = std::make_shared<RecordingGroup>(group);
  freeze(*net, "fc1");
  DataParallel replicas(*net, recorder, kBucketEach);
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  int64_t index = 0;
  const auto reductions = [&](const std::string& frozen) {
    freeze(*net, frozen);
    auto step = make_step(all, group.rank(), group.size(), 2, index++);
    recorder->events.clear();
    run_step(replicas, *net, step);
    const auto& events = recorder->events;
    const auto all_reduces = std::count(events.begin(), events.end(), "all_reduce");
    // After the first step the order of the gradients is broadcast.
    EXPECT_EQ(std::ssize(events) - all_reduces, index == 1 && group.size() > 1 ? 1 : 0);
    return all_reduces;
  };
  EXPECT_EQ(reductions("fc1"), 4);
  EXPECT_EQ(replicas.buckets().size(), 4u) << "memory for frozen parameters";
  EXPECT_EQ(reductions("fc1.weight"), 5);
  EXPECT_EQ(reductions("fc1.weight"), 5);
  EXPECT_EQ(reductions(""), 6);
  EXPECT_EQ(reductions("fc3"), 6);
  EXPECT_EQ(reductions("fc3"), 4);
  // Awake, they overlap with backward like the others.
  freeze(*net, "");
  reductions("");
  std::vector<autograd::HookHandle> hooks;
  bool before_the_end = false;
  hooks.push_back(net->fc1.weight.register_hook([&](const Tensor&) {
    before_the_end = !recorder->events.empty();
    return Tensor();
  }));
  reductions("");
  EXPECT_TRUE(before_the_end);
  // A frozen parameter in a bucket does not hold it up.
  before_the_end = false;
  reductions("fc3.bias");
  EXPECT_TRUE(before_the_end);
}

// A step that fails leaves no gradient in a bucket that has not been made, and the next one works.
void failure_with_an_unfrozen_parameter(ProcessGroup& group) {
  for (const int64_t bad : {0, 1}) {
    const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
    freeze(*net, "fc2");
    DataParallel replicas(*net, share_of(group), kBucketEach);
    freeze(*net, "");
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
    auto step = make_step(all, group.rank(), group.size(), 2, 0);
    const auto fail_in = [&](int64_t micro) {
      int64_t k = 0;
      for (auto& m : replicas.accumulate(step)) {
        autograd::HookHandle hook;
        if (group.rank() == 0 && k++ == micro) {
          hook = net->fc1.weight.register_hook(
              [](const Tensor&) -> Tensor { throw std::runtime_error("no"); });
        }
        replicas.backward(net->loss(m.x, m.y, m.index), m.size());
      }
    };
    EXPECT_THROW(fail_in(bad), std::exception);
    for (const auto& [name, p] : net->named_parameters()) EXPECT_FALSE(p.grad().defined()) << name;
    step = make_step(all, group.rank(), group.size(), 2, 1);
    run_step(replicas, *net, step);
    backward_alone(*alone, all, 2 * group.size(), 1);
    expect_same_gradients(*net, *alone, 1e-13);
  }
}

// A parameter that is frozen here and trained there belongs to the other; and what cannot be
// reduced cannot be unfrozen.
void unfrozen_beside_another_data_parallel(ProcessGroup& group) {
  const auto message_of = [](const std::function<void()>& act) -> std::string {
    try {
      act();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const auto net = make_net<Mlp>(DType::kFloat32);
  freeze(*net, "fc1");
  DataParallel older(*net, share_of(group));
  freeze(*net, "fc2 fc3");
  {
    DataParallel newer(net->fc1, share_of(group));
    newer.backward(sum(net->fc1.weight) * 2.0);
    has(message_of([&] { older.backward(sum(net->fc1.weight)); }),
        "parameter fc1.bias no longer arrives");
    EXPECT_EQ(net->fc1.weight.grad().to_vector(), std::vector<double>(40, 2.0));
  }
  freeze(*net, "fc2");
  {
    // Frozen, it goes to the newest all the same, and the old one hears of it.
    DataParallel newest(*net, share_of(group));
    freeze(*net, "");
    newest.backward(sum(net->fc2.weight) * 3.0);
    EXPECT_EQ(net->fc2.weight.grad().to_vector(), std::vector<double>(56, 3.0));
    has(message_of([&] { older.backward(sum(net->fc2.weight)); }), "no longer arrives");
  }
  const Tensor half = ones({2}, {DType::kBFloat16});
  DataParallel mixed({{"w", ones({2}).requires_grad_()}, {"half", half}}, {}, share_of(group));
  half.requires_grad_();
  has(message_of([&] { mixed.backward(sum(half.to(DType::kFloat32))); }),
      "parameter half has been unfrozen and is bfloat16");
}

}  // namespace lockstep::distributed::testing
